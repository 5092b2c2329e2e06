"""The workers of some settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from zoo.executors.pool import Pool
from zoo.executors.processes import ProcessPool
from zoo.executors.settings import ExecutorSettings


def open_pool(settings: ExecutorSettings, work: Callable[[Any], Any], num_gpus_per_task: int = 0) -> Pool:
    """Workers that compute with as many threads as this process; they start with the first task, and are to be closed.

    Args:
        settings: Not ``serial``.
        work: What they do.
        num_gpus_per_task: That a Ray cluster is to keep free for a worker; processes share those of the machine.

    Raises:
        UserError: The work cannot be sent.
    """
    if settings.name == "ray":
        from zoo.executors.ray_cluster import RayPool

        return RayPool(settings, work, torch.get_num_threads(), num_gpus_per_task)
    return ProcessPool(settings, work, torch.get_num_threads())
