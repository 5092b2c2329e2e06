"""Files that run elsewhere: the same logits in batches of any size, what they tell of themselves, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import deploy.__main__ as command
import deploy.exporting
from deploy import Model
from deploy.exporting import METADATA_FILE, export
from deploy.samples import real_images
from tests.deploy.exports_table import FAMILIES, models, rows
from zoo.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
ELSEWHERE = """
import json, sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
images = numpy.load(sys.argv[2])
assert session.get_inputs()[0].type == "tensor(uint8)"
numpy.save(sys.argv[3], numpy.concatenate([session.run(None, {"images": images[i : i + 3]})[0] for i in (0, 3)]))
told = session.get_modelmeta().custom_metadata_map
assert not {"zoo", "deploy", "reassembly", "torch"} & set(sys.modules)
print(json.dumps([json.loads(told["classes"]), sorted(json.loads(told["networks"]))]))
"""


def test_an_onnx_file_runs_without_this_project(assembled: Model, bundle: Path, tmp_path: Path, capsys) -> None:
    import numpy as np

    path = tmp_path / "model.onnx"
    assert command.main(["export", str(bundle), "--preprocessing", "--output", str(path)]) == 0
    assert "photographs of scikit-learn: logits within" in capsys.readouterr().out
    images = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "images.npy", images.numpy())
    words = [
        sys.executable,
        "-P",
        "-c",
        ELSEWHERE,
        *(str(tmp_path / n) for n in ("model.onnx", "images.npy", "out.npy")),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == [list(assembled.classes), ["resnet_digits", "vit_digits"]]
    with torch.no_grad():
        expected = assembled(assembled.preprocess(images))
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "out.npy")), expected, rtol=1e-4, atol=1e-4)


def test_a_clone_becomes_a_program_of_torch_with_its_names(clone: Model, tmp_path: Path) -> None:
    found = export(clone, tmp_path / "clone.pt2", "torch_export")
    assert found.difference == 0
    extra = {METADATA_FILE: ""}
    program = torch.export.load(tmp_path / "clone.pt2", extra_files=extra).module()
    assert json.loads(json.loads(extra[METADATA_FILE])["classes"]) == list(clone.classes)
    x = torch.randn(7, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(program(x), clone(x))


def test_nothing_is_left_of_a_file_whose_logits_are_others(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_file = deploy.exporting.read_safetensors

    def damaged(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        tensors, told = load_file(path)
        return {name: tensor * 1.01 if name == "head.weight" else tensor for name, tensor in tensors.items()}, told

    monkeypatch.setattr(deploy.exporting, "read_safetensors", damaged)
    words = ["export", str(bundle), "--format", "safetensors", "--output", str(tmp_path / "model.safetensors")]
    assert command.main(words) == 2
    assert "is not written: logits of safetensors" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert command.main(words) == 0
    assert command.main(words) == 2
    assert "model.safetensors exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--output", "model.pt"], "expected a name that ends in .onnx"),
        (["--tolerance", "-1"], "--tolerance=-1: expected a share"),
        (["--format", "safetensors", "--preprocessing"], "--preprocessing does not go with --format safetensors"),
        (["--images", "nowhere"], "nowhere does not exist"),
    ],
)
def test_what_cannot_be_exported_is_told_in_one_line(bundle: Path, words: list, told: str, capsys) -> None:
    assert command.main(["export", str(bundle), *words]) == 2
    assert told in capsys.readouterr().err


def test_what_an_exporter_refuses_names_the_network(assembled: Model, tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr(torch.export, "export", refuse)
    with pytest.raises(UserError, match="memory cannot be exported as onnx: RuntimeError: no such operator"):
        export(assembled, tmp_path / "model.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_images_to_compare_on_are_real_and_of_the_networks_size(assembled: Model, images: Path) -> None:
    photographs, source = real_images(assembled)
    assert (photographs.shape, photographs.dtype) == ((16, 1, 32, 32), torch.uint8)
    assert photographs.float().std() > 20
    assert source == "photographs of scikit-learn"
    own, source = real_images(assembled, [images / "3/a.png"])
    assert own.shape == (1, 1, 32, 32)
    assert source == "the files given"


@pytest.mark.large
@pytest.mark.parametrize("kind", ["compositions", "clones", "families"])
def test_the_table_of_exports_holds(kind: str) -> None:
    page = (PROJECT / "docs/exports.md").read_text()
    for line in rows(kind):
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        written = next(row for row in page.splitlines() if row.startswith(f"| {name} |"))
        assert [cell.startswith("no:") for cell in cells] == [
            cell.strip().startswith("no:") for cell in written.strip("|").split("|")[1:]
        ]


def test_the_table_of_exports_has_all_rows() -> None:
    page = (PROJECT / "docs/exports.md").read_text()
    assert page.count("\n| ") - 3 == 49 + 5 + len(FAMILIES)
    assert next(models("compositions"))[0] == "resnet_digits"
