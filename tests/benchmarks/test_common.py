"""What benchmarks write."""

from __future__ import annotations

import json

from benchmarks.common import publish


def test_a_published_table_has_its_rows_as_json_and_says_how_to_read_them(tmp_path):
    rows = [{"way": "tree", "ms": 1234.567, "n": 1000}, {"way": "swap", "ms": 0.5, "n": 3}]
    table = publish("assembly", "what it says.", rows, tmp_path)
    assert json.loads((tmp_path / "assembly.json").read_text()) == rows
    assert (tmp_path / "assembly.md").read_text() == table
    first, *rest = table.splitlines()
    assert first.startswith("`python -m benchmarks.assembly`: what it says.")
    assert rest == [
        "",
        "| way | ms | n |",
        "|---|---|---|",
        "| tree | 1235 | 1,000 |",
        "| swap | 0.5 | 3 |",
    ]
