"""Each study as a whole on a very small zoo, and its correlation against its definition."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from studies import locality
from studies.correlation import kendall
from studies.naswot_tau import conclude as conclude_proxies
from tests.small_comparison import FEW, FEW_PICKS, FEW_SCORES, WITHOUT

OPEN = "budget=unlimited"
STUDIES = {
    "replacement": ([], ["--mode", "probe"]),
    "partition": ([*FEW_PICKS, OPEN], ["--mode", "probe", "--drawn", "1", "--ways", "even", "stage"]),
    "naswot_tau": ([*FEW_SCORES, OPEN], ["--drawn", "2", "--modes", "freeze"]),
    "scales": (FEW_PICKS, ["--limits", "330000", "--modes", "probe"]),
    "frozen_or_full": ([OPEN], ["--drawn", "2"]),
    "adapters": ([OPEN], ["--drawn", "1"]),
    "branching": (FEW_PICKS, ["--limits", "330000", "--shortlist", "4"]),
    "soups": (FEW_PICKS, ["--limit", "330000", "--draws", "2", "--modes", "freeze"]),
}
"""Overrides and options of each."""


def test_tau_is_that_of_scipy_ties_among_it() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 6, (2, 30))
    found = kendall(first, second)
    assert found.tau == pytest.approx(kendalltau(first, second).statistic)
    assert found.low < found.tau < found.high


def test_rows_of_different_splits_are_not_compared() -> None:
    """Within each split the order is reversed; a shift between them would hide it."""
    assert kendall([1, 2, 3, 11, 12, 13], [3, 2, 1, 13, 12, 11], [0, 0, 0, 1, 1, 1]).tau == -1
    assert kendall([1, 1], [1, 2]).tau is None


def test_regret_is_what_the_first_by_score_lacks_to_the_best() -> None:
    rows = [
        {"seed": 0, "scores": {"ridge": score}, "milliseconds": {"ridge": 1.0}, "full": [accuracy, accuracy]}
        for score, accuracy in ((3.0, 0.7), (2.0, 0.9), (float("-inf"), 0.8))
    ]
    summary, _ = conclude_proxies(rows)
    assert summary["full"]["proxies"]["ridge"]["regret"] == pytest.approx(0.2)
    assert summary["full"]["ceiling"]["tau"] == 1


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_says_claim_measured_and_conditions(name: str, cache: Path, tmp_path: Path) -> None:
    output = tmp_path / "study_v1.2"
    overrides, options = STUDIES[name]
    words = [*FEW, "dataset.num_test=40", *overrides, "--without", *WITHOUT, "--dataset", "digits", "--splits", "1"]
    words += ["--cache", str(cache), *options]
    import_module(f"studies.{name}").STUDY.main([*words, "--output", str(output)])
    found = json.loads(Path(f"{output}.json").read_text())
    assert found["measured"]
    assert "2 networks" in found["conditions"]
    assert found["rows"]
    assert Path(f"{output}.png").exists()
    assert found["command"].startswith(f"python -m studies.{name} dataset.num_train=40")
    if name == "replacement":
        names = {row["block"].partition("[")[0] for row in found["rows"]}
        assert names == {"regnety_even"}
        assert all(0 <= row[name] <= 2 for row in found["rows"] for name in ("similarity", "probe_similarity"))
        assert all(0 <= row["adapter_error"] < 1.5 for row in found["rows"])
    if name == "adapters":
        assert len({row["accuracy"] for row in found["rows"]}) > 1


@pytest.mark.parametrize(("name", "option"), [("scales", "--limits"), ("branching", "--limits"), ("soups", "--limit")])
def test_a_study_of_nothing_writes_nothing(
    name: str, option: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FEW, "dataset.num_test=40", *FEW_PICKS, "--without", *WITHOUT, "--dataset", "digits", "--splits", "1"]
    with pytest.raises(SystemExit) as ended:
        import_module(f"studies.{name}").STUDY.main(
            [*words, option, "5", "--cache", str(cache), "--output", str(tmp_path / "study")]
        )
    line = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert line.startswith("error: nothing fits 5 parameters; the smallest network there is, ")
    assert f"type {option} " in line
    assert list(tmp_path.iterdir()) == []


def test_one_network_has_no_assembly(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*FEW, "dataset.num_test=40", "--without", *WITHOUT, "resnet_digits", "--dataset", "digits"]
    with pytest.raises(SystemExit):
        import_module("studies.adapters").STUDY.main([*words, "--cache", str(cache), "--output", str(tmp_path / "x")])
    assert "error: zoo embedded (1 networks) has no assembly: type --without fewer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("study", "words", "told"),
    [
        ("scales", ["budget=200k"], "budget=200k has no effect here: type --limits N"),
        ("scales", ["seed=3"], "type --splits N"),
        ("scales", ["zoo=cnn"], "the zoo is given by"),
        ("scales", ["dataset=digits"], "the data set is given by"),
        ("scales", ["tuning.mode=full"], "tuning.mode=full has no effect here"),
        ("scales", ["tuning=full"], "tuning=full has no effect here: type --modes or --mode"),
        ("scales", ["resume=runs/x"], "the same command goes on"),
        ("scales", ["++output_dir=x"], "type --output PATH"),
        ("scales", ["experiment=real"], "experiment=real has no effect here"),
        ("scales", ["trainer=ddp", "trainer.accelerator=cpu"], "trainer.strategy=ddp"),
        ("scales", ["trainer=gpu"], "trainer.accelerator=gpu: torch finds no such device"),
        ("adapters", ["finalists=3"], "finalists=3 has no effect here: leave it out"),
        ("adapters", ["adapter=paper"], "adapter=paper has no effect here"),
        ("naswot_tau", ["proxy=logme"], "proxy=logme has no effect here"),
        ("partition", ["partition.mode=even"], "partition.mode=even has no effect here"),
        ("locality", ["tuning.num_epochs=3"], "tuning.num_epochs=3 has no effect here: type dataset=NAME"),
    ],
)
def test_an_override_that_does_nothing_is_refused(
    study: str, words: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.machine._count_devices", lambda: {"cpu": 2, "gpu": 0, "mps": 0})
    command = import_module(f"studies.{study}")
    with pytest.raises(SystemExit) as ended:
        getattr(command, "STUDY", command).main(words)
    line = capsys.readouterr().err
    assert (ended.value.code, line.count("\n")) == (2, 1)
    assert told in line


def test_matrices_are_those_of_modules_of_single_classes(tmp_path: Path) -> None:
    """The whole network in the place of every module is alike itself everywhere; half of it at random is not."""
    words = ["dataset=mnist5k", "dataset.num_train=60", "dataset.num_test=60", "--networks", "regnety_even"]
    for localiser in ("none", "magnitude"):
        locality.main([*words, "--localiser", localiser, "--output", str(tmp_path / localiser)])
    whole, half = (
        json.loads((tmp_path / f"{name}.json").read_text())["matrices"]["regnety_even"]
        for name in ("none", "magnitude")
    )
    assert whole["classes"] == ["0", "2", "4", "6", "8"]
    assert np.allclose(whole["module"], 1, atol=1e-5)
    assert np.allclose(np.diag(whole["source"]), 1)
    assert np.allclose(np.array(whole["source"]).T, whole["source"])
    assert np.shape(half["random"]) == (5, 5)
    assert np.max(half["module"]) < 1
    assert (tmp_path / "magnitude.png").exists()
    with pytest.raises(SystemExit):
        locality.main(["dataset=mnist5k", "--networks", "mobilenetv3_rotation", "--output", str(tmp_path / "none")])
