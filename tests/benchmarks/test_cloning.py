"""The scenarios of the cloning benchmark, and its table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cloning import CONTROLS, DEFAULT, TRIES, missing_jobs
from benchmarks.cloning_scenarios import FOLDER, read_scenario
from benchmarks.cloning_table import NAMES, Row, read_rows, table, write_rows
from cloning.rivals import RIVALS
from zoo.errors import UserError

SCENARIOS = sorted(file.stem for file in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_asks_networks_for_what_they_know(name: str) -> None:
    scenario = read_scenario(name)
    networks = dict(scenario.networks or {})
    for network, classes in {scenario.target: scenario.kept, **scenario.cloned}.items():
        assert network in networks or scenario.zoo == "embedded"
        assert set(classes) <= set(networks.get(network, classes))
    gained = [c for classes in scenario.cloned.values() for c in classes]
    assert len({*scenario.kept, *gained}) == len(scenario.kept) + len(gained)


def test_there_are_those_that_run_here_and_those_of_the_article() -> None:
    assert set(DEFAULT) < set(SCENARIOS)
    for data in ("mnist", "cifar10", "cifar100", "tiny_imagenet"):
        assert {f"{data}_5_2", f"{data}_4_2_2"} <= set(SCENARIOS)
    assert {*RIVALS, *CONTROLS, "cloning", "cloning_statistics"} == set(TRIES) == set(NAMES)
    with pytest.raises(UserError, match="nowhere: no such scenario; there are cifar100_4_2_2"):
        read_scenario("nowhere")


def row(method: str, seed: int, mean: float, **changes: object) -> Row:
    options = {"added_macs": 10, "added_params": 5, "exemplars": 0, **changes}
    return Row("a", method=method, seed=seed, strengths={}, composition="", tried=(), original=mean, cloned=mean,
               mean=mean, num_bytes=8, seconds=1.0, **options)  # fmt: skip


def test_differences_are_paired_by_seed_and_rows_are_kept(tmp_path: Path) -> None:
    rows = [row("cloning", seed, 0.9 + seed / 100) for seed in range(3)]
    rows += [row("ranpac", seed, 0.88 + seed / 100) for seed in range(3)]  # two points less with every seed
    rows += [row("joint", 0, 0.95, added_macs=None, added_params=None)]
    write_rows(tmp_path / "table", {r.key: r for r in rows}, tuple(TRIES))
    assert list(read_rows(tmp_path / "table").values()) == rows
    lines = list(table(rows, tuple(TRIES)))
    assert next(text for text in lines if "RanPAC" in text).split("|")[5].strip() == "+2.0 ± 0.0"
    assert next(text for text in lines if "joint" in text).split("|")[5:8] == ["  ", " 1 ", " - "]


def test_only_what_is_missing_is_measured_and_a_search_serves_all_that_begin_with_it() -> None:
    scenario = read_scenario("mnist5k_one_source")
    methods = ("cloning", "cloning_random", "full_cloning", "ranpac", "lwf")
    there = [
        replace(row("lwf", 0, 0.9), scenario=scenario.name),
        replace(row("lwf", 1, 0.9, added_macs=None), scenario=scenario.name),
    ]
    jobs = missing_jobs({r.key: r for r in there}, [scenario], 2, [0, 10], methods)
    told = [(seed, exemplars, names) for _, seed, exemplars, names in jobs]
    searched = ("cloning", "cloning_random")
    trained = (*searched, "full_cloning")
    assert told == [
        *((0, 0, names) for names in (searched, ("ranpac",))),
        *((0, 10, names) for names in (trained, ("lwf",))),
        *((1, 0, names) for names in (searched, ("ranpac",), ("lwf",))),
        *((1, 10, names) for names in (trained, ("lwf",))),
    ]
