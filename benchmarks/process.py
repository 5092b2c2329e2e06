"""Whole commands as a user types them: processor seconds, wall seconds, memory, alone and beside a busy process.

``python -m benchmarks.process`` (some minutes on two cores). Every command is a process of its own in an empty folder;
what it needs of an earlier one has been run there before. Processor seconds are user and system time on one thread
(``OMP_NUM_THREADS=1``), which hardly depends on what else the machine does; beside a busy process the threads are what
the command chooses itself. The table goes to ``benchmarks/results/process.md`` with the ratios to the table that was
there, so that a slow-down is seen: of the processor seconds in units of ``import torch``, which is measured in the same
run, as a machine that does other things as well is up to twice as slow on that clock, too.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.arguments import Parser, run
from zoo.storage.files import write_text
from zoo.storage.places import require_file

PROJECT = Path(__file__).resolve().parents[1]
TABLE = PROJECT / "benchmarks" / "results" / "process.md"
UNIT = "import torch"
COMMANDS: dict[str, tuple[str, ...]] = {
    UNIT: ("-c", "import torch"),
    "search.py --help": ("search.py", "--help"),
    "search.py --cfg job": ("search.py", "--cfg", "job"),
    "search.py finalists=1, cold": ("search.py", "finalists=1"),
    "search.py finalists=1, warm": ("search.py", "finalists=1"),
    "train.py finalists=1 tuning=freeze, searched": ("train.py", "finalists=1", "tuning=freeze"),
    "search.py, cold": ("search.py",),
    "search.py method=cloning, cold": ("search.py", "method=cloning"),
    "train.py method=cloning, searched": ("train.py", "method=cloning"),
}
COLD = " cold"
BUSY = "train.py finalists=1 tuning=freeze, searched"
"""What is measured beside a busy process, too: there a training took 13 times as long before its threads slept."""


@dataclass(frozen=True)
class Cost:
    """What a process took: seconds of the processor and of the clock, and the most memory it held, in GiB."""

    cpu: float
    wall: float
    memory: float


def measure(words: Sequence[str], folder: Path, **environment: str) -> Cost:
    """Runs ``python words`` in a folder to its end."""
    script = [str(PROJECT / words[0]), *words[1:]] if words[0].endswith(".py") else list(words)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "HUOZI_"))}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *script],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(PROJECT), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 2**20)


def beside_a_busy_process(words: Sequence[str], folder: Path) -> Cost:
    """The same with the threads that the command chooses, while another process keeps one core busy."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        return measure(words, folder)
    finally:
        busy.kill()
        busy.wait()


def earlier(text: str) -> dict[str, float]:
    """Processor seconds by command, of an earlier table."""
    return {name: float(cpu) for name, cpu in re.findall(r"^\| ([^|]+?) \| ([\d.]+) \|", text, re.MULTILINE)}


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="commands whose name holds this; no table without --output")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    table = arguments.output or TABLE
    require_file("--output", table)
    before = earlier(table.read_text()) if table.exists() else {}
    rows, load, unit = [], os.getloadavg()[0], 1.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, words in COMMANDS.items():
            if arguments.only not in name and name != UNIT:
                continue
            if name.endswith(COLD):
                folder = Path(tempfile.mkdtemp(dir=temporary))
            cost = measure(words, folder, OMP_NUM_THREADS="1")
            unit = cost.cpu if name == UNIT else unit
            ratio = f"{cost.cpu / unit / (before[name] / before[UNIT]):.2f}" if {name, UNIT} <= before.keys() else ""
            busy = beside_a_busy_process(words, folder).wall if name == BUSY else None
            alone = measure(words, folder).wall if name == BUSY else None
            threads = f"{alone:.1f} / {busy:.1f}" if busy is not None else ""
            rows.append(f"| {name} | {cost.cpu:.2f} | {cost.wall:.1f} | {cost.memory:.2f} | {ratio} | {threads} |")
            print(rows[-1], flush=True)
    head = "| command | CPU s | wall s | GiB | to the last table | wall s, own threads: alone / beside a busy process |"
    note = (
        f"Made by `python -m benchmarks.process`; {os.cpu_count()} cores, load {load:.1f} when it began. CPU seconds "
        "are of one thread; divide by those of `import torch` to compare machines."
    )
    if not arguments.only or arguments.output:
        write_text(table, "\n".join([note, "", head, "|---|---|---|---|---|---|", *rows]))


if __name__ == "__main__":
    run(main)
