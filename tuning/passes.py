"""Passes over images whose work all processes share: each runs a module on its batches, and all get all outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tuning.distributed import gather_batches, share
from tuning.sharding import runner, runs_in_shards
from zoo.chain.batches import Batches, map_batches, run_in_batches

if TYPE_CHECKING:
    from tuning.data import TuningData


@dataclass(frozen=True)
class Images:
    """Images of a split without augmentation, for any network, read anew each time they are gone through.

    Attributes:
        data: Whose ``batch_size`` images come at a time.
        split: ``train``, ``val`` or ``test``.
        spec: What the network takes.
        limit: The first ones only.
    """

    data: TuningData
    split: str
    spec: Any
    limit: int | None = None

    def __len__(self) -> int:
        count = self.data.num_images(self.split)
        return count if self.limit is None else min(self.limit, count)

    def batches(self, start: int = 0, step: int = 1) -> Iterator[Tensor]:
        """Every ``step``-th batch (b, C, H, W) from ``start`` on."""
        options = {"batch_size": self.data.batch_size, "start": start, "step": step}
        return self.data.image_batches(self.split, self.spec, self.limit, **options)

    def outputs(self, module: nn.Module, device: torch.device) -> Tensor:
        """What a module makes of all of them, (n, ...) on the CPU, in eval mode; the processes share the work."""
        options = {"batch_size": self.data.batch_size, "device": device}
        return in_memory(shared_outputs(module, self.batches, len(self), **options))


def shared_outputs(
    module: nn.Module, read: Callable[..., Iterator[Tensor]], count: int, *, batch_size: int, device: torch.device
) -> Batches:
    """The outputs of a module for batches, computed anew in each pass: each process runs it on its share, all get all.

    Args:
        module: Run in eval mode, moved to ``device``.
        read: Gives every ``step``-th batch from ``start`` on.
        count: Rows of all batches.
        batch_size: Rows of each but the last.
        device: Where to compute.

    Returns:
        Batches on the CPU, the same in all processes, which have to go through them together.
    """

    def outputs() -> Iterator[Tensor]:
        start, step = share()
        batches, num_batches = read(start=start, step=step), -(-count // batch_size)
        if runs_in_shards():
            batches = _as_many(batches, -(-num_batches // step), lambda: read(start=0, step=1))
        run = runner(module)
        with closing(map_batches(run, batches, batch_size=batch_size, device=device)) as own:
            if step == 1:
                yield from (found.cpu() for _, found in own)
                return
            for index in range(start, start + num_batches, step):
                _, found = next(own, (None, None))
                yield gather_batches(found if index < num_batches else None).cpu()

    return Batches(count, outputs)


def _as_many(batches: Iterator[Tensor], number: int, others: Callable[[], Iterator[Tensor]]) -> Iterator[Tensor]:
    """Some batches and, up to a number, one again, or of others: nodes in shards run in all processes at once."""
    batch = None
    for batch in batches:
        number -= 1
        yield batch
    for _ in range(number):
        batch = batch if batch is not None else next(others())
        yield batch


def in_memory(batches: Batches) -> Tensor:
    """All rows (n, ...) of one pass."""
    return run_in_batches(lambda batch: batch, batches, batch_size=1)
