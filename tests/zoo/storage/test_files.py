from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from zoo.errors import UserError
from zoo.storage import files
from zoo.storage.plain import MAX_BYTES


@contextlib.contextmanager
def limited_file_size(num_bytes):
    """A disk on which no file grows larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_written_files_read_back(tmp_path):
    path = tmp_path / "new" / "directory" / "file"
    files.write_text(path, "Größe")
    assert path.read_text(encoding="utf-8") == "Größe\n"
    files.write_bytes(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    files.write_json(path, {"a": [1, None], "é": 0.5})
    assert files.read_json(path) == {"a": [1, None], "é": 0.5}
    files.write_yaml(path, {"b": {"c": [1, 2]}, "a": ["1", "no", 1e-5, None]})
    assert files.read_yaml(path) == {"b": {"c": [1, 2]}, "a": ["1", "no", 1e-5, None]}
    assert [other.name for other in path.parent.iterdir()] == ["file"]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": float("nan")})
    with pytest.raises(AttributeError):
        files.write_safetensors(path, {"a": 1}, {})
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "half \ud800")
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_tensors_and_metadata_are_the_same_bytes() -> None:
    metadata, tensors = {f"key {n}": "wörd" * n for n in range(9, 0, -1)}, {"b": torch.ones(3), "a": torch.zeros(2, 5)}
    content = files.safetensors_bytes(tensors, metadata)
    assert len({files.safetensors_bytes(tensors, metadata) for _ in range(5)}) == 1
    assert content.index(b"key 1") < content.index(b"key 2") < content.index(b"key 9")
    read = load(content)
    assert all(read[name].equal(tensor) for name, tensor in tensors.items())


def test_safetensors_keep_bits_shared_storage_and_metadata(tmp_path):
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    tensors = {"whole": base, "view": base.T, "half": base.half(), "count": torch.tensor(3), "none": torch.empty(0, 2)}
    files.write_safetensors(tmp_path / "w.safetensors", tensors, {"what": "test"})
    read, metadata = files.read_safetensors(tmp_path / "w.safetensors")
    assert metadata == {"what": "test"}
    assert read.keys() == tensors.keys()
    assert all(read[name].dtype == tensor.dtype and torch.equal(read[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: [1", "not readable as YAML"),
        (b"- 1\n- 2\n", "expected a mapping of fields at the top, got list"),
        (b"", "expected a mapping of fields at the top, got NoneType"),
        (b"a: 1\nb: 2\na: 3\n", "key 'a' is given twice"),
        (b"{a: {b: 1, b: 2}}", "key 'b' is given twice"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"a: !!python/object:os.system {}", "line 1, column 4: tags are not read"),
    ],
)
def test_damaged_yaml_is_refused_in_one_line(tmp_path, content, reason):
    path = tmp_path / "blueprint.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(reason)) as refusal:
        files.read_yaml(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("read", [files.read_yaml, files.read_json, files.read_safetensors])
def test_missing_files_are_refused_in_one_line(tmp_path, read):
    with pytest.raises(UserError, match=r"expected a file, but it does not exist$"):
        read(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"expected a file, but it is a directory$"):
        read(tmp_path)


@pytest.mark.parametrize("length", [0, 5, 60, -1])
def test_truncated_safetensors_are_refused_in_one_line(tmp_path, length):
    path = tmp_path / "w.safetensors"
    files.write_safetensors(path, {"w": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match="damaged or truncated") as refusal:
        files.read_safetensors(path)
    assert "\n" not in str(refusal.value)


def test_damaged_json_is_refused_in_one_line(tmp_path):
    (tmp_path / "result.json").write_text('{"a": ')
    with pytest.raises(UserError, match="not readable as JSON"):
        files.read_json(tmp_path / "result.json")


def test_any_flipped_bit_of_a_saved_tensor_and_any_cut_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"w": torch.arange(50.0)}, path)
    files.require_whole_archive(path)
    content = path.read_bytes()
    start = content.index(torch.arange(50.0).numpy().tobytes())
    for position in (start, start + 77, start + 199):
        for bit in (0, 7):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            assert torch.load(path, weights_only=True)["w"].shape == (50,)  # which does not look
            with pytest.raises(UserError, match=r"damaged: the bytes of last/data/0 do not fit"):
                files.require_whole_archive(path)
    for length in (0, 1, start, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="damaged or truncated") as refusal:
            files.require_whole_archive(path)
        assert "\n" not in str(refusal.value)


def test_several_files_are_whole_before_one_takes_its_place(tmp_path):
    old = {tmp_path / "a": b"old a", tmp_path / "b": b"old b"}
    files.write_together(old)
    for large in "ab":
        with limited_file_size(1000), pytest.raises(OSError, match="File too large") as refusal:
            files.write_together({path: b"x" * (2000 if path.name == large else 10) for path in old})
        assert refusal.value.filename == str(tmp_path / large)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path):
    path = tmp_path / "result.json"
    files.write_text(path, "old")
    with limited_file_size(1000), pytest.raises(OSError, match=re.escape(f"File too large: '{path}'")):
        files.write_bytes(path, b"x" * 2000)
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("directory", IsADirectoryError, "Is a directory"),
        ("file/below", OSError, "Not a directory|File exists"),
        ("x" * 300, OSError, "File name too long"),
    ],
)
def test_what_cannot_be_written_is_told_by_its_own_path(tmp_path, name, error, reason):
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(error, match=reason) as refusal:
        files.write_text(tmp_path / name, "new")
    assert str(tmp_path / name) in str(refusal.value)
    assert ".huozi-" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file"]


def test_errors_about_other_files_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="/nowhere/at/all"), files.atomic_path(tmp_path / "file"):
        Path("/nowhere/at/all").read_text()
    assert list(tmp_path.iterdir()) == []


def test_names_as_long_as_the_file_system_has_are_written(tmp_path):
    files.write_text(tmp_path / ("x" * 255), "new")
    assert (tmp_path / ("x" * 255)).read_text() == "new\n"


def test_permissions_are_those_of_any_new_file_and_links_stay_links(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    mask = os.umask(0o027)
    try:
        files.write_text(tmp_path / "link", "new")
    finally:
        os.umask(mask)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "new\n"
    assert (tmp_path / "real" / "file").stat().st_mode & 0o777 == 0o640


def test_no_directory_is_made_behind_a_link_and_a_link_itself_is_replaced_where_asked(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone" / "file")
    with pytest.raises(OSError, match=r"it is a link into a directory that is not there: .*gone/file") as raised:
        files.write_text(link, "new")
    assert raised.value.filename == str(link)
    assert not (tmp_path / "gone").exists()
    (tmp_path / "kept").write_text("old")
    link.unlink()
    link.symlink_to(tmp_path / "kept")
    files.write_bytes(link, b"new", follows_links=False)
    assert not link.is_symlink()
    assert (link.read_bytes(), (tmp_path / "kept").read_text()) == (b"new", "old")


WRITER = """
import signal, sys
from zoo.storage.files import atomic_path

with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    signal.pause()
"""


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_of_a_living_one(tmp_path):
    path = tmp_path / "file"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    half = Path(writer.stdout.readline().strip())
    foreign = tmp_path / ".huozi-another_host-1-abc.tmp"
    ours = [half, foreign, tmp_path / ".huozi-notes.tmp", tmp_path / ".other.tmp"]
    for other in ours[1:]:
        other.touch()
    files.write_text(path, "first")
    assert sorted(tmp_path.iterdir()) == sorted([path, *ours])
    writer.kill()
    writer.communicate()
    assert half.exists()
    files.write_text(path, "second")
    assert sorted(tmp_path.iterdir()) == sorted([path, *ours[1:]])
    os.utime(foreign, (0, 0))
    files.write_text(path, "third")
    assert sorted(tmp_path.iterdir()) == sorted([path, *ours[2:]])


def test_a_file_larger_than_the_limit_is_not_read(tmp_path):
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(UserError, match=r"large.yaml: larger than 2,097,152 bytes"):
        files.read_yaml(tmp_path / "large.yaml")


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1\n", encoding="utf-8-sig")
    assert files.read_yaml(tmp_path / "a.yaml") == {"a": 1}
