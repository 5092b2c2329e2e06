from __future__ import annotations

import random
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from launch.errors import CONF
from zoo.digests import digest
from zoo.entries import InputSpec, ZooEntry
from zoo.errors import UserError
from zoo.loading import build_network, load_network
from zoo.registry import find_entry, read_zoo, require_files
from zoo.weights import Weights

ZOOS = CONF / "zoo"
EMBEDDED = read_zoo(ZOOS / "embedded.yaml")
GREY = InputSpec(1, 16, 16, (0.5,), (0.5,))
ONE_PIXEL = {"channels": 1, "height": 1, "width": 1, "mean": [0.5], "std": [0.5]}
FACTORIES = """
import random, sys
import numpy as np
import torch
from torch import nn

def network(width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 14 * 14, 2))

def number():
    return 3

def needing(width):
    return network(width)

def leaving():
    sys.exit(0)

class Odd(Exception):
    pass

def odd():
    raise Odd("two\\nlines")

ONLY = network()

def only():
    return ONLY

def broken():
    made = network()
    made[3].bias.data[1] = float("nan")
    return made

def restless():
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    drawn = random.random() + np.random.rand() + torch.rand(()).item()
    random.seed(), np.random.seed(), torch.seed()
    made = network().float()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(drawn)
    return made
"""


@pytest.fixture(autouse=True)
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_factories.py").write_text(FACTORIES)
    (tmp_path / "my_script.py").write_text("raise SystemExit(0)")
    (tmp_path / "my_mistake.py").write_text("def network(:")
    monkeypatch.syspath_prepend(tmp_path)


def entry() -> ZooEntry:
    return ZooEntry("small", "my_factories:network", GREY)


def timm_entry(model: str, **fields: Any) -> ZooEntry:
    return ZooEntry(model, "timm", InputSpec(3, 64, 64, (0.5,) * 3, (0.5,) * 3), model=model, **fields)


def zoo_of(network: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": "mine", "networks": {"net": network}, **fields}


# Networks.


def test_random_weights_depend_on_the_name_alone_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    first, second = load_network(entry()), load_network(entry())
    assert torch.equal(torch.get_rng_state(), before)
    assert digest(first) == digest(second)
    assert digest(first) != digest(load_network(replace(entry(), name="other")))
    assert not first.training


def test_a_factory_draws_from_the_name_alone_and_changes_nothing_global():
    restless = ZooEntry("x", "my_factories:restless", GREY)
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    first = digest(load_network(restless))
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == expected
    assert digest(load_network(restless)) == first
    assert digest(load_network(replace(restless, name="y"))) != first


def test_a_factory_that_gives_one_module_to_two_networks_is_refused():
    kept = load_network(ZooEntry("x", "my_factories:only", GREY))
    with pytest.raises(UserError, match=r"^y: my_factories:only returned the same module again"):
        load_network(ZooEntry("y", "my_factories:only", GREY))
    assert kept is not None


def test_weights_that_are_no_numbers_are_refused_whoever_made_them():
    with pytest.raises(UserError, match=r"3.bias of x holds 1 NaN"):
        load_network(ZooEntry("x", "my_factories:broken", GREY))


@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_builds_timm_and_torchvision_networks(source: str):
    network = (
        load_network(replace(find_entry(f"{source}:mobilenet_v3_small", ZOOS), kwargs={"num_classes": 3}))
        if (source == "torchvision")
        else load_network(timm_entry("test_resnet", kwargs={"num_classes": 3}))
    )
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (timm_entry("resnet81"), "did you mean resnet18"),
        (timm_entry("resnet18.nowhere"), "a1_in1k"),
        (timm_entry("resnet18", weights=Weights(hub="nowhere")), "a1_in1k"),
        (timm_entry("resnet18", kwargs={"colour": True}), "colour"),
        (replace(timm_entry("resnet81"), source="torchvision"), "did you mean resnet18"),
        (replace(timm_entry("resnet18", weights=Weights(hub="V9")), source="torchvision"), "IMAGENET1K_V1"),
        (ZooEntry("x", "my_factories:missing", GREY), "missing"),
        (ZooEntry("x", "no_such_module:factory", GREY), "no_such_module"),
        (ZooEntry("x", "my_factories:number", GREY), "nn.Module"),
        (ZooEntry("x", "my_factories:network", GREY, kwargs={"depth": 3}), "depth"),
        (ZooEntry("x", "my_factories:needing", GREY), "refuses kwargs .none.: TypeError: needing.. missing .* 'width'"),
        (ZooEntry("x", "my_factories:leaving", GREY), "SystemExit: 0"),
        (ZooEntry("x", "my_factories:odd", GREY), "Odd: two lines"),
        (ZooEntry("x", "my_script:network", GREY), "source my_script:network cannot be imported: SystemExit"),
        (ZooEntry("x", "my_mistake:network", GREY), "cannot be imported: SyntaxError"),
    ],
)
def test_refuses_what_cannot_be_built(given: ZooEntry, told: str):
    with pytest.raises(UserError, match=told) as refusal:
        load_network(given)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith(given.name)


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache of the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))


