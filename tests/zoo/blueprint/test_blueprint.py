from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import yaml

from zoo.blueprint import (
    AdapterSpec,
    BlockSpec,
    HeadSpec,
    Provenance,
    ReassemblyBlueprint,
    check_digest,
    check_networks,
    read_blueprint,
    to_text,
    write_blueprint,
)
from zoo.errors import UserError

DIGESTS = {"mobile": "sha256:" + "0" * 64, "resnet": "sha256:" + "a1" * 32}
RECIPE = f"""\
format: huozi-blueprint/1
method: reassembly
blocks:
  - {{network: mobile, nodes: [0, 4]}}
  - {{network: resnet, nodes: [4, 8]}}
  - {{network: resnet, nodes: [8, 9]}}
adapters:
  - {{kind: linear, kernel_size: 3, initialisation: closed_form}}
  - {{kind: none}}
head:
  classes: ['0', '1']
networks:
  mobile: {DIGESTS["mobile"]}
  resnet: {DIGESTS["resnet"]}
"""
BLUEPRINT = ReassemblyBlueprint(
    blocks=(BlockSpec("mobile", (0, 4)), BlockSpec("resnet", (4, 8)), BlockSpec("resnet", (8, 9))),
    adapters=(AdapterSpec("linear", 3, "closed_form"), AdapterSpec("none")),
    head=HeadSpec(classes=("0", "1")),
    networks=DIGESTS,
)


def read(tmp_path, text: str):
    path = tmp_path / "blueprint.yaml"
    path.write_text(text)
    return read_blueprint(path)


def refused(tmp_path, text: str) -> str:
    with pytest.raises(UserError) as refusal:
        read(tmp_path, text)
    message = str(refusal.value)
    assert "\n" not in message
    assert message.startswith(str(tmp_path))
    return message


def test_the_single_step_that_earlier_versions_wrote_is_a_list_of_one(tmp_path):
    text = RECIPE.replace("networks:", "provenance: {zoo: embedded, score: 0.5, seed: 3}\nnetworks:")
    assert read(tmp_path, text).provenance == (Provenance("composed", zoo="embedded", score=0.5, seed=3),)


def test_recipe_is_read(tmp_path):
    assert read(tmp_path, RECIPE) == BLUEPRINT


def test_blueprint_survives_writing_and_reading(tmp_path):
    steps = (
        Provenance("composed", zoo="embedded", proxy="ridge", score=np.float64(0.9375), seed=0),
        Provenance("tuned", data="digits", seed=1, parent="sha256:12", mode="full", num_epochs=3, val_accuracy=0.5),
    )
    blueprint = ReassemblyBlueprint(
        BLUEPRINT.blocks[:2], (AdapterSpec("paper", 1, "random"),), HeadSpec(num_classes=7), DIGESTS, steps
    )
    path = tmp_path / "deep" / "blueprint.yaml"
    write_blueprint(path, blueprint)
    assert read_blueprint(path) == blueprint
    assert path.read_text() == to_text(blueprint)


