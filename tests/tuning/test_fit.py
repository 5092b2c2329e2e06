from __future__ import annotations

import copy
import logging
import re

import pytest
import pytorch_lightning as pl
import torch
from tuning_stand_ins import Blobs, StandIn

from tuning.fit import tune
from tuning.settings import HeadSettings, OptimizerSettings, TuningSettings
from zoo.errors import UserError

NO_REFIT = HeadSettings(refit="never")


def evaluate(network, split):
    images, labels = split
    with torch.no_grad():
        logits = network(images)
    return (
        (logits.argmax(1) == labels).double().mean().item(),
        torch.nn.functional.cross_entropy(logits, labels).item(),
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "loo"])
@pytest.mark.parametrize(("mode", "trained"), [("freeze", ("adapter.", "head.")), ("probe", ("head.",))])
def test_every_frozen_tensor_stays_bit_equal(mode, trained, loss, tmp_path):
    network = StandIn()
    before = copy.deepcopy(network.state_dict())
    tuning = TuningSettings(mode=mode, loss=loss, num_epochs=2, guard=False)
    tune(network, Blobs(), tuning, run_dir=tmp_path)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith(trained) for name in changed)


def test_full_tuning_changes_the_weights_of_every_stage_and_the_result_reports_it(tmp_path):
    network, data = StandIn(), Blobs()
    before = copy.deepcopy(network.state_dict())
    tuning = TuningSettings(mode="full", loss="cross_entropy", norm_stats="adaptive", num_epochs=2, guard=False)
    result = tune(network, data, tuning, run_dir=tmp_path)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert result.choice == "refitted"
    assert result.num_trained_parameters == result.num_parameters == sum(p.numel() for p in network.parameters())
    assert not network.training
    accuracy, loss = evaluate(network, data.splits["test"])
    assert result.test_accuracy == pytest.approx(accuracy)
    assert result.test_loss == pytest.approx(loss, rel=1e-4)
    assert result.val_accuracies[result.choice] == pytest.approx(evaluate(network, data.splits["val"])[0])


def test_the_guard_keeps_the_start_when_tuning_destroys_the_network(tmp_path):
    network, data = StandIn(), Blobs()
    tuning = TuningSettings(mode="full", loss="cross_entropy", num_epochs=1, norm_stats="frozen", head=NO_REFIT)
    result = tune(network, data, tuning, optimizer=OptimizerSettings(learning_rate=3.0), run_dir=tmp_path)
    assert result.choice == "start"
    assert result.val_accuracies["start"] > result.val_accuracies["tuned"]
    start = StandIn().state_dict()
    assert all(torch.equal(t, start[name]) for name, t in network.state_dict().items() if "head" not in name)
    accuracy, loss = evaluate(network, data.splits["val"])
    assert result.val_accuracies["start"] == pytest.approx(accuracy)
    assert result.val_losses["start"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("loss", ["cross_entropy", "loo"])
def test_cached_stages_give_the_numbers_of_the_whole_network(loss, tmp_path):
    outcomes = []
    for cache in ("always", "never"):
        network = StandIn()
        tuning = TuningSettings(mode="freeze", loss=loss, norm_stats="frozen", num_epochs=2, cache_prefix=cache)
        result = tune(network, Blobs(), tuning, run_dir=tmp_path / cache, seed=1)
        outcomes.append((result, network.state_dict()))
    (cached, cached_state), (whole, whole_state) = outcomes
    assert cached.choice == whole.choice
    assert cached.val_losses == pytest.approx(whole.val_losses, rel=1e-4)
    for name, tensor in whole_state.items():
        torch.testing.assert_close(cached_state[name], tensor, rtol=1e-4, atol=1e-4)


def test_auto_trains_once_by_the_rule_that_it_names(tmp_path):
    def run(rule):
        steps = Steps()
        tuning = TuningSettings(mode="full", loss="cross_entropy", norm_stats=rule, num_epochs=2, head=NO_REFIT)
        return tune(StandIn(), Blobs(), tuning, run_dir=tmp_path / rule, callbacks=[steps]), steps.count

    result, num_steps = run("auto")
    assert (num_steps, result.epochs) == (2 * 4, 2)
    assert set(result.val_losses) == {"start", "tuned"}
    assert result.val_losses == run(result.norm_stats)[0].val_losses


def test_a_batch_of_one_image_has_no_statistics(tmp_path):
    def run(rule):
        tuning = TuningSettings(mode="full", loss="cross_entropy", norm_stats=rule, num_epochs=1, head=NO_REFIT)
        return tune(StandIn(), Blobs(num_train=6, num_val=6, batch_size=1), tuning, run_dir=tmp_path)

    assert run("auto").norm_stats == "frozen"
    with pytest.raises(UserError, match=r"norm_stats=adaptive needs batches of at least 2 .* dataset\.batch_size=1"):
        run("adaptive")


class Steps(pl.Callback):
    count = 0

    def on_train_batch_end(self, *args):
        self.count += 1


@pytest.mark.parametrize("loss", ["cross_entropy", "loo"])
@pytest.mark.parametrize("mode", ["full", "freeze"])
def test_no_result_depends_on_what_is_kept_in_memory(loss, mode, tmp_path):
    def run(**memory):
        network = StandIn()
        tuning = TuningSettings(mode=mode, loss=loss, norm_stats="frozen", num_epochs=2, **memory)
        return tune(network, Blobs(), tuning, run_dir=tmp_path, seed=1).val_losses, network.state_dict()

    (expected, state), (losses, other) = run(cache_prefix="never"), run(max_cache_bytes=0)
    assert losses == expected
    assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())


