"""What decides how fast training goes beside the network: memory format, kernels, memory, images that come in time."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from zoo.chain.program import Block
from zoo.stitching.adapters import Adapter

log = logging.getLogger(__name__)


class ChannelsLast(pl.Callback):
    """Keeps kernels (out, in, h, w) with their channels last in memory while Lightning runs; values do not change.

    Convolutions follow the format of their kernels, so that images need not be converted, and adapters hand it on.
    Afterwards everything is contiguous again, as files want it.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Before the strategy wraps the module."""
        _set_memory_format(pl_module, torch.channels_last)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """After the last hook."""
        _set_memory_format(pl_module, torch.contiguous_format)


class Compiled(pl.Callback):
    """Lets ``torch.compile`` make kernels for the body of the network while Lightning trains it."""

    backend = "inductor"

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compiles at the first batch; names of parameters stay what they are."""
        pl_module.body.compile(backend=self.backend)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets the kernels: torch keeps few for all networks together, and then compiles no more without a word."""
        pl_module.body._compiled_call_impl = None
        torch.compiler.reset()


class ActivationCheckpoints(pl.Callback):
    """Keeps of every node that has parameters its input alone, while Lightning trains.

    What a node is, its network's chain says (``zoo.chain``). Statistics of normalisations are taken once.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """In front of the forwards."""
        nodes = (node for block in pl_module.modules() if isinstance(block, Block) for node in block.nodes())
        self._nodes = [node for node in nodes if any(True for _ in node.parameters())]
        for node in self._nodes:
            node.forward = partial(_recomputed, node, node.forward)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The forwards are their classes' again."""
        for node in self._nodes:
            del node.forward


def _recomputed(node: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    contexts = partial(_once_and_again, node)
    return checkpoint(partial(_on_copies, forward), *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _on_copies(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The forward may write into its inputs (activations in place), and these are kept for the second time."""
    return forward(*(arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args), **kwargs)


def _once_and_again(node: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _without_statistics(node)


@contextmanager
def _without_statistics(node: nn.Module) -> Iterator[None]:
    """Inside, running statistics stay as they are, bit for bit; what is normalised does not depend on them."""
    norms = [norm for norm in node.modules() if isinstance(norm, _BatchNorm) and norm.training]
    kept = [{name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)} for norm in norms]
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, buffer in buffers.items():
                getattr(norm, name).copy_(buffer)


class LoaderWatch(pl.Callback):
    """Warns once, with figures, when training waits for images.

    The time from the end of a step to the arrival of the next batch is compared with the time of the steps. The first
    steps, and the first of every epoch, are left out: workers start, memory is allocated.

    Args:
        max_share: Share of the time that may be spent waiting.
        min_steps: Measured steps before anything is said.
        min_seconds: Time lost to waiting before anything is said, so that short runs stay quiet.
        warmup_steps: Steps left out at the start.
    """

    def __init__(
        self, *, max_share: float = 0.3, min_steps: int = 20, min_seconds: float = 5.0, warmup_steps: int = 5
    ) -> None:
        self._max_share, self._min_steps, self._min_seconds = max_share, min_steps, min_seconds
        self._num_to_skip = warmup_steps
        self._warned = False
        self._num_steps = self._num_images = 0
        self._waited = self._worked = 0.0
        self._ended: float | None = None
        self._started = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What passed between two epochs is no waiting."""
        self._ended = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        """A batch has arrived."""
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Adds up one step, and warns where it is time."""
        now, before = time.perf_counter(), self._ended
        self._ended = now
        if before is None or self._warned:
            return
        if self._num_to_skip:
            self._num_to_skip -= 1
            return
        self._waited += self._started - before
        self._worked += now - self._started
        self._num_steps += 1
        self._num_images += len(batch[1])
        if (
            self._num_steps >= self._min_steps
            and self._waited >= self._min_seconds
            and self._waited > self._max_share * (self._waited + self._worked)
        ):
            self._warned = True
            if trainer.is_global_zero:
                log.warning("%s", self._message(trainer.train_dataloader.num_workers))

    def _message(self, num_workers: int) -> str:
        elapsed = self._waited + self._worked
        # Workers load during the steps, too; without them the loader works only while training waits.
        loading = elapsed if num_workers else self._waited
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        more = (
            f"raise dataset.num_workers={num_workers} (there are {num_cores} cores), or "
            if (num_workers < num_cores)
            else ""
        )
        return (
            f"training waits for images {self._waited / elapsed:.0%} of the time: the loader gives "
            f"{self._num_images / loading:.0f} images/s, the steps could take {self._num_images / self._worked:.0f} "
            f"images/s; {more}store the images at the size that the network takes"
        )


def _set_memory_format(module: nn.Module, memory_format: torch.memory_format) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)
    for adapter in module.modules():
        if isinstance(adapter, Adapter):
            adapter.memory_format = memory_format
