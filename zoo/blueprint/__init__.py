"""What was composed, as text; with the weights that were learnt it is a bundle."""

from __future__ import annotations

from zoo.blueprint.blueprint import (
    FORMAT,
    MAX_CLASSES,
    AdapterSpec,
    BlockSpec,
    HeadSpec,
    Provenance,
    ReassemblyBlueprint,
    check_digest,
    check_networks,
    composition,
    parse_blueprint,
    read_blueprint,
    text_digest,
    to_text,
    write_blueprint,
)
from zoo.blueprint.bundle import (
    BLUEPRINT_FILE,
    INTERFACE_FILE,
    WEIGHTS_FILE,
    Bundle,
    check_tensors,
    read_bundle,
    write_bundle,
)
from zoo.blueprint.seen import SeenImages

__all__ = [
    "BLUEPRINT_FILE",
    "FORMAT",
    "INTERFACE_FILE",
    "MAX_CLASSES",
    "WEIGHTS_FILE",
    "AdapterSpec",
    "BlockSpec",
    "Bundle",
    "HeadSpec",
    "Provenance",
    "ReassemblyBlueprint",
    "SeenImages",
    "check_digest",
    "check_networks",
    "check_tensors",
    "composition",
    "parse_blueprint",
    "read_blueprint",
    "read_bundle",
    "text_digest",
    "to_text",
    "write_blueprint",
    "write_bundle",
]
