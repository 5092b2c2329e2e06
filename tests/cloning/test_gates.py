from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from cloning_stand_ins import ARCHITECTURES, chain, images, randomised
from torch import nn

from cloning.gates import gated, num_gates, pack_gates, split_gates, unpack_gates
from cloning.sites import find_sites
from zoo.chain import Chain
from zoo.digests import digest


@pytest.fixture(params=sorted(ARCHITECTURES))
def family(request: pytest.FixtureRequest) -> Chain:
    return chain(request.param)


def test_open_gates_change_nothing_and_nothing_stays_on_the_network(family: Chain) -> None:
    sites, x = find_sites(family), images(2)
    before = digest(family.network)
    with torch.no_grad():
        expected = family.network(x)
        with gated(family.network, sites, torch.ones(num_gates(sites))):
            assert torch.equal(family.network(x), expected)
        with gated(family.network, sites, torch.zeros(num_gates(sites))):
            assert not torch.equal(family.network(x), expected)
        assert torch.equal(family.network(x), expected)
    assert digest(family.network) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in family.network.modules())


def test_every_site_counts(family: Chain) -> None:
    sites = find_sites(family)
    gates = torch.ones(num_gates(sites), requires_grad=True)
    with gated(family.network, sites, gates):
        outputs = family.network(images(4))
    directions = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((outputs * directions).sum(), gates)
    for site, part in zip(sites, split_gates(gradient, sites), strict=True):
        assert part.abs().max() > 0, f"the output does not depend on the gates at {site.path}"


def test_gates_are_differentiable(family: Chain) -> None:
    network, sites = copy.deepcopy(family.network).double(), find_sites(family)
    n, x = num_gates(sites), images(2).double()
    generator = torch.Generator().manual_seed(2)
    gates = (0.5 + 0.5 * torch.rand(n, generator=generator, dtype=torch.float64)).requires_grad_()

    def output(values: torch.Tensor) -> torch.Tensor:
        with gated(network, sites, values):
            return network(x).square().sum()

    (gradient,) = torch.autograd.grad(output(gates), gates)
    with torch.no_grad():
        for _ in range(3):
            direction = torch.randn(n, generator=generator, dtype=torch.float64) / n**0.5
            step = 1e-6 * direction
            slope = (output(gates + step) - output(gates - step)) / 2e-6
            torch.testing.assert_close(gradient @ direction, slope, rtol=1e-4, atol=1e-6)


def paths(family: str) -> dict[str, tuple[str, int, int]]:
    return {site.path: (site.side, site.num_gates, site.group_size) for site in find_sites(chain(family))}


def test_residual_branches_are_gated_and_shortcuts_are_not() -> None:
    found = paths("resnet")
    assert found["layer2.0.act1"] == ("output", 8, 1)
    assert found["layer2.0.bn2"] == ("output", 8, 1)
    assert not any("downsample" in path or path.startswith(("conv1", "bn1", "fc")) for path in found)
    assert not any(".se." in path for path in paths("regnety"))
    assert not any(".se." in path for path in paths("mobilenet"))


def test_heads_and_hidden_units_of_transformers_and_mixers() -> None:
    found = paths("vit")
    assert found["blocks.0.attn.proj"] == ("input", 3, 8)
    assert found["blocks.0.mlp.act"] == ("output", 96, 1)
    assert len(found) == 2 * 3
    assert paths("swin")["layers.0.blocks.0.attn.proj"] == ("input", 2, 6)
    assert set(paths("mixer")) == {f"blocks.{i}.mlp_{kind}.act" for i in range(3) for kind in ("tokens", "channels")}


def test_a_closed_gate_equals_a_unit_without_weights() -> None:
    resnet, vit, x = chain("resnet"), chain("vit"), images(3)
    closed = {"layer3.0.act1": [1, 5], "layer3.0.bn2": [0]}
    without = copy.deepcopy(resnet.network)
    with torch.no_grad():
        for norm in ("bn1", "bn2"):
            units = closed["layer3.0.act1" if norm == "bn1" else "layer3.0.bn2"]
            module = without.get_submodule(f"layer3.0.{norm}")
            module.weight[units] = 0
            module.bias[units] = 0
    check(resnet, closed, without, x)

    without = copy.deepcopy(vit.network)
    with torch.no_grad():
        without.blocks[1].attn.proj.weight[:, 8:16] = 0
        without.blocks[2].mlp.fc2.weight[:, 7] = 0
    check(vit, {"blocks.1.attn.proj": [1], "blocks.2.mlp.act": [7]}, without, x)


def check(chain: Chain, closed: dict[str, list[int]], without: nn.Module, x: torch.Tensor) -> None:
    sites = find_sites(chain)
    gates = torch.ones(num_gates(sites))
    for site, part in zip(sites, split_gates(gates, sites), strict=True):
        part[closed.get(site.path, [])] = 0
    assert int((gates == 0).sum()) == sum(map(len, closed.values()))
    with torch.no_grad(), gated(chain.network, sites, gates):
        torch.testing.assert_close(chain.network(x), without(x))


def test_a_module_that_runs_twice_is_not_gated_itself() -> None:
    network = randomised(torchvision.models.resnet18(num_classes=3), 0)  # one ReLU object serves a whole block
    found = [site.path for site in find_sites(Chain.from_network(network, torch.zeros(1, 3, 64, 64)))]
    assert found[:2] == ["layer1.0.bn1", "layer1.0.bn2"]
    assert len(found) == 16


def test_plain_networks_are_gated_behind_each_activation() -> None:
    network = nn.Sequential(
        *(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ),
        *(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    )
    sites = find_sites(Chain.from_network(network.eval(), torch.zeros(1, 2, 7, 5)))
    assert {site.num_gates for site in sites} <= {4, 6}
    assert len(sites) >= 2
    assert all(isinstance(network.get_submodule(site.path), nn.ReLU) for site in sites)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 100])
def test_packed_gates_come_back(n: int) -> None:
    gates = (torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.6).float()
    packed = pack_gates(gates)
    assert len(packed) == -(-n // 8)
    assert torch.equal(unpack_gates(packed, n), gates)