@pytest.mark.parametrize(("rule", "is_kept"), [("auto", True), ("ridge", False)])
def test_a_learnt_head_is_the_start_unless_it_is_to_be_solved_anew(rule, is_kept, tmp_path):
    network = StandIn()
    with torch.no_grad():
        network.head.weight.normal_(generator=torch.Generator().manual_seed(5))
    before, data = copy.deepcopy(network.state_dict()), Blobs()
    expected = evaluate(network.eval(), data.splits["test"])
    tuning = TuningSettings(mode="full", num_epochs=0, head=HeadSettings(initialisation=rule))
    result = tune(network, data, tuning, run_dir=tmp_path, learnt=True)
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items()) == is_kept
    assert (result.test_accuracy == pytest.approx(expected[0])) == is_kept


def test_a_learnt_head_is_not_thrown_away(tmp_path):
    tuning = TuningSettings(head=HeadSettings(initialisation="random"))
    with pytest.raises(UserError, match=r"initialisation=random would throw away"):
        tune(StandIn(), Blobs(), tuning, run_dir=tmp_path, learnt=True)


def test_without_epochs_the_closed_form_is_the_result(tmp_path):
    network = StandIn()
    result = tune(network, Blobs(), TuningSettings(mode="full", num_epochs=0), run_dir=tmp_path)
    assert (result.choice, result.loss, result.epochs) == ("start", "none", 0)
    assert not (tmp_path / "checkpoints").exists()


def test_the_global_random_state_is_left_alone(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    tune(StandIn(), Blobs(), TuningSettings(mode="full", num_epochs=1), run_dir=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_more_images_than_the_closed_form_takes(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    head = HeadSettings(max_images=20)
    result = tune(StandIn(), Blobs(), TuningSettings(mode="freeze", num_epochs=1, head=head), run_dir=tmp_path)
    assert result.loss == "cross_entropy"
    assert "refitted" not in result.val_accuracies
    assert "head solved on 20 of 50 training images (tuning.head.max_images)" in caplog.messages


def test_the_solved_head_needs_every_image(tmp_path):
    tuning = TuningSettings(mode="full", loss="loo", head=HeadSettings(max_images=20))
    with pytest.raises(UserError, match=r"20 of 50 are let in: type tuning\.loss=cross_entropy"):
        tune(StandIn(), Blobs(), tuning, run_dir=tmp_path)


def test_the_test_split_can_be_left_unseen(tmp_path):
    data = Blobs()
    del data.splits["test"]
    result = tune(StandIn(), data, TuningSettings(mode="probe", num_epochs=0), run_dir=tmp_path, test=False)
    assert result.test_accuracy is None


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (None, "the network's head has 4 outputs, blobs has 3 classes"),
        (("0", "2", "1"), "in another order: output 1 is '2', label 1 of the data is '1' (2 differ)"),
        (("0", "1", "cat"), "with other names: output 2 is 'cat'"),
    ],
)
def test_a_head_that_does_not_fit_the_data(classes, message, tmp_path):
    network = StandIn(num_classes=3 if classes else 4)
    network.class_names = classes
    with pytest.raises(UserError, match=re.escape(message)):
        tune(network, Blobs(), TuningSettings(), run_dir=tmp_path)


@pytest.mark.parametrize(("split", "name"), [("train", "training"), ("val", "validation"), ("test", "test")])
def test_a_split_without_images(split, name, tmp_path):
    data = Blobs()
    data.splits[split] = tuple(tensor[:0] for tensor in data.splits[split])
    with pytest.raises(UserError, match=f"blobs has no {name} images"):
        tune(StandIn(), data, TuningSettings(), run_dir=tmp_path)


def test_the_stage_whose_outputs_are_not_finite_is_named(tmp_path):
    network = StandIn()
    with torch.no_grad():
        network.second[0].bias[3] = float("nan")
    with pytest.raises(UserError, match="second of the network gives values that are not finite"):
        tune(network, Blobs(), TuningSettings(cache_prefix="never"), run_dir=tmp_path)


def test_divergence_is_told_in_one_line(tmp_path):
    tuning = TuningSettings(mode="full", loss="cross_entropy", num_epochs=3, norm_stats="frozen")
    optimizer = OptimizerSettings(name="sgd", learning_rate=1000.0)
    with pytest.raises(UserError, match=r"loss is (nan|inf) .*optimizer\.learning_rate"):
        tune(StandIn(), Blobs(), tuning, optimizer=optimizer, run_dir=tmp_path)


def test_augmented_images_are_not_cached(tmp_path):
    data = Blobs()
    data.augmentation = "affine"
    with pytest.raises(UserError, match=r"tuning\.cache_prefix=always cannot hold images that are augmented"):
        tune(StandIn(), data, TuningSettings(cache_prefix="always"), run_dir=tmp_path)
