from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from PIL import Image

from launch import interruption, run_directory
from launch.job import Job
from launch.job_log import JobLog
from tests.launch.conftest import perform
from zoo.errors import UserError

SMALL = ("dataset.num_train=60", "dataset.num_validation=30", "dataset.num_test=30")


def writing(text: str, *names: str) -> Callable[[Job], Mapping[str, Any]]:
    """Stages that write their files, each with the same text, and end well."""

    def stages(job: Job) -> Mapping[str, Any]:
        for name in names or ("checkpoints/last.ckpt", "bundle/weights.safetensors"):
            path = job.run_dir / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return job.finish({"value": 0.5, "val_accuracy": 0.5}, files=[], text=text)

    return stages


def failing(job: Job, error: BaseException) -> Mapping[str, Any]:
    writing("half", "checkpoints/last.ckpt")(job)
    (job.run_dir / "result.json").unlink()
    raise error


def content(directory: Path) -> dict[str, bytes]:
    """Of all files but the lock and what an unfinished run beside has."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    names = {str(path.relative_to(directory)): path.read_bytes() for path in files}
    return {name: text for name, text in names.items() if name != ".lock" and not name.startswith("unfinished/")}


def test_a_new_run_puts_away_what_an_uncompleted_one_left_and_no_file_of_the_user(folder: Path) -> None:
    with pytest.raises(RuntimeError):
        perform("train", lambda job: failing(job, RuntimeError("power")), *SMALL, "output_dir=r")
    assert json.loads((folder / "r/result.json").read_text())["status"] == "failed"
    (folder / "r/notes.txt").write_text("mine")

    def stages(job: Job) -> Mapping[str, Any]:
        assert not (job.run_dir / "checkpoints").exists()
        assert not (folder / "r/result.json").exists()
        return writing("new", "blueprint.yaml")(job)

    perform("train", stages, *SMALL, "seed=1", "output_dir=r")
    assert "seed: 1" in (folder / "r/config.yaml").read_text()
    assert (folder / "r/notes.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [RuntimeError("x"), UserError("the loss is nan"), KeyboardInterrupt(), SystemExit(1)])
def test_a_rerun_that_fails_leaves_the_completed_run_as_it_was(error: BaseException, folder: Path) -> None:
    perform("train", writing("old"), *SMALL, "output_dir=r")
    before = content(folder / "r")
    with pytest.raises(type(error)):
        perform("train", lambda job: failing(job, error), *SMALL, "seed=1", "output_dir=r")
    assert content(folder / "r") == before
    assert (folder / "r/unfinished").exists() == (not isinstance(error, UserError))


@pytest.mark.parametrize(
    ("command", "words", "told"),
    [
        ("train", ["seed=1"], "seed 0 -> 1"),
        ("train", ["tuning=full"], "tuning.mode freeze -> full"),
        ("search", [], "command train -> search"),
        ("train", ["trainer.precision=bf16-mixed", "skip_completed=true"], "trainer.precision 32-true -> bf16-mixed"),
        ("train", [], None),
        ("train", ["device=auto", "logger=csv", "cache.root=c"], None),
    ],
)
def test_that_a_completed_run_of_other_settings_will_be_replaced_is_told_before(
    command: str, words: list[str], told: str | None, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    perform("train", writing("old"), *SMALL, "tuning=freeze", "output_dir=r")

    def stages(job: Job) -> Mapping[str, Any]:
        lines = [line for line in caplog.messages if line.startswith("r holds a completed run of other settings")]
        assert len(lines) == (told is not None)
        assert all(told in line and "output_dir=" in line for line in lines)
        return writing("new")(job)

    again = ("tuning=freeze", *words) if command == "train" else words
    perform(command, stages, *SMALL, *again, "output_dir=r")
    assert json.loads((folder / "r/result.json").read_text())["text"] == "new"


def test_resume_goes_on_with_the_last_run_and_the_whole_of_it_takes_the_place_of_the_old_one(folder: Path) -> None:
    perform("train", writing("old", "bundle/weights.safetensors", "gates.png"), *SMALL, "output_dir=r")
    with pytest.raises(RuntimeError):
        perform("train", lambda job: failing(job, RuntimeError()), *SMALL, "seed=1", "output_dir=r")

    def stages(job: Job) -> Mapping[str, Any]:
        assert job.config.seed == 1
        assert (job.run_dir / "checkpoints/last.ckpt").read_text() == "half"
        return writing("new", "bundle/weights.safetensors")(job)

    perform("train", stages, "resume=r")
    result = json.loads((folder / "r/result.json").read_text())
    assert (result["text"], result["settings"]["seed"]) == ("new", 1)
    assert (folder / "r/bundle/weights.safetensors").read_text() == "new"
    assert not (folder / "r/gates.png").exists()
    assert not (folder / "r/unfinished").exists()


def test_a_directory_belongs_to_one_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_directory, "_ORPHANS_SECONDS", 0.0)

    def stages(job: Job) -> Mapping[str, Any]:
        for overrides in (("output_dir=r",), ("resume=r",), ("output_dir=r", "skip_completed=true")):
            with pytest.raises(UserError, match="=r belongs to another job that is running"):
                perform("train", writing("second"), *(() if "resume=r" in overrides else SMALL), *overrides)
        return writing("first")(job)

    perform("train", stages, *SMALL, "output_dir=r")
    assert (folder / "r/bundle/weights.safetensors").read_text() == "first"


def test_the_lock_of_a_dead_process_does_not_block(folder: Path) -> None:
    (folder / "r").mkdir()
    script = "import os, sys; from filelock import FileLock; FileLock('r/.lock').acquire(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=False)
    assert (folder / "r/.lock").exists()
    perform("train", writing("new"), *SMALL, "output_dir=r")
    with FileLock(folder / "r/.lock", timeout=0):
        pass  # nor does that of a job that has ended


def test_a_run_stopped_before_its_first_checkpoint_starts_over(folder: Path) -> None:
    with pytest.raises(RuntimeError):
        perform("train", lambda job: (_ for _ in ()).throw(RuntimeError()), *SMALL, "output_dir=r")
    assert perform("train", writing("new"), "resume=r")["value"] == 0.5


@pytest.mark.parametrize(("left", "told"), [(None, "no directory"), ({}, "run its command again")])
def test_resume_says_what_to_do_where_there_is_nothing_to_resume(left: object, told: str, folder: Path) -> None:
    if left is not None:
        (folder / "r").mkdir()
    with pytest.raises(UserError, match=told):
        perform("train", writing("new"), "resume=r")


def test_resume_names_what_differs_and_nothing_goes_on(folder: Path) -> None:
    with pytest.raises(RuntimeError):
        perform("train", lambda job: failing(job, RuntimeError()), *SMALL, "output_dir=r")
    before = content(folder / "r")
    config = yaml.safe_load((folder / "r/config.yaml").read_text())
    config["optimizer"]["learning_rate"] = 0.5
    config["dataset"]["num_train"] = 50
    (folder / "r/config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"optimizer.learning_rate \S+ -> 0.5, the data changed") as told:
        perform("train", writing("new"), "resume=r")
    assert "dataset.num_train 60 -> 50" in str(told.value)
    (folder / "r/config.yaml").write_bytes(before["config.yaml"])
    assert content(folder / "r") == before
    with pytest.raises(UserError, match=r"optimizer\.learning_rate=0\.5"):
        perform("train", writing("new"), "resume=r", "optimizer.learning_rate=0.5")
    perform("train", writing("new"), "resume=r", "dataset.num_train=60", *SMALL[1:])  # repeats what it was started with


def test_resume_of_a_completed_run_changes_nothing(folder: Path) -> None:
    perform("train", writing("old"), *SMALL, "output_dir=r")
    before = content(folder / "r")
    assert perform("train", writing("new"), "resume=r") == {"value": 0.5, "val_accuracy": 0.5}
    assert content(folder / "r") == before


@pytest.mark.parametrize(
    ("stored", "asked", "told"),
    [
        (("train",), ("train",), None),
        (("train",), ("train", "logger=csv", "trainer.progress_bar=never", "cache.root=c"), None),
        (("train",), ("train", "seed=1"), "seed 0 -> 1"),
        (("search",), ("train",), "command search -> train"),
        (("train",), ("train", "trainer.precision=bf16-mixed"), "trainer.precision 32-true -> bf16-mixed"),
        (("train",), ("train", "dataset.num_train=50"), "the data changed"),
        (("train", "blueprint=recipe.yaml"), ("train", "blueprint=recipe.yaml"), "recipe.yaml"),
    ],
)
def test_skip_completed_takes_the_result_of_the_same_command_and_settings(
    stored: tuple[str, ...], asked: tuple[str, ...], told: str | None, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "recipe.yaml").write_text("one recipe")
    perform(stored[0], writing("old"), *SMALL, *stored[1:], "output_dir=r")
    (folder / "recipe.yaml").write_text("another recipe")
    with caplog.at_level(logging.INFO):
        perform(asked[0], writing("new"), *SMALL, *asked[1:], "output_dir=r", "skip_completed=true")
    assert json.loads((folder / "r/result.json").read_text())["text"] == ("new" if told else "old")
    assert (told or "completed before: r") in caplog.text


@pytest.mark.parametrize(
    "damaged",
    [b"", b'{"status": "comp', b"[1]", b"null", b'{"status": "completed"}', b"\xff\xfe", b'{"status": "completed"}' * 2]
    + [b'{"status": "completed", "metrics": %s}' % value for value in (b"[]", b'{"value": "x"}', b"{}", b"null")]
    + [None, b"[" * 100_000],
)
def test_a_damaged_result_is_none(damaged: bytes | None, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "r").mkdir()
    if damaged is None:
        (folder / "r/result.json").mkdir()
    else:
        (folder / "r/result.json").write_bytes(damaged)
    perform("train", writing("new"), *SMALL, "output_dir=r", "skip_completed=true")
    assert "result.json is damaged or not ours" in caplog.text
    assert json.loads((folder / "r/result.json").read_text())["text"] == "new"


def test_classes_that_a_folder_lacks_are_told_before_the_first_stage(folder: Path) -> None:
    for name in ("0", "1", "cat"):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (8, 8), number).save(folder / "photos" / name / f"{number}.png")
    words = ["method=cloning", "dataset=image_folder", "dataset.root=photos", "task.classes=[0,1,7]", "output_dir=r"]
    with pytest.raises(UserError, match=r"task\.classes: .* has no images of class '7': known: 0, 1, cat"):
        perform("search", lambda job: pytest.fail("begun"), *words)
    assert not (folder / "r").exists()


def test_an_interrupted_job_says_so_and_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(interruption, "advise", told.append)
    with pytest.raises(KeyboardInterrupt):
        perform("train", lambda job: failing(job, KeyboardInterrupt()), *SMALL, "output_dir='my run'")
    assert json.loads((folder / "my run/result.json").read_text())["status"] == "interrupted"
    assert told == ["run the same command again", "`python train.py 'resume=my run'` goes on"]


def test_an_interruption_after_the_result_does_not_take_it_back(folder: Path) -> None:
    def stages(job: Job) -> Mapping[str, Any]:
        writing("whole")(job)
        raise KeyboardInterrupt

    perform("train", writing("old"), *SMALL, "output_dir=r")
    with pytest.raises(KeyboardInterrupt):
        perform("train", stages, *SMALL, "seed=1", "output_dir=r")
    assert json.loads((folder / "r/result.json").read_text())["text"] == "whole"
    assert not (folder / "r/unfinished").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset._target_", "os.system"),
        ("dataset._target_", "zoo.storage.files.write_text"),
        ("dataset.flip._target_", "os.system"),
        ("zoo.networks.resnet_digits.source", "os:system"),
        ("zoo.networks.resnet_digits.source", "zoo.storage.files:write_text"),
        ("zoo.networks.resnet_digits.source", "zoo.embedded.networks:torch"),
        ("zoo.networks.resnet_digits.weights.convert", "evil:read"),
    ],
)
def test_a_run_directory_calls_nothing_that_the_user_does_not_name(key: str, value: str, folder: Path) -> None:
    perform("train", writing("old"), *SMALL, "output_dir=r")
    config = yaml.safe_load((folder / "r/config.yaml").read_text())
    place, *path, last = [config, *key.split(".")]
    for name in path:
        place = place[name] if isinstance(place.get(name), dict) else place.setdefault(name + "_", {})
    place[last] = value
    (folder / "r/config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="would call") as told:
        perform("train", writing("new"), "resume=r")
    assert value in str(told.value)
    assert f"type the {key.partition('.')[0]}=..." in str(told.value)


def test_what_the_user_names_again_is_called(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "own_networks.py").write_text("from zoo.embedded.networks import small_image\n")
    monkeypatch.syspath_prepend(folder)
    own = "zoo.networks.resnet_digits.source=own_networks:small_image"
    with pytest.raises(RuntimeError):
        perform("train", lambda job: failing(job, RuntimeError()), *SMALL, own, "output_dir=r")
    with pytest.raises(UserError, match="own_networks:small_image"):
        perform("train", writing("new"), "resume=r")
    assert perform("train", writing("new"), "resume=r", own)["value"] == 0.5


@pytest.mark.parametrize("command", ["search", "train"])
def test_a_place_that_cannot_be_written_is_told_by_key(command: str, folder: Path) -> None:
    (folder / "file").write_text("x")
    for place in ("file", "file/below", "/proc/below"):
        with pytest.raises(UserError, match=f"output_dir={place} cannot be written"):
            perform(command, writing("new"), *SMALL, f"output_dir={place}")


def test_a_log_that_cannot_be_written_is_told_once_and_hides_no_other_fault(capfd: pytest.CaptureFixture[str]) -> None:
    def job() -> None:
        with JobLog(logging.getLogger("launch.job")) as log_file:
            log_file.open(Path("/dev/full"), append=False)
            for number in range(3):
                logging.getLogger().warning("line %d", number)
            raise UserError("the fault")

    with pytest.raises(UserError, match="the fault"):
        job()
    assert capfd.readouterr().err.count("/dev/full ends here: No space left on device") == 1