def test_text_begins_with_format_and_method_and_keeps_every_block_on_a_line():
    lines = to_text(BLUEPRINT).splitlines()
    assert lines[:2] == RECIPE.splitlines()[:2]
    assert "  - {network: resnet, nodes: [4, 8]}" in lines
    assert list(yaml.safe_load(to_text(BLUEPRINT))) == ["format", "method", "blocks", "adapters", "head", "networks"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "huozi-blueprint/1",
            "huozi-blueprint/2",
            "format 'huozi-blueprint/2' is not supported; expected huozi-blueprint/1",
        ),
        ("format: huozi-blueprint/1\n", "", "format None is not supported"),
        ("method: reassembly", "method: cloning", "made by method=cloning, expected method=reassembly"),
        ("method: reassembly", "", "field method is missing: write method: reassembly"),
        ("method: reassembly", "method: [1]", "made by method=[1], expected method=reassembly"),
        ("head:", "haed:", "unknown field 'haed': did you mean 'head'?"),
        ("network: mobile", "netwrok: mobile", "unknown field 'blocks[0].netwrok': did you mean 'network'?"),
        ("[4, 8]", "[4, 8, 9]", "blocks[1].nodes: got [4, 8, 9], expected a list of 2"),
        ("[4, 8]", "[4, '8']", "blocks[1].nodes[1]: got '8', expected a whole number"),
        ("[4, 8]", "[8, 8]", "nodes [8, 8] of 'resnet': expected [start, stop], 0 <= start < stop"),
        ("[0, 4]", "[-1, 4]", "nodes [-1, 4] of 'mobile'"),
        ("[0, 4]", "[1, 4]", "the first block begins at 0"),
        ("[4, 8]", "[0, 8]", "blocks[1].nodes: only the first block may begin at node 0"),
        (
            "[8, 9]",
            "[7, 9]",
            "adapters[1].kind: none, but 'resnet' from node 7 does not continue 'resnet' up to node 8",
        ),
        ("  - {kind: none}\n", "", "adapters: got 1, expected 2"),
        ("kind: linear", "kind: cubic", "adapters[0].kind: got 'cubic', expected linear or paper or none"),
        ("kernel_size: 3", "kernel_size: 5", "adapters[0].kernel_size: got 5, expected 1 or 3 or auto"),
        ("kind: linear", "kind: paper", "kernel_size 3 does not exist for kind paper: use 1, or kind linear"),
        ("kernel_size: 3, initialisation: closed_form", "initialisation: random", "kernel_size auto needs"),
        ("['0', '1']", "[0, 1]", "head.classes[0]: got 0, expected text"),
        ("['0', '1']", "['0', '0']", "the names of the classes must differ"),
        ("['0', '1']", "[]", "got 0 classes"),
        ("classes: ['0', '1']", "num_classes: 0", "got 0 classes"),
        (
            "classes: ['0', '1']",
            "num_classes: 1000000000",
            "got 1000000000 classes, expected at least 1 and at most 100,000",
        ),
        ("classes: ['0', '1']", f"num_classes: {10**20}", "expected a whole number of at most 64 bits"),
        ("classes: ['0', '1']", "num_classes: true", "head.num_classes: got True, expected a whole number"),
        ("method: reassembly", "method: [&l [x], *l]", "anchors and aliases"),
        ("method: reassembly", "method: [[x]]", "made by method=[['x']], expected method=reassembly"),
        ("networks:", "provenance: {score: .nan}\nnetworks:", ".nan means different things"),
        ("classes: ['0', '1']", "{classes: ['0'], num_classes: 1}", "give either classes (their names) or num_classes"),
        (f"  mobile: {DIGESTS['mobile']}\n", "", "networks: the digest of 'mobile' is missing"),
        ("  mobile: ", "  convnext: " + DIGESTS["mobile"] + "\n  mobile: ", "networks: 'convnext' is used by no block"),
        (DIGESTS["mobile"], "sha256:12", "networks.mobile: got 'sha256:12', expected sha256: and 64"),
    ],
)
def test_bad_blueprints_are_refused_in_one_line(tmp_path, old, new, message):
    assert old in RECIPE
    assert message in refused(tmp_path, RECIPE.replace(old, new))


def test_more_than_can_be_built_is_refused():
    blocks = (BlockSpec("resnet", (0, 1)), *(BlockSpec("resnet", (i, i + 1)) for i in range(1, 1001)))
    with pytest.raises(UserError, match="blocks: got 1001, expected at least one and at most 1,000"):
        ReassemblyBlueprint(blocks, (AdapterSpec("none"),) * 1000, HeadSpec(num_classes=2), {})
    with pytest.raises(UserError, match="got 100001 classes"):
        HeadSpec(classes=tuple(map(str, range(100_001))))
    with pytest.raises(UserError, match="score: got nan, expected a number"):
        Provenance(score=float("nan"))


def test_no_block_is_refused():
    with pytest.raises(UserError, match="expected at least one"):
        ReassemblyBlueprint((), (), HeadSpec(num_classes=2), {})


def test_other_methods_bring_their_own_dataclass(tmp_path):
    @dataclass(frozen=True)
    class CloneBlueprint:
        target: str
        networks: Mapping[str, str]
        method: Literal["cloning"] = "cloning"

        def __post_init__(self) -> None:
            check_networks({self.target}, self.networks)

    clone = CloneBlueprint("mobile", {"mobile": DIGESTS["mobile"]})
    write_blueprint(tmp_path / "clone.yaml", clone)
    write_blueprint(tmp_path / "assembly.yaml", BLUEPRINT)
    assert read_blueprint(tmp_path / "clone.yaml", ReassemblyBlueprint, CloneBlueprint) == clone
    assert read_blueprint(tmp_path / "assembly.yaml", ReassemblyBlueprint, CloneBlueprint) == BLUEPRINT
    with pytest.raises(UserError, match=re.escape("made by method=cloning, expected method=reassembly")):
        read_blueprint(tmp_path / "clone.yaml")


def test_another_digest_names_the_network_and_both_digests():
    check_digest("mobile", DIGESTS["mobile"], DIGESTS["mobile"])
    with pytest.raises(UserError, match=r"network 'mobile'.*sha256:000000000000\.\.\..*sha256:a1a1a1a1a1a1\.\.\."):
        check_digest("mobile", DIGESTS["mobile"], DIGESTS["resnet"])