@pytest.mark.parametrize("offline", [True, False])
def test_hub_weights_that_cannot_be_had_name_network_tag_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, no_cache: None, offline: bool
):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(UserError, match=r"https://huggingface.co/timm/test_resnet.r160_in1k and set weights: {file:"):
        load_network(timm_entry("test_resnet", weights=Weights(hub="r160_in1k")))
    given = replace(timm_entry("resnet18", weights=Weights(hub="IMAGENET1K_V1")), source="torchvision")
    with pytest.raises(
        UserError, match=r"resnet18: weights.hub=IMAGENET1K_V1 .*no route.* download them from https://"
    ):
        load_network(given)


@pytest.mark.parametrize("status", [200, 403])
def test_a_hub_that_answers_is_asked_by_the_library_itself(
    monkeypatch: pytest.MonkeyPatch, no_cache: None, status: int
):
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    def create(name: str, **options: Any) -> nn.Module:
        asked.append((name, options["pretrained"]))
        return nn.Identity()

    asked: list[tuple[str, bool]] = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        load_network(timm_entry("test_resnet", weights=Weights(hub="r160_in1k")))
        thread.join()
    assert asked == [("test_resnet.r160_in1k", True)]


def test_hub_weights_out_of_the_cache_need_no_network(monkeypatch: pytest.MonkeyPatch, no_cache: None, tmp_path: Path):
    trained = load_network(timm_entry("test_resnet"))
    page = tmp_path / "models--timm--test_resnet.r160_in1k"
    (page / "snapshots" / "abc").mkdir(parents=True)
    (page / "refs").mkdir()
    (page / "refs" / "main").write_text("abc")
    save_file(trained.state_dict(), page / "snapshots" / "abc" / "model.safetensors")
    monkeypatch.setattr(socket, "getaddrinfo", None)
    given = replace(timm_entry("test_resnet", weights=Weights(hub="r160_in1k")), name="other")
    assert digest(load_network(given)) == digest(trained)
    assert digest(load_network(replace(given, weights=None))) != digest(trained)


# Channels and sizes.


def test_timm_networks_are_built_for_the_channels_and_the_size_of_their_input():
    grey = ZooEntry("x", "timm", InputSpec(1, 96, 64, (0.5,), (0.5,)), model="vit_tiny_patch16_224")
    with torch.device("meta"):
        network = build_network(grey)
        assert network(grey.input.example()).shape == (1, 1000)
    assert network.patch_embed.grid_size == (6, 4)
    assert network.patch_embed.proj.weight.shape[1] == 1


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": "vit_tiny_patch16_224", "input": {"height": 8, "width": 8}}, "refuses images of 8 x 8"),
        ({"model": "coatnet_0_rw_224", "input": {"height": 24, "width": 24}}, "refuses images of 24 x 24"),
        (
            {"model": "vit_tiny_patch16_224", "kwargs": {"img_size": 96}, "input": {"height": 64, "width": 96}},
            "kwargs.img_size is 96, but input is 64 x 96",
        ),
        ({"source": "torchvision", "model": "vit_b_16", "input": {"height": 64, "width": 96}}, "takes square images"),
        (
            {"source": "torchvision", "model": "vit_b_16", "input": {"height": 64}, "weights": {"hub": True}},
            "weights for 224 x 224 alone, not 64 x 224; timm",
        ),
        (
            {"source": "torchvision", "model": "maxvit_t", "input": {"height": 64, "width": 64}},
            r"input_size=\(64, 64\)",
        ),
    ],
)
def test_sizes_that_cannot_be_built_are_refused_when_the_zoo_is_read(fields: dict[str, Any], told: str):
    with pytest.raises(UserError, match=told) as refusal:
        read_zoo(zoo_of({"source": "timm", **fields}))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "vit_tiny_patch16_224", "kwargs": {"dynamic_img_size": True}, "input": {"height": 64, "width": 96}},
        {"model": "swin_tiny_patch4_window7_224", "input": {"height": 64, "width": 96}},
        {"model": "resnet18", "input": {"height": 33, "width": 47}},
        {"source": "torchvision", "model": "vit_b_16", "input": {"height": 64, "width": 64}},
    ],
)
def test_other_sizes_are_given_to_the_builder_or_need_not_be(fields: dict[str, Any]):
    read = read_zoo(zoo_of({"source": "timm", **fields}))["net"]
    with torch.device("meta"):
        assert build_network(read).eval()(read.input.example()).shape == (1, 1000)


