"""Networks that return more in training than in evaluation: the chain is their main path in both modes."""

from __future__ import annotations

import copy
from collections import OrderedDict, namedtuple
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zoo import Chain, UserError

Outputs = namedtuple("Outputs", "logits aux")


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x):
        return x + self.norm(self.conv(x)).relu()


class WithAuxiliary(nn.Module):
    """A second classifier in the middle, in training alone; ``kind`` is how both outputs are returned."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.first, self.second, self.third = Residual(), Residual(), Residual()
        self.aux = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
        self.aux_head, self.head = nn.Linear(4, 5), nn.Linear(8, 5)

    def forward(self, x):
        x = self.second(self.first(self.stem(x)))
        aux = None
        if self.training:
            aux = self.aux_head(self.aux(x).mean((2, 3)))
        x = self.third(x).mean((2, 3))
        x = self.head(F.dropout(x, 0.2, self.training))
        if not self.training:
            return x
        return {tuple: (x, aux), Outputs: Outputs(x, aux), dict: {"out": x, "aux": aux}}[self.kind]


@pytest.mark.parametrize("kind", [tuple, Outputs, dict])
def test_the_main_path_is_the_network_in_both_modes(kind: type) -> None:
    torch.manual_seed(0)
    network = WithAuxiliary(kind)
    chain = Chain.from_network(network, torch.zeros(1, 3, 20, 16))
    assert [node.kind for node in chain.nodes] == ["stem", "block", "block", "block", "head"]
    assert chain.costs.num_params == sum(parameter.numel() for parameter in network.parameters())
    x = torch.randn(4, 3, 20, 16)
    pieces = [copy.deepcopy(chain.block(i, i + 1)).train() for i in range(len(chain))]
    twin = copy.deepcopy(network).train()
    torch.manual_seed(1)
    outputs = twin(x)
    torch.manual_seed(1)
    y = x
    for piece in pieces:
        y = piece(y)
    assert torch.equal(y, outputs["out"] if kind is dict else outputs[0])
    expected, given = twin.state_dict(), network.state_dict()
    for piece in pieces:
        for key, value in piece.state_dict().items():
            assert torch.equal(value, given[key] if key.startswith("aux.") else expected[key]), key


def test_another_main_path_in_training_is_still_refused() -> None:
    class Noisy(WithAuxiliary):
        def forward(self, x):
            outputs = super().forward(x)
            return (outputs[0].relu(), outputs[1]) if self.training else outputs

    with pytest.raises(UserError, match="takes another way in training mode"):
        Chain.from_network(Noisy(tuple), torch.zeros(1, 3, 20, 16))


class Backbone(nn.Module):
    """Gives its last map and two poolings of it side by side, in a dict; the map is read inside alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 3, 2), nn.ModuleList(Residual() for _ in range(4))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return {"last": x, "pooled": torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1), "weights": torch.ones(3)}


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.backbone(x)["pooled"])


class Stages(nn.Module):
    """Gives the maps of all stages in a list, of which the classifier takes the last."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()

    def forward(self, x):
        maps = [self.backbone.stem(x)]
        for block in self.backbone.blocks:
            maps.append(block(maps[-1]))
        return maps


class ClassifierOfStages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages, self.head = Stages(), nn.Linear(16, 5)

    def forward(self, x):
        last = self.stages(x)[-1]
        return self.head(torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1))


class TwoHeads(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(16, 5)

    def forward(self, x):
        found = self.backbone(x)
        return (self.head(found["pooled"]) + self.second(found["pooled"])) / 2, found["last"]


class Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)[0]


@pytest.mark.parametrize(
    "make",
    [Classifier, ClassifierOfStages, lambda: Logits(TwoHeads()), lambda: nn.Sequential(Logits(TwoHeads()))],
)
def test_outputs_that_do_not_lead_to_the_logits_do_not_count(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = make().eval()
    chain = Chain.from_network(network, torch.zeros(1, 3, 20, 16))
    assert [node.kind for node in chain.nodes] == ["stem", "block", "block", "block", "block", "head"]
    assert chain.neck_dim == 16
    x = torch.randn(3, 3, 20, 16)
    assert torch.equal(chain.block(2, 6)(chain.block(0, 2)(x)), network(x))


def test_plain_layers_in_a_module_of_their_own_are_nodes() -> None:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.ModuleList(nn.Conv2d(3 if i == 0 else 6, 6, 3) for i in range(5))

        def forward(self, x):
            for layer in self.layer:
                x = layer(x).relu()
            return x.mean((2, 3))

    chain = Chain.from_network(
        nn.Sequential(OrderedDict(body=Layers(), head=nn.Linear(6, 2))), torch.zeros(1, 3, 20, 16)
    )
    assert [node.name for node in chain.nodes] == [*(f"body.layer.{i}" for i in range(5)), "head"]
