"""What benchmarks write."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time

import pytest

from benchmarks.common import publish, workers


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


def test_an_interruption_ends_the_workers_which_do_not_hear_it_themselves() -> None:
    def interrupt() -> None:
        with workers(1) as pool:
            assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
            for _ in range(3):
                pool.submit(time.sleep, 600)
            raise KeyboardInterrupt

    others = multiprocessing.active_children()
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, heard)
    for process in set(multiprocessing.active_children()) - set(others):
        process.join(30)
        with pytest.raises(ProcessLookupError):  # the pool's own thread may have waited for it first
            os.kill(process.pid, 0)
