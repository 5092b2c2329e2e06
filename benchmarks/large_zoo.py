"""A search over very many architectures, stage by stage: seconds, peak memory, certificates, growth in N and K.

    python -m benchmarks.large_zoo          # a hundred, random weights, 64 pixels; a quarter of an hour on a free core

Small architectures of timm of thirty families, evenly out of the alphabet; those that are no chain are left out by
name. The search is the real one. Networks are sliced and features computed once; the other stages for several numbers
of networks and of blocks. Exponents are slopes of log seconds against log N (K fixed) and log K (N fixed). Written to
``benchmarks/results/large_zoo.json`` and ``.md`` after every search.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sampling import MemorySampler
from datamodules import Digits
from reassembly.pipeline import Search
from reassembly.settings import Budget, PartitionSettings, ProxySettings, SearchSettings, SimilaritySettings
from zoo.arguments import Parser, positive, run
from zoo.chain_cache import ChainCache
from zoo.registry import Zoo, read_zoo
from zoo.storage.files import write_json, write_text
from zoo.storage.places import require_directory
from zoo.storage.store import Store

RESULTS = Path(__file__).parent / "results"
GIB = 2**30
SMALL = [
    *(
        "timm:*_atto",
        "timm:*_femto",
        "timm:*_pico",
        "timm:*nano*",
        "timm:*_xxs*",
        "timm:*tiny*",
        "timm:*_t0",
        "timm:*_t1",
    ),
    *("timm:mobilenetv[23]*", "timm:mobilenetv4_conv_s*", "timm:regnet[xy]_00*", "timm:*lcnet*", "timm:mnasnet*"),
    *("timm:mixnet*", "timm:*ghost*", "timm:efficientnet_b*", "timm:efficientvit_m*", "timm:levit*", "timm:starnet*"),
    *("timm:resnet1*", "timm:edgenext*", "timm:fbnet*", "timm:hardcorenas*", "timm:repvit_m*", "timm:mobilevit*"),
    *("timm:shvit*", "timm:vit_*_patch16_224", "timm:densenet*", "timm:dla*", "timm:pvt_v2*", "timm:rexnet*"),
]
PREDICTED = {
    "similarity": ("N^2", "M^2 products of n^2"),
    "partition": ("N^2", "starts and bound over B^2 similarities, B = admissible blocks"),
    "assembly": ("N^2 K", "costs of seams; enumeration stops at a million"),
    "seams": ("N K s", "block runs, s = seams per block"),
    "scores": ("1", "max_scored assemblies, and N K whole and truncated networks"),
}


def settings(num_blocks: int, arguments: argparse.Namespace) -> SearchSettings:
    """Of every search of the table."""
    return SearchSettings(
        similarity=SimilaritySettings(num_probe_images=arguments.images),
        partition=PartitionSettings(num_blocks=num_blocks, num_starts=8, max_bound_steps=arguments.bound_steps),
        budget=Budget(max_params=10_000_000),
        proxy=ProxySettings(
            num_draws=1,
            num_images=arguments.scored_images,
            batch_size=arguments.scored_images,
            max_scored=arguments.scored,
            max_seams_per_block=arguments.seams,
        ),
    )


def measure(
    zoo: Zoo, chains: ChainCache, data: Digits, num_blocks: int, store: Store, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One search: seconds and peak memory by stage, and what it certified; networks are sliced by the first alone."""
    sampler = MemorySampler()
    sampler.start()
    moment = time.perf_counter()
    search = Search(zoo, data, settings(num_blocks, arguments), store=store, seed=0)
    search.chains = chains
    found = search.run()
    stages = {}
    for stage, seconds in found.seconds.items():
        stages[stage] = {"seconds": seconds, "peak_gib": round(sampler.peak(moment, moment + seconds) / GIB, 2)}
        moment += seconds
    sampler.stop()
    row = {
        "num_networks": len(found.descriptions),
        "num_blocks": num_blocks,
        "num_nodes": len(found.similarity),
        "num_parameters": sum(d.block_costs(0, len(d)).num_params for d in found.descriptions.values()),
        "stages": stages,
        "num_fitting": found.num_fitting,
        "num_scored": len(found.candidates),
        "partition": {"objective": found.partition.objective, "gap": found.partition.gap},
        "prediction": None if found.prediction is None else asdict(found.prediction),
        "pick": found.candidates[0].candidate.composition,
        "left_out": dict(found.left_out),
    }
    print(json.dumps({k: v for k, v in row.items() if k != "left_out"}), flush=True)
    return row


