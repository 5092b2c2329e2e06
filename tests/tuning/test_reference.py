from __future__ import annotations

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from tuning_stand_ins import Blobs, StandIn

from tuning.fit import tune
from tuning.losses import distillation
from tuning.reference import Reference, ReferenceOutputs
from tuning.settings import HeadSettings, OptimizerSettings, ScheduleSettings, TuningSettings
from zoo.chain import Costs
from zoo.chain.modes import eval_mode
from zoo.entries import InputSpec
from zoo.errors import UserError

SPEC = InputSpec(1, 8, 8, (0.0,), (1.0,))
CPU = torch.device("cpu")


class Images(Blobs):
    """Blobs that are made for whoever asks, as a data module's images are."""

    input = SPEC

    def image_batches(self, split, input, limit=None, *, batch_size, start=0, step=1):
        for batch in super().image_batches(split, input, limit, batch_size=batch_size, start=start, step=step):
            yield (batch - input.mean[0]) / input.std[0]


def teacher(num_classes: int = 3, spec: InputSpec = SPEC, classes=("0", "1", "2")) -> Reference:
    return Reference("expert", StandIn(num_classes, seed=5).eval(), spec, Costs(7, 9), tuple(classes))


def test_distillation_is_the_divergence_by_hand():
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]], dtype=torch.float64, requires_grad=True)
    taught = torch.tensor([[2.0, 1.0, 1.0], [0.0, 4.0, 0.0]])
    p, q = (taught.double() / 3).softmax(1), (logits / 3).softmax(1)
    expected = 9 * (p * (p.log() - q.log())).sum()
    loss = distillation(logits, taught, temperature=3.0)
    assert loss.item() == pytest.approx(expected.item())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.allclose(gradient, 3 * (q - p))
    assert distillation(taught, taught, temperature=3.0).item() == pytest.approx(0, abs=1e-6)
    assert distillation(taught + 5, taught, temperature=3.0).item() == pytest.approx(0, abs=1e-5)
    weights = torch.tensor([0.25, 2.0])
    each = torch.stack([distillation(z[None], t[None], temperature=3.0) for z, t in zip(logits, taught, strict=True)])
    assert distillation(logits, taught, temperature=3.0, weights=weights).item() == pytest.approx(
        (weights * each).sum().item()
    )


def test_columns_go_by_name():
    assert teacher(classes=("2", "0", "1")).columns(["0", "1", "2"]) == [1, 2, 0]
    assert teacher(classes=("2", "0", "1")).columns(["1"]) == [2]
    with pytest.raises(UserError, match="lacks '7', '8'"):
        teacher().columns(["0", "7", "8"])
    with pytest.raises(UserError, match="list its `classes`"):
        teacher(classes=()).columns(["0"])


def test_as_many_names_as_outputs_are_asked_for():
    image = SPEC.example()
    teacher().require_outputs(image)
    teacher(classes=()).require_outputs(image)
    for classes in (("0", "1"), ("0", "1", "2", "3")):
        with pytest.raises(UserError, match=rf"has 3 outputs for an image and {len(classes)} class names"):
            teacher(classes=classes).require_outputs(image)


def test_outputs_are_computed_once_with_its_own_preprocessing_or_for_each_batch():
    data, spec = Images(), InputSpec(1, 8, 8, (0.5,), (0.25,))
    expert = teacher(spec=spec)
    images = data.splits["train"][0]
    expected = expert.network((images - 0.5) / 0.25)[:, [1, 0]].detach()
    index = torch.tensor([4, 0, 9])
    once = ReferenceOutputs(expert, data, "train", is_varied=False, max_bytes=400, device=CPU, columns=[1, 0])
    assert once.is_computed_once
    assert torch.allclose(once(torch.zeros(3, 1, 8, 8), index), expected[index], atol=1e-5)
    for is_varied, max_bytes in ((True, 400), (False, 399)):  # of 50 images, 2 outputs each
        each = ReferenceOutputs(
            expert, data, "train", is_varied=is_varied, max_bytes=max_bytes, device=CPU, columns=[1, 0]
        )
        assert not each.is_computed_once
        inside = images[index].clamp(0, 1)  # a batch is converted within the range of images
        assert torch.allclose(each(inside, index), expert.network((inside - 0.5) / 0.25)[:, [1, 0]].detach(), atol=1e-5)
        assert torch.allclose(each.scale(), once.scale())
    assert torch.allclose(once.scale(), expert.network((images - 0.5) / 0.25)[:, [1, 0]].std(0, correction=0))


