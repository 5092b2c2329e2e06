from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from zoo.chain import Chain
from zoo.chain.batches import Taps, map_batches, require_finite, run_in_batches
from zoo.errors import UserError


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    module[2].eval()
    return module


def test_every_row_is_what_one_pass_in_eval_mode_gives(module: nn.Module) -> None:
    inputs, before = torch.randn(7, 3), {name: tensor.clone() for name, tensor in module.state_dict().items()}
    outputs = run_in_batches(module, inputs, batch_size=3)
    assert not outputs.requires_grad
    assert [part.training for part in module] == [True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    torch.testing.assert_close(outputs, module.eval()(inputs).detach())


def test_batches_may_come_one_by_one(module: nn.Module) -> None:
    inputs = torch.randn(7, 3)
    streamed = run_in_batches(module, (part for part in inputs.split(3)), batch_size=1)
    assert torch.equal(streamed, run_in_batches(module, inputs, batch_size=3))


def test_a_function_of_several_outputs_gives_a_tuple() -> None:
    inputs = torch.arange(5.0)[:, None]
    for given in (inputs, [inputs[:2], inputs[2:]]):
        doubled, flags = run_in_batches(lambda x: (2 * x, x > 2), given, batch_size=2)
        assert torch.equal(doubled, 2 * inputs)
        assert torch.equal(flags, inputs > 2)


def test_batches_with_their_outputs_one_at_a_time(module: nn.Module) -> None:
    total = sum(float(outputs.sum()) for _, outputs in map_batches(module, torch.ones(5, 3), batch_size=2))
    assert total == pytest.approx(float(module.eval()(torch.ones(5, 3)).sum().detach()), rel=1e-5)
    assert torch.is_grad_enabled()


def test_products_are_in_full_precision_inside_and_as_they_were_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return x

    for _ in map_batches(look, torch.zeros(2, 3), batch_size=1):
        seen.append(torch.backends.cudnn.allow_tf32)
    assert seen == [False, True, False, True]


def test_no_inputs_are_refused(module: nn.Module) -> None:
    with pytest.raises(ValueError, match="no inputs"):
        run_in_batches(module, [], batch_size=2)


def test_taps_read_what_comes_out_of_every_module(module: nn.Module) -> None:
    inputs, means = torch.randn(7, 3), []
    taps = Taps(module, [lambda x: x.sum(1), means.append, lambda x: x])
    sums, _, outputs = taps(inputs[:2])
    torch.testing.assert_close(sums, module[0](inputs[:2]).sum(1))
    torch.testing.assert_close(outputs, module(inputs[:2]))
    means.clear()
    read = run_in_batches(Taps(module, [lambda x: x, lambda x: x, lambda x: x]), inputs, batch_size=3)
    assert torch.equal(read[-1], run_in_batches(module, inputs, batch_size=3))


def test_features_that_are_not_finite_name_network_and_node() -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    chain = Chain.from_network(nn.Sequential(*layers, nn.Linear(4, 2)).eval(), torch.zeros(1, 3, 8, 8), name="small")
    features = torch.ones(2, 4)
    assert require_finite(features, chain, 1) is features
    features[1, 2] = torch.inf
    with pytest.raises(UserError, match=rf"'small': node 0 \({chain.nodes[0].name}\) gives NaN or infinity"):
        require_finite(features, chain, 1)
    with pytest.raises(UserError, match="'small': its images hold NaN or infinity"):
        require_finite(features, chain, 0)
