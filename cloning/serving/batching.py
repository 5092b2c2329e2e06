"""The one thread that computes: what waits while a batch runs is the next batch, whichever clones it is for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from cloning.network import ClonedNetwork
from cloning.serving.metrics import Metrics
from cloning.shelf import Shelf

T = TypeVar("T")


class Busy(Exception):
    """More requests wait than are allowed to."""


@dataclass(frozen=True)
class _Waiting:
    network: ClonedNetwork
    images: Tensor
    answer: asyncio.Future[Tensor]


class Batcher:
    """Gives every request its logits, computed in batches on one thread.

    No request waits for others to come: a batch is what has come while the one before was computed.

    Args:
        shelf: Used by that thread alone.
        batch_size: Images that run at once.
        max_waiting: Requests that may wait.
        metrics: Counts the batches.
    """

    def __init__(self, shelf: Shelf, batch_size: int, max_waiting: int, metrics: Metrics) -> None:
        self.shelf, self.batch_size, self.max_waiting, self.metrics = shelf, batch_size, max_waiting, metrics
        self._waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shelf")
        self._comes = asyncio.Event()

    @property
    def num_waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    async def logits(self, network: ClonedNetwork, images: Tensor) -> Tensor:
        """The logits (n, C) of images (n, channels, H, W) preprocessed for the network's target.

        Raises:
            Busy: Too many requests wait.
        """
        if len(self._waiting) >= self.max_waiting:
            raise Busy
        answer: asyncio.Future[Tensor] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(network, images, answer))
        self._comes.set()
        return await answer

    async def alone(self, function: Callable[..., T], *arguments: object) -> T:
        """Runs something else that uses the shelf, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def run(self) -> None:
        """Answers until it is cancelled."""
        while True:
            await self._comes.wait()
            self._comes.clear()
            while batch := self._next():
                found = await self.alone(self._compute, batch)
                self.metrics.batch_sizes.add(sum(len(item.images) for item in batch))
                for item, value in zip(batch, found, strict=True):
                    if item.answer.done():  # the client has gone
                        continue
                    if isinstance(value, Exception):
                        item.answer.set_exception(value)
                    else:
                        item.answer.set_result(value)

    def close(self) -> None:
        """Lets the thread end."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _next(self) -> list[_Waiting]:
        batch, num_images = [], 0
        while self._waiting and (not batch or num_images + len(self._waiting[0].images) <= self.batch_size):
            item = self._waiting.popleft()
            if not item.answer.done():
                batch.append(item)
                num_images += len(item.images)
        return batch

    def _compute(self, batch: list[_Waiting]) -> list[Tensor | Exception]:
        """Logits, or for each request what went wrong with it: one that fails spoils no other's answer."""
        try:
            return list(self.shelf.logits([(item.network, item.images) for item in batch]))
        except Exception as error:  # noqa: BLE001 - of any kind: it is told to whom it concerns
            if len(batch) == 1:
                return [error]
        return [self._compute([item])[0] for item in batch]
