from __future__ import annotations

import logging

import pytest
import torch
from tuning_stand_ins import Blobs, StandIn

from tuning.fit import tune
from tuning.module import TuningModule
from tuning.settings import CheckpointSettings, EarlyStoppingSettings, HeadSettings, TuningSettings
from zoo.errors import UserError

ACCURACIES = [0.5, 0.6, 0.6, 0.61, 0.62, 0.58, 0.7, 0.7]
LOSSES = [1.0, 0.9, 0.8, 0.85, 0.79, 0.9, 0.9, 0.1]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation of the epochs gives the figures above, that of candidates 0.5 and 1."""

    def on_validation_epoch_start(self: TuningModule) -> None:
        is_fitting = self.trainer.state.fn == "fit"
        epoch = self.trainer.current_epoch
        for name, values in (("loss", LOSSES), ("accuracy", ACCURACIES)):
            metric = getattr(self, f"val_{name}")
            value = torch.tensor(values[epoch] if is_fitting else 0.5)
            monkeypatch.setattr(metric, "compute", lambda value=value: value)

    monkeypatch.setattr(TuningModule, "on_validation_epoch_start", on_validation_epoch_start)


def run(run_dir, stopping: EarlyStoppingSettings, *, resume: bool = False, **options):
    tuning = TuningSettings(
        mode="freeze",
        loss="cross_entropy",
        norm_stats="frozen",
        num_epochs=8,
        head=HeadSettings(refit="always"),
        early_stopping=stopping,
        **options,
    )
    return tune(StandIn(), Blobs(num_train=20, num_val=10, batch_size=10), tuning, run_dir=run_dir, resume=resume)


@pytest.mark.parametrize(
    ("stopping", "epochs"),
    [
        (EarlyStoppingSettings(), 8),
        (EarlyStoppingSettings(patience=1), 3),  # 0.6 twice: equal is no better
        (EarlyStoppingSettings(patience=2), 8),
        (EarlyStoppingSettings(patience=2, min_delta=0.05), 4),  # 0.6 stands, 0.61 is not better by 0.05
        (EarlyStoppingSettings(patience=1, monitor="val_loss"), 4),
        (EarlyStoppingSettings(patience=3, monitor="val_loss", min_delta=0.02), 6),
    ],
)
def test_training_stops_at_the_epoch_that_the_figures_say(scripted, stopping, epochs, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, logger="tuning.stopping")
    result = run(tmp_path, stopping)
    assert result.epochs == epochs
    assert [row["epoch"] for row in result.curves] == list(range(epochs + 1))
    assert set(result.val_losses) == {"start", "tuned", "refitted"}
    assert [message.startswith(f"stopped after epoch {epochs} of 8: ") for message in caplog.messages] == [True] * (
        epochs < 8
    )


def test_what_has_stopped_stays_stopped_when_it_is_resumed(scripted, tmp_path) -> None:
    stopping = EarlyStoppingSettings(patience=1)
    first = run(tmp_path, stopping)
    again = run(tmp_path, stopping, resume=True)
    assert (again.epochs, again.curves) == (first.epochs, first.curves)


@pytest.mark.parametrize(("keep", "epochs"), [("best", (5, 7, 8)), ("last", (6, 7, 8))])
def test_the_epochs_that_are_kept(scripted, keep, epochs, tmp_path) -> None:
    run(tmp_path, EarlyStoppingSettings(), checkpoints=CheckpointSettings(num_kept=3, keep=keep))
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt", *(f"epoch-{epoch:04d}.ckpt" for epoch in epochs)}
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["huozi"]["epoch"] == 7  # the earlier of equals
    assert "optimizer_states" not in best


def test_an_average_of_one_is_none() -> None:
    with pytest.raises(UserError, match=r"average=true needs at least two .* type tuning\.checkpoints\.num_kept=5"):
        CheckpointSettings(average=True, num_kept=1)