def test_contradicting_channels_are_refused():
    with pytest.raises(UserError, match=r"kwargs\.in_chans is 3, but input.channels 1"):
        load_network(replace(timm_entry("test_resnet", kwargs={"in_chans": 3}), input=GREY))
    with pytest.raises(UserError, match="networks of torchvision take 3 channels"):
        load_network(ZooEntry("x", "torchvision", GREY, model="resnet18"))


# Zoo files.


def test_reads_the_same_zoo_from_a_file_and_from_a_mapping():
    path = ZOOS / "embedded.yaml"
    assert dict(read_zoo(path)) == dict(read_zoo(yaml.safe_load(path.read_text()))) == dict(EMBEDDED)


def test_input_falls_back_to_the_zoo_then_to_the_published_weights():
    own = {"channels": 1, "height": 32, "width": 48, "mean": [0], "std": [1]}
    network = {"source": "timm", "model": "vit_tiny_patch16_224"}
    assert read_zoo(zoo_of(network | {"input": own}))["net"].input == InputSpec(1, 32, 48, (0.0,), (1.0,), "bicubic")
    assert read_zoo(zoo_of(network, input=own))["net"].input.width == 48
    published = read_zoo(zoo_of(network))["net"].input
    assert (published.channels, published.height, published.mean) == (3, 224, (0.5, 0.5, 0.5))
    grey = read_zoo(zoo_of(network | {"kwargs": {"in_chans": 1, "img_size": 32}}))["net"].input
    assert (grey.channels, grey.height, grey.width, grey.mean) == (1, 32, 32, (0.5,))
    vision = read_zoo(zoo_of({"source": "torchvision", "model": "resnet18"}))["net"].input
    assert (vision.height, vision.interpolation) == (224, "bilinear")


def test_what_input_leaves_open_is_that_of_the_published_weights_their_tag_included():
    network = {"source": "timm", "model": "tf_efficientnet_b0"}
    part = read_zoo(zoo_of(network | {"input": {"height": 96}}, input={"height": 64, "width": 128}))["net"].input
    assert (part.height, part.width, part.channels, part.interpolation) == (96, 128, 3, "bicubic")
    for tag, mean in [("aa_in1k", 0.485), ("ap_in1k", 0.5)]:
        assert read_zoo(zoo_of(network | {"weights": {"hub": tag}}))["net"].input.mean[0] == mean
    grey = read_zoo(zoo_of(network | {"input": {"channels": 1}}))["net"].input
    assert grey.mean == (0.449,)
    with pytest.raises(UserError, match="no weights 'nowhere'"):
        read_zoo(zoo_of(network | {"weights": {"hub": "nowhere"}}))


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ({"source": "timm", "model": "resnet18", "wieghts": None}, "did you mean 'weights'"),
        ({"source": "timm", "model": "resnet18", "weights": {"fil": "x"}}, "did you mean 'file'"),
        ({"source": "timm", "model": "resnet18", "weights": {}}, "one of `hub`"),
        ({"source": "timm", "model": "resnet18", "weights": {"hub": True, "file": "x"}}, "one of `hub`"),
        ({"source": "timm", "model": "resnet18", "weights": {"hub": True, "match": "order"}}, "belong to `file`"),
        ({"source": "timm", "model": "resnet18", "weights": {"file": "x", "match": "shape"}}, "name or order"),
        ({"source": "timm", "model": "resnet18", "classes": ["a", "b", "a"]}, "classes given twice: a"),
        ({"source": "timm", "model": "resnet18", "classes": "ab"}, "expected a list"),
        ({"source": "timm", "model": "resnet18", "kwargs": [1]}, "expected a mapping"),
        ({"source": "timm"}, "net"),
        ({"source": "keras", "model": "resnet18", "input": ONE_PIXEL}, "module:factory"),
        ({"model": "resnet18"}, "source"),
        ({"source": "my_factories:network"}, "input"),
        ({"source": "my_factories:network", "model": "a", "input": {}}, "missing field"),
        ({"source": "timm", "model": "resnet81"}, "did you mean resnet18"),
        (["timm"], "expected a mapping"),
    ],
)
def test_refuses_wrong_entries_in_one_line(network: Any, told: str):
    with pytest.raises(UserError, match=told) as refusal:
        read_zoo(zoo_of(network))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 3, "height": 8, "width": 8, "mean": [0.5], "std": [1, 1, 1]},
        {"channels": 1, "height": 8, "width": 8, "mean": [0.5], "std": [0]},
        {"channels": 1, "height": 0, "width": 8, "mean": [0.5], "std": [1]},
    ],
)
def test_refuses_wrong_input(wrong: dict[str, Any]):
    with pytest.raises(UserError, match="input"):
        read_zoo(zoo_of({"source": "timm", "model": "resnet18"}, input=wrong))


