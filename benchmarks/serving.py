"""One process for 1, 10, 100 and 1000 clones on one zoo: ``python -m benchmarks.serving`` (some minutes on two cores).

Clones are made up: a target and one or two sources of the embedded zoo, gates of a handful of modules a source, random
heads; what is measured does not depend on what they know. For every N a real server process (``python -m cloning
serve``) is given N files and asked by concurrent clients, each of which asks for a clone at random and waits for its
answer. Memory is that of the process, beside what N whole networks (target and sources of every clone) weigh. Clients
and server share the machine.
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cloning.bundle import pack
from cloning.clone import Clone, spread_cuts
from cloning.frozen import FrozenNetwork
from cloning.gates import num_gates
from cloning.network import ClonedNetwork
from cloning.settings import InsertionSettings
from cloning.shelf import Shelf
from zoo.arguments import Parser, positive, run
from zoo.registry import read_zoo
from zoo.storage.files import read_json, write_json, write_text
from zoo.storage.places import require_directory
from zoo.storage.records import to_plain

PROJECT = Path(__file__).resolve().parents[1]
ZOO = "embedded"
TARGETS = {"resnext_low": ("regnety_even", "convnext_odd"), "regnety_even": ("convnext_odd", "resnext_low")}
MODULES_PER_SOURCE = 4
MIB = 2**20


@dataclass(frozen=True)
class Row:
    """What N clones took.

    Attributes:
        num_clones: N.
        start_seconds: Until the server was ready, all clones read and checked.
        memory_mib: Of the process at the end.
        files_mib: Of the packed clones.
        whole_mib: What target and sources of every clone weigh, each clone with its own.
        images_per_second: Answered, all clients together.
        p50_ms: Median time from question to answer.
        p99_ms: The slowest of a hundred.
        images_per_batch: Mean.
    """

    num_clones: int
    start_seconds: float
    memory_mib: float
    files_mib: float
    whole_mib: float
    images_per_second: float
    p50_ms: float
    p99_ms: float
    images_per_batch: float


@cache
def made_up(number: int, networks: Callable[[str], FrozenNetwork]) -> ClonedNetwork:
    """A clone that no other equals: its head is drawn, its modules are some of a handful."""
    draw = random.Random(number)
    target = networks(draw.choice(sorted(TARGETS)))
    clones, known = [], set(target.classes)
    for name in draw.sample(TARGETS[target.name], draw.choice((1, 2))):
        source = networks(name)
        gained = [c for c in source.classes if c not in known][:2]
        if gained:
            clones.append(Clone(source, tuple(gained), module(source, draw.randrange(MODULES_PER_SOURCE)), 0))
            known.update(gained)
    classes = [*target.classes, *(c for clone in clones for c in clone.classes)]
    cuts = spread_cuts(target, InsertionSettings().num_head_cuts)
    network = ClonedNetwork(target, classes, clones, [None] * len(clones), cuts)
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        network.head.weight.add_(0.01 * torch.randn(network.head.weight.shape, generator=generator))
    return network


def module(source: FrozenNetwork, number: int) -> torch.Tensor:
    """Gates of which 70 % are open; the first of a source is all of it."""
    draws = torch.rand(num_gates(source.sites), generator=torch.Generator().manual_seed(number))
    return (draws < (0.7 if number else 2)).float()


def ask(port: int, names: list[str], image: bytes, stop: float, seed: int, seconds: list[float]) -> None:
    """One client: question after question on one connection until the time is up."""
    draw = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    while time.perf_counter() < stop:
        started = time.perf_counter()
        connection.request("POST", f"/clones/{draw.choice(names)}/predict", image, {"content-type": "image/png"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"status {answer.status}")
        seconds.append(time.perf_counter() - started)
    connection.close()


def measure(
    num_clones: int, folder: Path, networks: Callable[[str], FrozenNetwork], arguments: argparse.Namespace
) -> Row:
    """Starts a server for the files of a folder, and asks it."""
    files, whole = 0, 0
    for number in range(num_clones):
        path = folder / f"clone{number}.hz"
        network = made_up(number, networks)
        files += path.stat().st_size if path.exists() else pack(network, path)
        whole += sum(4 * n.chain.costs.num_params for n in network.networks())
    command = [sys.executable, "-m", "cloning", "serve", "--zoo", ZOO, "--clones", str(folder), "--port", "0"]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ
    )
    try:
        port = int(re.search(r":(\d+): ", process.stdout.readline())[1])
        start_seconds = time.perf_counter() - started
        image = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (28, 28), dtype=np.uint8)).save(image, "png")
        names, seconds = [f"clone{number}" for number in range(num_clones)], []
        for duration in (2.0, arguments.seconds):  # the first one warms up
            seconds.clear()
            stop = time.perf_counter() + duration
            options = [(port, names, image.getvalue(), stop, seed, seconds) for seed in range(arguments.clients)]
            threads = [threading.Thread(target=ask, args=option) for option in options]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read().decode()
        images, batches = (float(re.search(rf"huozi_batch_images_{w} (\S+)", metrics)[1]) for w in ("sum", "count"))
        status = Path(f"/proc/{process.pid}/status").read_text()
        memory = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
    p50, p99 = (1000 * float(np.quantile(seconds, q)) for q in (0.5, 0.99))
    rate = len(seconds) / arguments.seconds
    return Row(num_clones, start_seconds, memory, files / MIB, whole / MIB, rate, p50, p99, images / batches)


def main() -> None:
    """Measures; writes ``benchmarks/results/serving.md`` and ``.json``, in which rows of other N stay."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clones", type=positive, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--clients", type=positive, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--results", type=Path, default=PROJECT / "benchmarks" / "results")
    arguments = parser.parse_args()
    require_directory("--results", arguments.results)
    networks, load = Shelf(read_zoo(ZOO)).network, os.getloadavg()[0]
    path = arguments.results / "serving.json"
    rows = {row["num_clones"]: Row(**row) for row in (read_json(path)["rows"] if path.exists() else ())}
    with tempfile.TemporaryDirectory() as folder:
        for num_clones in sorted(arguments.clones):
            rows[num_clones] = measure(num_clones, Path(folder), networks, arguments)
            print(line(rows[num_clones]), flush=True)
    rows = [rows[num_clones] for num_clones in sorted(rows)]
    content = {"clients": arguments.clients, "cores": os.cpu_count(), "load": load, "rows": to_plain(rows)}
    write_json(path, content)
    machine = f"{os.cpu_count()} cores shared with the clients, load {load:.1f} when it began"
    note = (
        "`python -m benchmarks.serving`: one process (`python -m cloning serve`) for N made-up clones on the embedded "
        f"zoo, asked by {arguments.clients} clients at once for a clone at random; {machine}. Whole: what target and "
        "sources of every clone weigh, each clone with its own."
    )
    head = "| N | ready, s | process, MiB | files, MiB | whole, MiB | images/s | p50, ms | p99, ms | images a batch |"
    write_text(
        arguments.results / "serving.md",
        "\n".join(["# Many clones on one shelf", "", note, "", head, "|---" * 9 + "|", *map(line, rows)]),
    )


def line(row: Row) -> str:
    """Of the table."""
    return (
        f"| {row.num_clones:,} | {row.start_seconds:.1f} | {row.memory_mib:.0f} | {row.files_mib:.2f} | "
        f"{row.whole_mib:,.0f} | {row.images_per_second:.0f} | {row.p50_ms:.1f} | {row.p99_ms:.1f} | "
        f"{row.images_per_batch:.1f} |"
    )


if __name__ == "__main__":
    run(main)
