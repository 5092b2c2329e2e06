"""Every architecture of the support table: the quick ones here, all of them with ``-m large``."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.__main__ import main
from zoo.architectures import ARCHITECTURES, Architecture, select
from zoo.support import Support, examine, support_page


def rows() -> list:
    return [
        pytest.param(architecture, id=architecture.id, marks=() if architecture.is_quick else pytest.mark.large)
        for architecture in ARCHITECTURES
    ]


@pytest.mark.parametrize("architecture", rows())
def test_every_row_of_the_table_holds(architecture: Architecture) -> None:
    support = examine(architecture)
    assert bool(support.refusal) == (not architecture.is_chain)
    assert support.holds == architecture.is_chain, support
    if support.refusal:
        assert support.refusal.startswith(architecture.model)
        assert "nodes=[...]" in support.refusal


def test_every_architecture_is_listed_once() -> None:
    ids = [architecture.id for architecture in ARCHITECTURES]
    assert len(ids) == len(set(ids)) > 150
    assert sum(architecture.is_quick for architecture in ARCHITECTURES) >= 12


def test_the_page_counts_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain, refused = select(["resnet"])[0], select(["crossvit"])[0]
    good = Support(10, 8, "NCHW", True, True, "exact", True, True, 0.25)
    bad = Support(10, 2, "NCHW > NLC", True, False, "fixed", True, True, 0.25)
    page = support_page([(chain, good), (chain, bad), (refused, Support(refusal="it is no chain"))])
    assert "2 of 3 architectures become chains; 1 of them pass" in page
    assert "1 have fewer" in page
    assert "| resnet18 | 8 | NCHW | yes | yes | exact | yes | yes | 0.2 |" in page
    assert "| resnet18 | 2 | NCHW > NLC | yes | **no** | fixed | yes | yes | 0.2 |" in page
    assert "- `crossvit_9_240`: it is no chain" in page


def test_the_command_writes_the_page_of_some_families(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "support.md"
    assert main(["support", "--families", "visformer", "--output", str(path)]) == 0
    assert "1 of 1 architectures become chains; 1 of them pass" in path.read_text()


def test_an_unknown_family_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["support", "--families", "resnot"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "resnot" in error
    assert "resnet" in error
