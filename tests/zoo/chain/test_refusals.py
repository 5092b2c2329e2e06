"""What is refused, each in one line that says why."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.zoo.chain.custom_networks import (
    Body,
)
from zoo import Chain, UserError


class Pair(Body):
    def forward(self, x):
        return super().forward(x), x


class Named(Body):
    def forward(self, x):
        return {"logits": super().forward(x), "features": x}


class Odd(Exception):
    pass


class Failing(Body):
    def forward(self, x):
        raise Odd("of its own\nkind")


class Reading(Body):
    """Tries to read a pixel, and has a number at hand where it cannot."""

    def forward(self, x):
        try:
            factor = x[0, 0, 0, 0].item()
        except RuntimeError:
            factor = 1.0
        return super().forward(x) * factor


class Quantised(nn.Module):
    __module__ = "torch.ao.nn.quantized"


class Brightness(Body):
    def forward(self, x):
        return super().forward(x if x.mean() > 0 else -x)


class Centred(Body):
    def forward(self, x):
        return super().forward(x - x.mean(0, keepdim=True) + x)


class Sliding(Body):
    def forward(self, x):
        return super().forward(x - x.mean(0, keepdim=True))


class Alone(Body):
    def forward(self, x):
        return super().forward(x) if x.shape[0] > 1 else super().forward(2 * x)


class Crowd(Body):
    def forward(self, x):
        return super().forward(x) if len(x) > 4 else super().forward(2 * x)


class Auxiliary(Body):
    def forward(self, x):
        y = super().forward(x)
        return y + x.mean() if self.training else y


class Sized(Body):
    def forward(self, x):
        return super().forward(x) if x.shape[-1] < 24 else super().forward(x[..., ::2])


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Pair(), r"Pair cannot be sliced: it does not return one tensor but a tuple; wrap it .*self.network\(x\)\[0\]"),
        (Named(), r"one tensor but a dict of logits, features; wrap it .*self.network\(x\)\['logits'\]"),
        (Body().to(torch.bfloat16), "stem.weight is bfloat16, but images are float32; .*network.float"),
        (Body().double(), "stem.weight is float64"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()).double(), "0.weight is float64"),
        (torch.compile(Body()), "Module cannot be sliced: it is compiled; give the network without torch.compile"),
        (Failing(), "Failing cannot be sliced: .* Odd: of its own kind"),
        (Reading(), "Reading cannot be sliced: .*meta"),
        (nn.Sequential(Body(), Quantised()), "1 is quantised .Quantised.; give the network in float32"),
        (Brightness(), "Brightness cannot be sliced: .* without data"),
        (Centred(), "Centred cannot be used: what it says of an image changes with the images beside it"),
        (Sliding(), "Sliding cannot be used: what it says of an image changes with the images beside it"),
        (Alone(), "Alone cannot be sliced: its forward goes another way for another number of images"),
        (Crowd(), "Crowd cannot be sliced: its forward goes another way for another number of images"),
        (Auxiliary(), "Auxiliary cannot be sliced: its forward takes another way in training mode"),
        (nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyConv2d(8, 3)), "lazy parameters"),
        (nn.Sequential(nn.ReLU(), nn.Flatten()), "Sequential is no chain"),
        (nn.Conv2d(4, 8, 3), "Conv2d cannot be sliced: .* another input size"),
    ],
)
def test_refusals_in_one_line(network: nn.Module, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as refusal:
        Chain.from_network(network, torch.zeros(1, 3, 16, 16))
    assert "\n" not in str(refusal.value)


def test_hook_on_a_container_that_changes_the_output_is_refused() -> None:
    network = Body()
    network.blocks.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(UserError, match=r"Body cannot be sliced: .* hook on a container"):
        Chain.from_network(network, torch.zeros(1, 3, 16, 16))


def test_input_for_which_the_network_branches_off_is_refused() -> None:
    network = Sized().eval()
    chain = Chain.from_network(network, torch.zeros(1, 3, 16, 16))
    assert torch.equal(chain.block(0, 6)(torch.ones(1, 3, 20, 20)), network(torch.ones(1, 3, 20, 20)))
    with pytest.raises(UserError, match="another size"):
        chain.block(0, 6)(torch.ones(1, 3, 32, 32))


def test_blocks_outside_the_chain_are_refused() -> None:
    chain = Chain.from_network(Body(), torch.zeros(1, 3, 16, 16))
    for start, stop in ((-1, 2), (2, 2), (3, 7)):
        with pytest.raises(UserError, match=r"Body has nodes 0 to 5: block"):
            chain.block(start, stop)
