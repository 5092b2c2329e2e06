from __future__ import annotations

import json
import re

import pytest
import torch

from zoo.errors import UserError
from zoo.storage import files


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


def test_yaml_is_laid_out_like_a_recipe():
    text = files.dump_yaml({"steps": [{"take": "flour", "of": [1, 2]}], "bake": {"minutes": 30}})
    assert text == "steps:\n  - {take: flour, of: [1, 2]}\nbake:\n  minutes: 30\n"


def test_repeated_content_is_written_out_without_anchors():
    shared = {"x": 1}
    assert "&" not in files.dump_yaml({"a": shared, "b": shared})


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
        (b"a: !!python/object:os.system {}", "not readable as YAML"),
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