def test_refuses_wrong_zoo_files(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        read_zoo(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="no network"):
        read_zoo({"name": "empty", "networks": {}})
    with pytest.raises(UserError, match="did you mean 'networks'"):
        read_zoo({"name": "x", "network": {}})


def test_finds_entries_by_word():
    assert find_entry("vit_digits", ZOOS) == find_entry("embedded/vit_digits", ZOOS) == EMBEDDED["vit_digits"]
    assert find_entry("timm:resnet18", ZOOS).model == "resnet18"
    assert find_entry("torchvision:resnet18", ZOOS).source == "torchvision"
    assert find_entry("my_factories:network", ZOOS).source == "my_factories:network"
    for word, told in [("vit_digit", "did you mean 'vit_digits'"), ("timm:resnet81", "did you mean resnet18")]:
        with pytest.raises(UserError, match=told):
            find_entry(word, ZOOS)
    with pytest.raises(UserError, match="did you mean 'vit_digits'"):
        EMBEDDED.entry("vit_digit")


def test_all_missing_files_of_a_zoo_are_told_at_once(tmp_path: Path) -> None:
    networks = {
        name: {"source": "timm", "model": "resnet18", "weights": {"file": str(tmp_path / f"{name}.pth"), **more}}
        for name, more in (("here", {}), ("lost", {}), ("far", {"url": "https://example.org/far.pth"}))
    }
    (tmp_path / "here.pth").touch()
    with pytest.raises(UserError, match=r"lost: .*lost.pth does not exist.*; far: .*download https://example.org"):
        require_files(read_zoo({"networks": networks}))


@pytest.mark.parametrize(
    ("mean", "std", "told"),
    [
        (
            (123.675, 116.28, 103.53),
            (58.395, 57.12, 57.375),
            r"give mean: \[0.485, 0.456, 0.406\], std: \[0.229, 0.224,",
        ),
        ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), r"mean: \[0.406, 0.456, 0.485\], std: \[0.003922, 0.003922,"),
        ((0.485, 0.456, 0.406), (58.395, 57.12, 57.375), r"input.std \[58.4, 57.12, 57.38\]: .* give std: \[0.229,"),
        ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), r"give std: \[1, 1, 1\]"),
        ((32768.0,) * 3, (1000.0,) * 3, "not to 65535"),
        ((0.0019, 0.0018, 0.0016), (0.0009,) * 3, r"divided by 255 once too often .* give mean: \[0.4845,"),
        ((-0.5, 0.0, 0.0), (0.5,) * 3, "expected values from 0 to 1"),
        ((0.5, 0.5), (0.5,) * 3, "got 2 values for 3 channels"),
        ((0.5,) * 3, (0.5, 0.0, 0.5), "expected values above 0"),
        ((0.5,) * 3, (0.5, -0.2, 0.5), "expected values above 0"),
        ((0.5,) * 3, (0.5, float("nan"), 0.5), "input.std: got .*nan.*, expected finite numbers"),
        ((float("inf"),) * 3, (0.5,) * 3, "input.mean: got .*inf.*, expected finite numbers"),
    ],
)
def test_statistics_of_another_scale_are_refused(mean: tuple[float, ...], std: tuple[float, ...], told: str):
    with pytest.raises(UserError, match=told) as error:
        InputSpec(3, 8, 8, mean, std)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 1 / 2048), (0.0, 1.0), (0.0, 1 / 255), (1.0, 0.5), (0.13, 0.31)])
def test_statistics_of_images_from_0_to_1_are_taken(mean: float, std: float):
    assert InputSpec(1, 8, 8, (mean,), (std,)).mean == (mean,)
