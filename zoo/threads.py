"""How many threads a process computes on, how they wait for each other, and what becomes of memory that is freed; to be
said before torch is imported."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_CHOSEN = "HUOZI_NUM_THREADS"
"""What we chose for ``OMP_NUM_THREADS``: processes that are started later tell it from the choice of the user by it."""


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
MAX_FREED_BYTES = 512 << 20
"""Of freed memory at the end of the heap that a process keeps for what it allocates next."""
MAX_HEAP_BYTES = 1 << 30
"""Larger tensors than this get pages of their own, which go back at once."""


def prepare(num_processes: int = 1) -> None:
    """Sets what OpenMP reads when torch is loaded, where the environment does not say it already.

    Freed memory is used again: by default glibc gives every tensor above 32 MiB back to the system and has its pages
    filled with zeros anew for the next one, a third of the processor time of a search over ImageNet networks.

    Threads that wait for a partner sleep (``OMP_WAIT_POLICY=PASSIVE``): where another process has the partner's core,
    threads that spin, which is the default, make a training of ten seconds one of minutes. There are no more threads
    than cores are free to this process, shared with the others that compute beside it. Torch counts the cores of the
    affinity itself, so that a number is set only where a container's limit or other processes leave fewer.

    Args:
        num_processes: That compute together on this machine.
    """
    _keep_freed_memory()
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


def _keep_freed_memory() -> None:
    """Where the C library is glibc, and the user has not told it otherwise (``MALLOC_..._``, ``GLIBC_TUNABLES``)."""
    is_told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if is_told or not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, MAX_HEAP_BYTES)
        library.mallopt(_TRIM_THRESHOLD, MAX_FREED_BYTES)


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
