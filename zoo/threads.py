"""How many threads a process computes on, and how they wait for each other; to be said before torch is imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_CHOSEN = "HUOZI_NUM_THREADS"
"""What we chose for ``OMP_NUM_THREADS``: processes that are started later tell it from the choice of the user by it."""


def prepare(num_processes: int = 1) -> None:
    """Sets what OpenMP reads when torch is loaded, where the environment does not say it already.

    Threads that wait for a partner sleep (``OMP_WAIT_POLICY=PASSIVE``): where another process has the partner's core,
    threads that spin, which is the default, make a training of ten seconds one of minutes. There are no more threads
    than cores are free to this process, shared with the others that compute beside it. Torch counts the cores of the
    affinity itself, so that a number is set only where a container's limit or other processes leave fewer.

    Args:
        num_processes: That compute together on this machine.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    chosen = os.environ.get("OMP_NUM_THREADS")
    is_ours = chosen is not None and chosen == os.environ.get(_CHOSEN)
    is_child = os.environ.get("LOCAL_RANK", "0") != "0"  # which takes what the first process chose
    num_threads = max(1, num_free_cores() // num_processes)
    if (chosen is not None and not is_ours) or (is_ours and is_child):
        return
    if is_ours or num_threads < num_cores():
        os.environ["OMP_NUM_THREADS"] = os.environ[_CHOSEN] = str(num_threads)
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(num_threads)


def num_cores() -> int:
    """Cores that this process may run on, by its affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_free_cores() -> int:
    """Cores that this process may use: by its affinity and by the quota of its control group (a container's limit)."""
    return max(1, min(num_cores(), *(round(quota) for quota in _quotas()), num_cores()))


def _quotas(root: Path = Path("/sys/fs/cgroup")) -> list[float]:
    """Quotas in cores of the control groups that this process is in, and of those above them; cgroup v2 and v1."""
    places = {root, root / "cpu"}
    try:
        groups = [line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        groups = []
    for controllers, group in groups:
        if controllers in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            top = root / controllers
            own = top / group.lstrip("/")
            places |= {own, *(above for above in own.parents if above.is_relative_to(top))}
    return [quota for place in places if (quota := _quota(place)) is not None]


def _quota(place: Path) -> float | None:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((place / name).read_text().strip() for name in names).split()
            if int(quota) > 0 and int(period) > 0:
                return int(quota) / int(period)
        except (OSError, ValueError):  # "max" or -1: none
            continue
    return None
