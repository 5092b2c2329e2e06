"""The store: a result is computed once, by content, and a damaged one is never trusted."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from zoo.errors import UserError
from zoo.storage.store import StageResult, Store, content_key


@dataclass(frozen=True)
class Settings:
    rate: float = 0.1


def result() -> StageResult:
    return StageResult({"x": torch.arange(6.0).view(2, 3)}, {"name": "é", "sizes": [1, None, 0.1]})


def refuse() -> StageResult:
    raise AssertionError("computed again")


def test_an_entry_comes_back_as_it_was(tmp_path: Path) -> None:
    Store(tmp_path).fetch("stage", {"seed": 0}, result)
    store = Store(tmp_path)
    found = store.fetch("stage", {"seed": 0}, refuse)
    assert torch.equal(found.tensors["x"], result().tensors["x"])
    assert list(found.tensors) == ["x"]
    assert found.values == result().values
    assert (store.hits, store.misses) == ({"stage": 1}, {})


def test_what_it_depends_on_makes_another_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for inputs in ({"settings": Settings()}, {"settings": Settings(0.2)}, {"settings": Settings(), "seed": 1}):
        store.fetch("stage", inputs, result)
    store.fetch("other", {"settings": Settings()}, result)
    store.fetch("stage", {"settings": Settings()}, refuse)
    assert store.misses == {"stage": 3, "other": 1}


def test_a_content_key_takes_plain_data_only() -> None:
    assert content_key(Settings()) == content_key({"rate": 0.1})
    with pytest.raises(TypeError, match="Tensor"):
        content_key(torch.zeros(1))


def fetched(root: Path) -> list[Path]:
    """The files of three entries: two of a stage, one of another with the inputs of the first."""
    store = Store(root)
    for stage, inputs in (("stage", 1), ("stage", 2), ("other", 1)):
        store.fetch(stage, inputs, result)
    return [
        root / stage / f"{store.key(stage, inputs)}.entry"
        for stage, inputs in (("stage", 1), ("stage", 2), ("other", 1))
    ]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "is damaged"),
        (flip, "is damaged"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (make_directory, r"cannot be read \(Is a directory\)"),
    ],
)
def test_a_damaged_entry_is_refused_or_computed_anew(tmp_path: Path, damage, reason: str) -> None:
    path, *_ = fetched(tmp_path)
    damage(path)
    with pytest.raises(UserError, match=rf"{path} {reason}.*cache.rebuild_damaged=true"):
        Store(tmp_path).fetch("stage", 1, refuse)
    rebuilding = Store(tmp_path, rebuild_damaged=True)
    assert torch.equal(rebuilding.fetch("stage", 1, result).tensors["x"], result().tensors["x"])
    if path.is_file():
        Store(tmp_path).fetch("stage", 1, refuse)


@pytest.mark.parametrize("other", [1, 2])
def test_an_entry_under_the_name_of_another_is_refused_or_computed_anew(tmp_path: Path, other: int) -> None:
    paths = fetched(tmp_path)
    paths[0].write_bytes(paths[other].read_bytes())
    with pytest.raises(UserError, match=rf"is another one under this name \(\w+/{paths[other].stem}\)"):
        Store(tmp_path).fetch("stage", 1, refuse)
    Store(tmp_path, rebuild_damaged=True).fetch("stage", 1, result)
    Store(tmp_path).fetch("stage", 1, refuse)


def test_an_entry_cannot_be_passed_off_by_writing_its_header_anew(tmp_path: Path) -> None:
    path, other, _ = fetched(tmp_path)
    path.write_bytes(other.read_bytes().replace(other.stem.encode(), path.stem.encode()))
    with pytest.raises(UserError, match="is damaged"):
        Store(tmp_path).fetch("stage", 1, refuse)


def test_other_code_or_libraries_make_other_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = Store.key("stage", 1)
    with monkeypatch.context() as patch:
        patch.setattr("zoo.storage.store.own_code_digest", lambda: "edited")
        assert Store.key("stage", 1) != key
    monkeypatch.setattr("zoo.storage.store.library_versions", lambda: {"torch": "0.0"})
    assert Store.key("stage", 1) != key


def test_a_complete_cache_may_be_read_only(tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    fetched(tmp_path)
    for lock in tmp_path.rglob("*.lock"):
        lock.unlink()

    def read_only(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("filelock.FileLock.acquire", read_only)
    store = Store(tmp_path)
    assert store.fetch("stage", 1, refuse).values == result().values
    assert caplog.messages == []
    for inputs in (3, 4):
        assert store.fetch("stage", inputs, result).values == result().values
    assert (store.hits, store.misses) == ({"stage": 1}, {"stage": 2})
    (message,) = caplog.messages
    assert message == f"cache.root={tmp_path} cannot be written (Read-only file system): results are used, but not kept"
    assert len(list(tmp_path.rglob("*.entry"))) == 3


def test_a_result_that_finds_the_disk_full_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        found = store.fetch("stage", 1, result)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.equal(found.tensors["x"], result().tensors["x"])
    assert "cannot be written (File too large)" in caplog.text
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]
    Store(tmp_path).fetch("stage", 1, result)
    Store(tmp_path).fetch("stage", 1, refuse)


def test_a_root_that_is_a_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=rf"cache.root={root}: {tmp_path / 'file'} is a file"):
            Store(root)


def test_a_failed_computation_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Store(tmp_path).fetch("stage", 1, refuse)
    assert list(tmp_path.rglob("*.entry")) == []


JOB = """
import sys, time
from pathlib import Path
from zoo.storage.store import StageResult, Store

def compute():
    with open(sys.argv[2], "a") as file:
        file.write("computed\\n")
    time.sleep(0.5)
    return StageResult(values=1)

Store(sys.argv[1]).fetch("stage", 1, compute)
"""


def test_parallel_jobs_compute_an_entry_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", JOB, str(tmp_path / "store"), str(log)]
    jobs = [subprocess.Popen(command) for _ in range(3)]
    assert [job.wait() for job in jobs] == [0, 0, 0]
    assert log.read_text() == "computed\n"


def test_what_is_added_joins_what_is_there(tmp_path: Path) -> None:
    Store(tmp_path).add("rows", {"seed": 0}, {"a": [0.5, -float("inf")]})
    Store(tmp_path).add("rows", {"seed": 0}, {"b": 2, "a": [0.25]})
    Store(tmp_path).add("rows", {"seed": 1}, {"c": 3})
    assert Store(tmp_path).find("rows", {"seed": 0}).values == {"a": [0.25], "b": 2}
    (path,) = (path for path in (tmp_path / "rows").glob("*.entry") if b'"c"' not in path.read_bytes())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="is damaged"):
        Store(tmp_path).add("rows", {"seed": 0}, {"d": 4})
    Store(tmp_path, rebuild_damaged=True).add("rows", {"seed": 0}, {"d": 4})
    assert Store(tmp_path).find("rows", {"seed": 0}).values == {"d": 4}
