from __future__ import annotations

import pytest
import timm
import torch
import torchvision

from zoo import Chain, Signal, UserError
from zoo.chain.signals import grid_of, pool, to_grid

SIGNALS = {
    "NCHW": Signal("NCHW", 6, (7, 5)),
    "NHWC": Signal("NHWC", 6, (7, 5)),
    "NLC": Signal("NLC", 6, (7, 5)),
    "NLC with prefix": Signal("NLC", 6, (7, 5), num_prefix_tokens=3),
}


def same_image(signal: Signal, image: torch.Tensor) -> torch.Tensor:
    """The image (N, C, H, W) in the signal's layout, behind prefix tokens of noise."""
    if signal.layout == "NCHW":
        return image
    if signal.layout == "NHWC":
        return image.permute(0, 2, 3, 1)
    prefix = torch.randn(len(image), signal.num_prefix_tokens, signal.channels)
    tokens = [image[:, :, row, column] for row in range(image.shape[2]) for column in range(image.shape[3])]
    return torch.cat([prefix, torch.stack(tokens, dim=1)], dim=1)


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("grid", [(7, 5), (14, 10)])
def test_every_layout_is_the_same_image(name: str, grid: tuple[int, int]) -> None:
    signal = SIGNALS[name]
    image = torch.randn(2, 6, *grid)
    x = same_image(signal, image)
    if grid == signal.grid:
        assert tuple(x.shape) == signal.shape(2)
    assert grid_of(x, signal) == grid
    assert torch.equal(to_grid(x, signal), image)
    torch.testing.assert_close(pool(x, signal), image.mean((2, 3)))


def test_vectors_have_a_grid_of_one_position() -> None:
    signal = Signal("NC", 6, None)
    x = torch.randn(*signal.shape(4))
    assert torch.equal(to_grid(x, signal), x[:, :, None, None])
    assert torch.equal(pool(x, signal), x)


def test_the_grid_of_tokens_keeps_the_native_aspect_ratio() -> None:
    square = Signal("NLC", 4, (14, 14), num_prefix_tokens=1)
    assert grid_of(torch.empty(1, 1 + 18 * 18, 4), square) == (18, 18)
    assert grid_of(torch.empty(1, 13 * 26, 4), Signal("NLC", 4, (7, 14))) == (13, 26)
    with pytest.raises(UserError, match=r"252 tokens may be a grid of \[\(14, 18\), \(18, 14\)\]"):
        grid_of(torch.empty(1, 1 + 14 * 18, 4), square)


def test_short_text() -> None:
    assert str(Signal("NLC", 192, (14, 14), num_prefix_tokens=1, stride=16.0)) == "NLC 192 @14x14 +1"
    assert str(Signal("NCHW", 64, (56, 48))) == "NCHW 64 @56x48"
    assert str(Signal("NC", 10, None)) == "NC 10"


def body(name: str, height: int = 64, width: int = 64, **kwargs: object) -> list[Signal]:
    """The signals at the cuts between stem and head."""
    torch.manual_seed(0)
    if name.startswith("torchvision:"):
        network = torchvision.models.get_model(name.removeprefix("torchvision:"), weights=None)
    else:
        network = timm.create_model(name, **kwargs)
    chain = Chain.from_network(network, torch.zeros(1, 3, height, width))
    assert chain.signal(0) == Signal("NCHW", 3, (height, width), stride=1.0)
    assert chain.signal(len(chain)) == Signal("NC", chain.signal(len(chain)).channels, None)
    return [chain.signal(index) for index in range(1, len(chain))]


def summary(signals: list[Signal]) -> list[str]:
    """Texts, repetitions left out."""
    texts = [f"{signal} /{signal.stride:g}" for signal in signals]
    return list(dict.fromkeys(texts))


@pytest.mark.parametrize(
    ("name", "kwargs", "num_prefix_tokens"),
    [
        ("vit_tiny_patch16_224", {}, 1),
        ("deit_tiny_distilled_patch16_224", {}, 2),
        ("vit_small_patch16_dinov3", {}, 5),
        ("vit_base_patch16_clip_224", {"embed_dim": 48, "num_heads": 3}, 1),
    ],
)
def test_tokens_on_a_grid_that_is_not_square(name: str, kwargs: dict, num_prefix_tokens: int) -> None:
    signals = body(name, 96, 64, img_size=(96, 64), depth=2, **kwargs)
    assert {(s.layout, s.grid, s.num_prefix_tokens, s.stride) for s in signals} == {
        ("NLC", (6, 4), num_prefix_tokens, 16.0)
    }


def test_convolutional_network_on_an_image_that_is_not_square() -> None:
    assert summary(body("resnet18", 96, 64)) == [
        *("NCHW 64 @24x16 /4", "NCHW 128 @12x8 /8", "NCHW 256 @6x4 /16", "NCHW 512 @3x2 /32")
    ]


@pytest.mark.parametrize("channels", [16, 24])
def test_swin_has_its_channels_last_even_where_they_are_as_many_as_rows(channels: int) -> None:
    kwargs = {"embed_dim": channels, "depths": (1, 1, 2), "num_heads": (1, 2, 4), "window_size": 2}
    signals = body("swin_tiny_patch4_window7_224", img_size=64, **kwargs)
    assert summary(signals) == [
        *(f"NHWC {channels} @16x16 /4", f"NHWC {2 * channels} @8x8 /8", f"NHWC {4 * channels} @4x4 /16")
    ]


def test_networks_that_change_the_layout_on_the_way() -> None:
    caformer = summary(body("caformer_s18", 96, 64))
    assert caformer == [
        *("NCHW 64 @24x16 /4", "NCHW 128 @12x8 /8", "NLC 320 @6x4 /16", "NCHW 320 @6x4 /16", "NLC 512 @3x2 /32")
    ]
    maxvit = body("maxvit_rmlp_pico_rw_256", img_size=64, depths=(1, 1, 1, 1))
    assert {signal.layout for signal in maxvit} == {"NCHW", "NHWC"}
    assert all(signal.grid[0] * signal.stride == 64 and signal.grid[0] == signal.grid[1] for signal in maxvit)
    assert all(signal.channels in (32, 64, 128, 256) for signal in maxvit)


def test_tokens_that_are_subsampled() -> None:
    assert summary(body("levit_128s", 224, 224)) == [*("NLC 128 @14x14 /16", "NLC 256 @7x7 /32", "NLC 384 @4x4 /56")]


def test_class_token_that_joins_late() -> None:
    signals = body("xcit_nano_12_p16_224", 96, 96, depth=2)
    assert [(signal.grid, signal.num_prefix_tokens) for signal in signals] == [
        *(((6, 6), 0), ((6, 6), 0), ((6, 6), 1), ((6, 6), 1), ((6, 6), 1))
    ][: len(signals)]


def test_positions_in_another_arrangement_are_no_image() -> None:
    """NesT works on (blocks, positions in a block): it is cut only where the image is whole."""
    sizes = {"img_size": 64, "embed_dims": (12, 24, 48), "num_heads": (1, 2, 3), "depths": (2, 2, 2)}
    chain = Chain.from_network(timm.models.nest.Nest(**sizes), torch.zeros(1, 3, 64, 64))
    grids = [chain.signal(index).grid for index in range(1, len(chain))]
    assert list(dict.fromkeys(grids)) == [(16, 16), (8, 8), (4, 4)]
