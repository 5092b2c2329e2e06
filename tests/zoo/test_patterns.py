"""Zoos by pattern: what matches, how large it is, what is left out and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import zoo.patterns
from launch.errors import CONF
from zoo.errors import UserError
from zoo.loading import build_network
from zoo.registry import Zoo, find_entry, read_zoo


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "huozi" / "architectures"


def read(size: int = 64, **networks: Any) -> Zoo:
    return read_zoo({"name": "all", "input": {"height": size, "width": size}, "networks": networks})


def test_architectures_that_match_make_a_zoo_of_random_weights():
    found = read(pattern=["timm:regnetx_0*", "timm:regnety_002"], exclude="regnetx_00[2-4]*", max_params="7.5m")
    assert list(found) == ["regnetx_006", "regnetx_008", "regnety_002"]
    assert found.leave_out == "unfit"
    entry = found["regnety_002"]
    assert (entry.source, entry.weights, entry.input.height, entry.input.mean[0]) == ("timm", None, 64, 0.485)
    sizes = {name: sum(p.numel() for p in build_network(found[name]).parameters()) for name in found}
    (smallest, middle, largest) = sorted(sizes, key=lambda name: sizes[name])
    assert list(read(pattern="timm:regnet[xy]_00[268]", min_params=sizes[middle], max_params=sizes[middle])) == [middle]
    assert {smallest, largest} == set(read(pattern=[f"timm:{smallest}", f"timm:{largest}"]))


def test_tags_choose_published_weights_the_best_first():
    found = read(pattern="timm:resnet1[48]*", tags=["gluon_in1k", "a[12]_in1k"])
    assert {name: entry.hub for name, entry in found.items()} == {"resnet18": "gluon_in1k"}
    assert read(pattern="timm:resnet50", tags="a[12]_in1k")["resnet50"].hub in ("a1_in1k", "a2_in1k")


def test_a_name_of_both_sources_has_its_source_in_front():
    found = read(pattern=["timm:resnet18", "torchvision:resnet18", "torchvision:alexnet"])
    assert list(found) == ["timm_resnet18", "torchvision_resnet18", "alexnet"]


def test_few_of_many_are_taken_evenly():
    everything = list(read(pattern="timm:vgg*"))
    few = list(read(pattern="timm:vgg*", max_networks=3))
    assert few == [everything[i * len(everything) // 3] for i in range(3)]


def test_what_cannot_be_built_for_the_images_is_left_out_by_name():
    found = read(60, pattern=["timm:levit_128s", "timm:regnetx_002"])
    assert list(found) == ["regnetx_002"]
    assert list(found.left_out) == ["levit_128s"]
    assert "60 x 60" in found.left_out["levit_128s"]
    with pytest.raises(UserError, match="network 'levit_128s' is left out: levit_128s: "):
        found.entry("levit_128s")


def test_parameters_are_counted_once(cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = read(pattern="timm:regnetx_00*", max_params="6m")
    (kept,) = cache.iterdir()
    assert len(json.loads(kept.read_text())) > len(first) > 1
    monkeypatch.setattr(zoo.patterns, "build", lambda *_, **__: pytest.fail("built again"))
    assert list(read(pattern="timm:regnetx_00*", max_params="6m")) == list(first)


def test_a_damaged_count_is_made_anew(cache: Path):
    first = read(pattern="timm:regnetx_002")
    (kept,) = cache.iterdir()
    kept.write_text("{")
    assert list(read(pattern="timm:regnetx_002")) == list(first)
    assert len(json.loads(kept.read_text())) == 1


@pytest.mark.parametrize(
    ("networks", "told"),
    [
        ({"pattern": "timm:nothing*"}, "no architecture matches timm:nothing"),
        (
            {"pattern": "timm:resnet18", "tags": "no_such_tag"},
            "no architecture matches timm:resnet18 with weights no_suc",
        ),
        ({"pattern": "timm:resnet18", "exclude": "res*"}, "beside those of exclude"),
        ({"pattern": "resnet18"}, "networks.pattern: got 'resnet18', expected timm:GLOB or torchvision:GLOB"),
        ({"pattern": "hub:*"}, "got 'hub:"),
        (
            {"pattern": "timm:resnet18", "max_params": 9},
            "none of the 1 that match timm:resnet18 is left within max_par",
        ),
        (
            {"pattern": "timm:resnet18", "max_params": "30x"},
            "zoo.networks.max_params: got '30x', expected a number such",
        ),
        ({"pattern": "timm:resnet18", "max_params": -1}, "networks: max_params: got -1, expected at least 0"),
        ({"pattern": "timm:resnet18", "max_networks": 0}, "networks: max_networks: got 0, expected at least 1"),
        ({"pattern": "timm:resnet18", "min_param": 9}, "unknown field 'min_param'"),
        ({"pattern": []}, "no architecture matches"),
    ],
)
def test_what_matches_nothing_or_is_no_pattern_is_refused(networks: dict[str, Any], told: str):
    with pytest.raises(UserError) as found:
        read(**networks)
    assert told in str(found.value)
    assert "\n" not in str(found.value)


def test_the_zoo_of_all_timm_is_a_pattern_that_a_word_does_not_expand():
    content = yaml.safe_load((CONF / "zoo" / "timm_all.yaml").read_text())
    small = {**content, "networks": {**content["networks"], "pattern": "timm:regnetx_002", "max_params": "3m"}}
    assert read_zoo(small)["regnetx_002"].hub == "pycls_in1k"
    with pytest.raises(UserError, match="no network 'regnetx_002x'"):
        find_entry("regnetx_002x", CONF / "zoo")
