"""The search on another device: nothing of it stays on the CPU, and its results are other entries of the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datamodules import Digits
from reassembly.pipeline import Search, SearchResult
from reassembly.settings import (
    AdapterSettings,
    Budget,
    PartitionSettings,
    ProxySettings,
    SearchSettings,
    SimilaritySettings,
)
from tests.fake_device import FAKE, MixedDevicesError, fake_device, is_on_fake
from zoo.blueprint import to_text
from zoo.devices import CPU, Placement, find_device
from zoo.errors import UserError
from zoo.registry import Zoo, read_zoo
from zoo.storage.store import Store
from zoo.weights import PROJECT_ROOT

SETTINGS = SearchSettings(
    similarity=SimilaritySettings(num_probe_images=24, batch_size=None),
    partition=PartitionSettings(num_blocks=2, num_starts=2, max_bound_steps=50),
    budget=Budget(max_params=250_000),
    proxy=ProxySettings(num_draws=1, num_images=24, also=("logme", "naswot", "nleep")),
    tuning_mode="freeze",
)


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    embedded = read_zoo(PROJECT_ROOT / "conf" / "zoo" / "embedded.yaml")
    return Zoo("two", [embedded[name] for name in ("resnet_digits", "vit_digits")])


@pytest.fixture(autouse=True)
def one_memory_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in device knows one only, and kernels for another round differently."""
    monkeypatch.setattr("reassembly.block_cache._with_channels_last", lambda block, signal: block)


def run(zoo: Zoo, root: Path, placement: Placement, settings: SearchSettings = SETTINGS) -> tuple[Search, SearchResult]:
    data = Digits(num_train=24, num_validation=30, num_test=30)
    search = Search(zoo, data, settings, store=Store(root), seed=0, placement=placement)
    return search, search.run()


def test_a_search_leaves_nothing_on_the_cpu_and_finds_the_same(zoo: Zoo, tmp_path: Path) -> None:
    search, expected = run(zoo, tmp_path, CPU)
    with fake_device():
        moved, found = run(zoo, tmp_path, Placement(FAKE))
        at_home = next(entry for entry in found.candidates if entry.candidate.is_adapted)  # nothing in closed form
        recipes = [found.blueprint, moved.blueprint(at_home, found.descriptions)]
        networks = [moved.build(recipe) for recipe in recipes]
    assert moved.store.reused == ()
    assert found.candidates == expected.candidates
    assert to_text(found.blueprint) == to_text(expected.blueprint)
    for recipe, network in zip(recipes, networks, strict=True):
        state = search.build(recipe).state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("kind", ["linear", "paper"])
def test_closed_forms_go_to_the_cpu_where_a_device_has_no_float64(
    kind: str, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, proxy = AdapterSettings(kind=kind, kernel_size=1), replace(SETTINGS.proxy, adapters="closed_form")
    settings = replace(SETTINGS, adapter=adapter, proxy=proxy)
    _, expected = run(zoo, tmp_path, CPU, settings)
    monkeypatch.setattr("zoo.ridge.NO_FLOAT64", {FAKE.type})
    monkeypatch.setattr("zoo.devices.NO_FLOAT64", {FAKE.type})
    with fake_device(no_float64=True):
        _, found = run(zoo, tmp_path, Placement(FAKE), settings)
    assert found.candidates == expected.candidates


def test_the_fake_device_refuses_what_a_gpu_would() -> None:
    with fake_device(no_float64=True) as device:
        x = torch.ones(3).to(device)
        with pytest.raises(MixedDevicesError):
            x + torch.ones(3)
        with pytest.raises(MixedDevicesError):
            x.double()
        with pytest.raises(MixedDevicesError):
            x.numpy()
        assert torch.equal((2 * x).cpu(), torch.full((3,), 2.0))
        assert type(x.new_zeros(2, device="cpu")) is torch.Tensor


def test_gradients_of_what_is_selected_stay_on_the_fake_device() -> None:
    with fake_device() as device:
        x = torch.ones(2, 4).to(device).requires_grad_()
        (2 * x.index_select(1, torch.tensor([0, 2]).to(device)) + x[:, torch.tensor([1, 3])]).sum().backward()
        assert is_on_fake(x.grad)
        assert torch.equal(x.grad.cpu(), torch.tensor([[2.0, 1.0, 2.0, 1.0]] * 2))


def test_bfloat16_is_another_entry_and_changes_scores_by_rounding(zoo: Zoo, tmp_path: Path) -> None:
    _, expected = run(zoo, tmp_path, CPU)
    search, found = run(zoo, tmp_path, Placement(precision="bfloat16"))
    assert search.store.reused == ()
    exact = {entry.candidate.composition: entry.scores["ridge"] for entry in expected.candidates}
    rounded = {entry.candidate.composition: entry.scores["ridge"] for entry in found.candidates}
    shared = exact.keys() & rounded.keys()
    assert len(shared) > 2
    assert any(exact[name] != rounded[name] for name in shared)
    assert max(abs(exact[name] - rounded[name]) for name in shared) < 0.2


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:9999", ""])
def test_a_device_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="allowed are auto, cpu, cuda, cuda:N, mps"):
        find_device(name)


def test_auto_takes_what_there_is_and_others_are_refused_where_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")
    for name in ("cuda", "mps"):
        with pytest.raises(UserError, match=f"device={name}: torch finds no such device"):
            find_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("auto") == torch.device("cuda")
    assert find_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="device=cuda:2: this machine has 2"):
        find_device("cuda:2")
