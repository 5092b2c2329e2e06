"""Networks of a zoo, from timm, torchvision, a hub and factories of a user."""

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
from safetensors.torch import save_file
from torch import nn

from launch.errors import CONF
from zoo.digests import digest
from zoo.entries import InputSpec, ZooEntry
from zoo.errors import UserError
from zoo.loading import build_network, load_network
from zoo.registry import find_entry, read_zoo
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


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"pretrained": True}, r"type weights: \{hub: true\}"),
        ({"checkpoint_path": "x.pth"}, r"type weights: \{file: PATH\}"),
        ({"num_classes": -1}, r"expected 1 or more, or 0 for no classifier"),
    ],
)
def test_arguments_that_load_weights_or_name_no_number_of_classes_are_refused(kwargs: dict[str, Any], told: str):
    with pytest.raises(UserError, match=rf"^kwargs\..*{told}"):
        ZooEntry("net", "timm", timm_entry("test_resnet").input, model="test_resnet", kwargs=kwargs)


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