def exponents(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Slope of log seconds against log of ``key``, by stage, where stages take a twentieth of a second at least."""
    found = {}
    for stage in PREDICTED:
        points = [(row[key], row["stages"][stage]["seconds"]) for row in rows if stage in row["stages"]]
        points = [(math.log(x), math.log(y)) for x, y in points if y >= 0.05]
        if len({x for x, _ in points}) > 1:
            found[stage] = round(float(np.polyfit(*zip(*points, strict=True), 1)[0]), 2)
    return found


def table(result: dict[str, Any]) -> str:
    """The page beside the JSON."""
    rows, whole = result["rows"], result["whole"]
    lines = [
        f"`{result['command']}`",
        "",
        f"{whole['num_networks']} networks ({whole['num_parameters']:,} parameters, {whole['num_nodes']} nodes), "
        f"{len(whole['left_out'])} left out by name; {result['num_threads']} threads.",
        "",
        "| N | K | nodes | " + " | ".join(f"{stage}, s (GiB)" for stage in whole["stages"]) + " | gap | scored of |",
        "|" + "---|" * (len(whole["stages"]) + 5),
    ]
    for row in rows:
        cells = [row["stages"].get(stage) for stage in whole["stages"]]
        told = [f"{cell['seconds']:.1f} ({cell['peak_gib']:.1f})" if cell else "" for cell in cells]
        counts = f"{row['num_scored']:,} of {row['num_fitting']:,}"
        gap = f"{100 * row['partition']['gap']:.2f} %"
        sizes = [str(row[key]) for key in ("num_networks", "num_blocks", "num_nodes")]
        lines.append(f"| {' | '.join([*sizes, *told, gap, counts])} |")
    lines += ["", "Features of a smaller N are those of the largest, read again.", ""]
    lines += ["| stage | predicted | exponent in N | exponent in K |", "|---|---|---|---|"]
    for stage, (growth, why) in PREDICTED.items():
        n, k = (result["exponents"][key].get(stage, "") for key in ("num_networks", "num_blocks"))
        lines.append(f"| {stage} | {growth}: {why} | {n} | {k} |")
    scale = 1000 / whole["num_networks"]
    features = whole["stages"]["features"]["seconds"] * scale
    others = {
        s: whole["stages"][s]["seconds"] * scale ** max(e, 0) for s, e in result["exponents"]["num_networks"].items()
    }
    told = ", ".join(f"{stage} {seconds / 60:.0f} min" for stage, seconds in {"features": features, **others}.items())
    lines += ["", f"Extrapolated to 1,000 networks by these exponents: {told}.", ""]
    reasons = [f"| {name} | {reason[:160].replace('|', '/')} |" for name, reason in whole["left_out"].items()]
    return "\n".join([*lines, "| left out | reason |", "|---|---|", *reasons])


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=positive, default=100, help="architectures that are asked for")
    parser.add_argument("--pattern", nargs="+", default=SMALL, help="of architectures; timm:* counts all of timm first")
    parser.add_argument("--max-params", default="8m")
    parser.add_argument("--size", type=positive, default=64, help="pixels")
    parser.add_argument("--images", type=positive, default=16, help="probe images")
    parser.add_argument("--scored-images", type=positive, default=16)
    parser.add_argument("--scored", type=positive, default=20)
    parser.add_argument("--seams", type=positive, default=4, help="per block")
    parser.add_argument("--bound-steps", type=positive, default=200)
    parser.add_argument("--blocks", type=positive, nargs="+", default=[3, 2, 4], help="K; the first one at every N")
    parser.add_argument("--cache", help="where stage results are kept; nowhere by default")
    arguments = parser.parse_args()
    if arguments.cache:
        require_directory("--cache", arguments.cache, is_read=True)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)

    networks = {"pattern": arguments.pattern, "max_params": arguments.max_params, "max_networks": arguments.networks}
    size = {"height": arguments.size, "width": arguments.size}
    started = time.perf_counter()
    zoo = read_zoo({"name": "timm", "input": size, "networks": networks})
    reading = round(time.perf_counter() - started, 1)
    chains = ChainCache(zoo)
    data = Digits(num_train=64, num_validation=32, num_test=32)
    first, *others = arguments.blocks
    with tempfile.TemporaryDirectory() as directory:
        store = Store(arguments.cache or directory)
        whole = measure(zoo, chains, data, first, store, arguments)
        kept = [zoo[name] for name in zoo if name not in whole["left_out"]]
        rows, of_blocks = [whole], []
        write(rows, of_blocks, arguments, reading)
        for share in (2, 4):
            rows.append(measure(Zoo("timm", kept[::share]), chains, data, first, store, arguments))
            write(rows, of_blocks, arguments, reading)
        for num_blocks in others:
            few = Zoo("timm", kept[::4], leave_out="unfit")
            of_blocks.append(measure(few, chains, data, num_blocks, store, arguments))
            write(rows, of_blocks, arguments, reading)


def write(
    rows: list[dict[str, Any]], of_blocks: list[dict[str, Any]], arguments: argparse.Namespace, reading: float
) -> None:
    """Writes what is measured so far: rows of one K, the largest zoo first, and those of other K at the smallest N."""
    blocks = [rows[-1], *of_blocks] if of_blocks else []
    told = {key: value for key, value in vars(arguments).items() if key != "cache"}
    result = {
        "command": "python -m benchmarks.large_zoo",
        "arguments": told,
        "num_threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count(),
        "reading_seconds": reading,
        "whole": rows[0],
        "rows": [without_names(row) for row in (*rows, *of_blocks)],
        "exponents": {key: exponents(of, key) for key, of in (("num_networks", rows), ("num_blocks", blocks))},
    }
    write_json(RESULTS / "large_zoo.json", result)
    write_text(RESULTS / "large_zoo.md", table(result))


def without_names(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the names, which stand in ``whole``."""
    return {key: value for key, value in row.items() if key != "left_out"}


if __name__ == "__main__":
    run(main)
