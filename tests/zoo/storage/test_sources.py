"""What code counts: a foreign module with what it imports from beside itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.storage.sources import library_versions, module_digest, own_code_digest

FILES = {
    "mine_alone.py": "import mine_helper, os, torch\n",
    "mine_helper.py": "from mine_package.deep import layers\n",
    "mine_package/__init__.py": "",
    "mine_package/deep/__init__.py": "",
    "mine_package/deep/layers.py": "from ..other import x\nfrom . import sibling\n",
    "mine_package/deep/sibling.py": "",
    "mine_package/other.py": "x = 1\n",
    "mine_package/unused.py": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def digest(name: str) -> str | None:
    module_digest.cache_clear()
    return module_digest(name)


@pytest.mark.parametrize("edited", FILES)
def test_a_module_counts_with_all_that_it_imports_from_beside_it(folder: Path, edited: str) -> None:
    before = digest("mine_alone")
    (folder / edited).write_text(FILES[edited] + "# edited\n")
    assert (digest("mine_alone") != before) == (edited != "mine_package/unused.py")


@pytest.mark.parametrize("edited", ["mine_package/__init__.py", "mine_package/deep/__init__.py"])
def test_a_module_inside_a_package_counts_with_its_packages(folder: Path, edited: str) -> None:
    before = digest("mine_package.deep.sibling")
    (folder / edited).write_text("# edited\n")
    assert digest("mine_package.deep.sibling") != before


def test_installed_modules_count_by_file_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest("timm.models")
    monkeypatch.setattr("zoo.storage.sources.installed_version", lambda name: "0.0")
    assert before is not None
    assert digest("timm.models") != before


@pytest.mark.parametrize("name", ["zoo.loading", "datamodules", "no_such_module", "sys"])
def test_our_own_and_what_has_no_source_do_not_count(name: str) -> None:
    assert digest(name) is None


def test_all_our_own_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_code_digest() == own_code_digest.__wrapped__()
    assert library_versions()["torch"]
    monkeypatch.setattr("zoo.storage.sources.PROJECT", tmp_path)
    found = []
    for name in ("zoo/chain/chain.py", "cloning/head.py", "launch/job.py", "datamodules/deep/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1")
        found.append(own_code_digest.__wrapped__())
    assert len(set(found)) == 3  # launch computes nothing
    (tmp_path / "zoo/chain/chain.py").write_text("x = 2")
    assert own_code_digest.__wrapped__() not in found