@pytest.mark.parametrize("settings", [{"mode": "freeze"}, {"mode": "full", "mixup_alpha": 0.4}, {"loss": "loo"}])
def test_a_teacher_is_followed_and_stays_as_it_is(settings, tmp_path):
    expert, data = teacher(), Images()
    before = {name: tensor.clone() for name, tensor in expert.network.state_dict().items()}
    modes = [module.training for module in expert.network.modules()]
    tuning = TuningSettings(
        **{"loss": "cross_entropy", **settings},
        num_epochs=8,
        guard=False,
        teacher_weight=1.0,
        head=HeadSettings(refit="never"),
    )
    network, images, divergences = StandIn(), data.splits["train"][0], []

    class Divergence(pl.Callback):
        def on_train_start(self, trainer, module):
            with torch.no_grad(), eval_mode(network):
                wanted = expert.network(images).softmax(1)
                divergences.append(F.kl_div(network(images).log_softmax(1), wanted, reduction="batchmean").item())

        on_train_end = on_train_start

    optimizer = OptimizerSettings(learning_rate=0.03, block_scale=0.05)
    tune(network, data, tuning, run_dir=tmp_path, teacher=expert, optimizer=optimizer, callbacks=[Divergence()])
    assert all(torch.equal(tensor, before[name]) for name, tensor in expert.network.state_dict().items())
    assert [module.training for module in expert.network.modules()] == modes
    assert all(parameter.grad is None for parameter in expert.network.parameters())
    assert divergences[1] < (0.5 if tuning.loss == "cross_entropy" else 1.0) * divergences[0]


def test_outputs_that_take_too_much_are_computed_for_each_batch_of_images(tmp_path, caplog):
    data = Images()
    data.splits = {split: (images.clamp(0, 1), labels) for split, (images, labels) in data.splits.items()}
    networks = []
    for max_bytes in (1 << 20, 4 * 50 * 3 - 1):  # the second holds some cached stage, and not the teacher's outputs
        tuning = TuningSettings(mode="probe", loss="cross_entropy", num_epochs=1, max_cache_bytes=max_bytes)
        with caplog.at_level("INFO"):
            networks.append(StandIn(dropout=0.0))
            tune(networks[-1], data, tuning, run_dir=tmp_path, teacher=teacher())
    told = [
        record.message for record in caplog.records if record.message.startswith(("computed the", "teacher expert"))
    ]
    assert [line.partition(" (")[0].partition("; ")[2] for line in told] == [
        "",
        "its outputs are computed once",
        "its outputs are computed for every batch, as it is made for the tuned network: tuning.max_cache_bytes is "
        "below 600",
    ]
    assert torch.allclose(networks[0].head.weight, networks[1].head.weight, atol=1e-4)
    with pytest.raises(UserError, match="leaves no images for a teacher"):
        tune(StandIn(), data, replace(tuning, cache_prefix="always"), run_dir=tmp_path, teacher=teacher())


def test_the_loss_weighs_labels_and_teacher(tmp_path):
    expert, data = teacher(), Images(num_train=16)
    tuning = TuningSettings(
        mode="probe",
        loss="cross_entropy",
        num_epochs=1,
        guard=False,
        teacher_weight=0.25,
        teacher_temperature=2.0,
        head=HeadSettings(initialisation="random", refit="never"),
    )
    network = StandIn(dropout=0.0)
    images, labels = data.splits["train"]
    logits = network(images).detach() if not network.eval().training else None
    optimizer = OptimizerSettings(name="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.0)
    schedule = ScheduleSettings(name="constant", warmup_fraction=0.0)
    bias = network.head.bias.detach().clone()
    options = {"optimizer": optimizer, "schedule": schedule, "run_dir": tmp_path}
    tune(network, data, tuning, teacher=expert, **options)
    taught = expert.network(images).detach()
    hard = logits.softmax(1) - F.one_hot(labels, 3)
    soft = 2 * ((logits / 2).softmax(1) - (taught / 2).softmax(1))
    assert torch.allclose(network.head.bias, bias - (0.75 * hard + 0.25 * soft).mean(0), atol=1e-5)


def test_a_teacher_that_lacks_classes_is_refused_before_anything(tmp_path):
    network = StandIn()
    before = network.head.weight.clone()
    with pytest.raises(UserError, match="lacks '2'"):
        tune(network, Images(), TuningSettings(), run_dir=tmp_path, teacher=teacher(2, classes=("0", "1")))
    assert torch.equal(network.head.weight, before)
