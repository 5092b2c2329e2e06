"""Sums, rows and decisions over the processes of a distributed run; with one process they are the identity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    import pytorch_lightning as pl


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that decides and writes."""
    return world_size() == 1 or dist.get_rank() == 0


def start_processes(trainer: pl.Trainer) -> None:
    """Starts and connects the processes of a trainer now, not at its first run: what is computed before is shared."""
    from pytorch_lightning.strategies import ParallelStrategy  # heavy
    from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.launch(trainer.strategy.setup_environment)
    elif isinstance(trainer.strategy, ParallelStrategy):  # started by torchrun or SLURM
        trainer.strategy.setup_environment()


@torch.no_grad()
def take_from_main(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Gives tensors, in place, the values that they have in the main process, bit for bit.

    Args:
        tensors: The same number, shapes and dtypes in every process.
        device: That the processes are connected by.
    """
    if world_size() == 1:
        return
    for tensor in tensors:
        there = tensor.detach().to(device).contiguous()
        dist.broadcast(there, 0)
        tensor.copy_(there)


def share() -> tuple[int, int]:
    """The first of what this process takes of a list that all share, and the step to its next: its rank, and all."""
    return (0, 1) if world_size() == 1 else (dist.get_rank(), world_size())


Value = TypeVar("Value")


def broadcast(value: Value) -> Value:
    """The value of the main process, in all of them."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def total(values: Tensor) -> Tensor:
    """Sum over all processes, on the device: nobody waits for it here."""
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all processes, one under the other, of any number each; gradients reach the own rows only."""
    if world_size() == 1:
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    most = int(max(counts))
    padded = torch.cat([rows.detach(), rows.new_zeros(most - len(rows), *rows.shape[1:])])
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    parts = [part[: int(number)] for part, number in zip(gathered, counts, strict=True)]
    parts[dist.get_rank()] = rows
    return torch.cat(parts)


def gather_batches(batch: Tensor | None) -> Tensor:
    """Rows of all processes, as ``gather_rows``, where some have none and not even their shape; one has."""
    kinds = [None] * world_size()
    dist.all_gather_object(kinds, None if batch is None else (batch.shape[1:], batch.dtype, batch.device.type))
    if batch is None:
        shape, dtype, device = next(kind for kind in kinds if kind is not None)
        batch = torch.empty(0, *shape, dtype=dtype, device=device)
    return gather_rows(batch)
