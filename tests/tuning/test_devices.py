"""Tuning on another device: nothing of it stays on the CPU, and it finds the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import embedded_zoo
from benchmarks.tuning import assembly
from datamodules import Digits
from reassembly.network import AssembledNetwork, home_reference
from tests.fake_device import fake_device, is_on_fake, strategy_on_fake
from tuning.fit import TuningResult, tune
from tuning.settings import TrainerSettings, TuningSettings
from zoo.chain_cache import ChainCache
from zoo.storage.records import from_plain

DATA = {"num_train": 24, "num_validation": 20, "num_test": 20}
AVERAGED = {"checkpoints": {"num_kept": 2, "average": True}}


@pytest.fixture
def on_fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where trainers run."""
    monkeypatch.setattr("tuning.trainer.lightning_strategy", lambda settings: strategy_on_fake())
    with fake_device():
        yield


def tuned(folder: Path, mode: str, options: dict[str, Any], **given: Any) -> tuple[AssembledNetwork, TuningResult]:
    data = Digits(**DATA)
    zoo = embedded_zoo()
    network = assembly(data, zoo, ("resnext_low", "resnet_digits"))
    options = {"inputs": "last", "mode": mode, "num_epochs": 2, **options}
    network.read(options.pop("inputs"))
    settings = from_plain(TuningSettings, options, "tuning")
    if settings.warmup != "none":
        given["home"] = home_reference(network, ChainCache(zoo), zoo)
    # the device's tensors are made of others, which cannot be marked as never differentiated
    trainer = TrainerSettings(accelerator="auto", log_every_num_steps=1, extra={"inference_mode": False})
    return network, tune(network, data, settings, run_dir=folder, trainer=trainer, **given)


CASES = {
    "frozen, matched first": ("freeze", {"warmup": "feature_matching"}),
    "all": ("full", {"num_epochs": 1}),
    "all, head trained": ("full", {"loss": "cross_entropy", "norm_stats": "adaptive", **AVERAGED}),
    "all, wide head": ("full", {"loss": "cross_entropy", "mixup_alpha": 0.4, "ema_decay": 0.9, "inputs": "all_cuts"}),
}


@pytest.mark.parametrize("case", CASES)
def test_tuning_on_a_device_finds_what_the_cpu_finds(case: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    _, expected = tuned(tmp_path / "cpu", *CASES[case])
    request.getfixturevalue("on_fake")
    network, found = tuned(tmp_path / "fake", *CASES[case])
    assert found.choice == expected.choice
    assert found.val_losses == pytest.approx(expected.val_losses, rel=1e-4)
    assert [row["val/loss"] for row in found.curves] == pytest.approx([row["val/loss"] for row in expected.curves])
    assert not any(map(is_on_fake, network.state_dict().values()))
