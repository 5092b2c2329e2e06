"""The 0-1 programme at sizes nobody enumerates: seconds of label setting, of HiGHS and of the front, and memory.

Random values and costs (the hardest case: nothing is alike), limits on parameters and MACs that cut off most
compositions. One reading: both solvers agree, and 8.1e9 compositions take seconds.

    python -m benchmarks.programme
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from reassembly.enumeration import PathCosts
from reassembly.programme import Programme, best_paths, diverse_paths, pareto_paths
from reassembly.programme.highs import solve_milp

SIZES = ((60, 4), (30, 6), (300, 4))


def random_programme(num_networks: int, num_stages: int, seed: int = 0) -> Programme:
    """Normal values, uniform costs, and limits at 0.45 and 0.43 of the mean cost of a whole composition."""
    rng = np.random.default_rng(seed)
    shapes = (num_stages, num_networks), (num_stages - 1, num_networks, num_networks), (num_stages, num_networks)
    costs = PathCosts(*(rng.integers(1, 10**6, (2, *shape)) for shape in shapes))
    value = PathCosts(*(rng.normal(size=(1, *shape)) for shape in shapes))
    high = np.array([num_stages * 450_000, num_stages * 430_000])
    return Programme(value, costs, np.array([0, high[1] // 2]), high)


def cpu_timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its CPU seconds."""
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


def main() -> None:
    """Prints one JSON line a size."""
    for num_networks, num_stages in SIZES:
        programme = random_programme(num_networks, num_stages)
        best, best_seconds = cpu_timed(lambda p=programme: best_paths(p))
        thousand, thousand_seconds = cpu_timed(lambda p=programme: best_paths(p, 1000))
        diverse, diverse_seconds = cpu_timed(lambda p=programme: list(diverse_paths(p, 10, 2)))
        exact, exact_seconds = cpu_timed(lambda p=programme: solve_milp(p))
        front, front_seconds = cpu_timed(lambda p=programme: pareto_paths(p))
        row = {
            "networks": num_networks,
            "stages": num_stages,
            "compositions": sum(num_networks**m for m in range(1, num_stages + 1)),
            "best_s": round(best_seconds, 2),
            "best_1000_s": round(thousand_seconds, 2),
            "diverse_10_s": round(diverse_seconds, 2),
            "highs_s": round(exact_seconds, 2),
            "front_s": round(front_seconds, 2),
            "front_size": len(front),
            "solvers_agree": best[0].path == exact.path,
            "highs_gap": round(exact.gap, 9),
            "num_best": len(thousand),
            "num_diverse": len(diverse),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
