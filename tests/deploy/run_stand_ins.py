"""Run directories and sweeps as the launcher leaves them, with names that try to be markup."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.defaults import default_settings
from zoo.storage.files import write_csv, write_text, write_yaml

HOSTILE = "<script>document.title='run'</script>\"><img src=x onerror=document.title='run'>"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="30"><rect width="90" height="30" fill="#07c"/></svg>'


def write_run(directory: Path, **changes: Any) -> Path:
    """A run of a search with five candidates, one of them without a finite score."""
    config: Mapping[str, Any] = default_settings("reassembly")
    settings = {**config, "seed": 7, "zoo": {"name": HOSTILE, "networks": {}}}
    result = {
        "status": "completed",
        "metrics": {"value": 0.9, "ridge": 0.9, "random": 0.4, "test_accuracy": 0.875},
        "composition": f"{HOSTILE}[0:3] + b[2:4]",
        "num_parameters": 168218,
        "macs": 1473152,
        "seconds": {"features": 1.5},
        "data": {"name": HOSTILE, "splits": {"train": 3}},
        "digests": {"data": "sha256:12"},
        "versions": {"torch": "2"},
        "reused": ["features"],
        "settings": settings,
        **changes,
    }
    write_text(directory / "result.json", json.dumps(result))
    write_yaml(directory / "config.yaml", settings)
    columns = ["rank", "composition", "kind", "num_params", "macs", "picked", "score_ridge"]
    rows = [
        [1, f"{HOSTILE}[0:3] + b[2:4]", "assembly", 900, 5000, 1, 0.9],
        [2, "b[0:4]", "network", 12000, 90, 0, 0.8],
        [3, "a[0:2]", "truncated", 80, 100, 0, 0.15],
        [4, "c[0:2]", "truncated", 7000, 20000, 0, 0.1],
        [5, "d[0:2]", "truncated", 70, 30, 0, "-inf"],
    ]
    write_csv(directory / "candidates.csv", columns, rows)
    write_text(directory / "drawing.svg", SVG)
    write_text(directory / "candidates.svg", SVG)
    return directory


def write_sweep(directory: Path) -> Path:
    """Two settings under three seeds, one job of them failed."""
    columns = ["job", "overrides", "status", "seconds", "value", "test_accuracy", "error"]
    rows = [
        [0, "tuning=full seed=0", "completed", 10.0, 0.8, 0.8, ""],
        [1, "tuning=full seed=1", "completed", 11.0, 0.9, 0.9, ""],
        [2, "tuning=full seed=2", "failed", 1.0, "", "", HOSTILE],
        [3, "seed=0 tuning=freeze", "completed", 5.0, 0.7, 0.7, ""],
        [4, "seed=1 tuning=freeze", "completed", 5.0, 0.7, 0.7, ""],
        [5, "seed=2 tuning=freeze", "completed", 5.0, 0.7, 0.7, ""],
    ]
    write_csv(directory / "sweep.csv", columns, rows)
    return directory
