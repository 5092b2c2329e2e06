"""Running a module over more inputs than fit in one pass: the one loop of features, scores and closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from zoo.chain.modes import eval_mode

Outputs = Tensor | tuple[Tensor, ...]


def run_in_batches(
    module: Callable[[Tensor], Outputs],
    inputs: Tensor | Iterable[Tensor],
    *,
    batch_size: int,
    device: torch.device | str | None = None,
) -> Outputs:
    """The outputs of a module for all inputs, in eval mode and without gradient.

    Args:
        module: Maps (b, ...) to (b, ...), or to a tuple of such. An ``nn.Module`` is in eval mode meanwhile, every part
            of it back in its own mode afterwards; a function (a bound method, say) is called as it is.
        inputs: (n, ...); or batches one after the other, where all of them together would not fit in memory.
        batch_size: Rows of a tensor that run at once; batches that come one by one run as they come.
        device: Where to compute; a module is moved there and stays there. None: where module and inputs are.

    Returns:
        (n, ...), or a tuple of such, on the device that the inputs came on.

    Raises:
        ValueError: No inputs.
    """
    collected: list[list[Tensor]] = []
    num_rows = 0
    outputs: Outputs = ()
    for batch, outputs in map_batches(module, inputs, batch_size=batch_size, device=device):
        parts = outputs if isinstance(outputs, tuple) else (outputs,)
        if isinstance(inputs, Tensor):  # of known length: written in place, so that nothing is held twice
            shapes = [(len(inputs), *part.shape[1:]) for part in parts]
            collected = collected or [
                [part.new_empty(shape, device=batch.device)] for part, shape in zip(parts, shapes, strict=True)
            ]
            for (whole,), part in zip(collected, parts, strict=True):
                whole[num_rows : num_rows + len(part)] = part
        else:
            collected = collected or [[] for _ in parts]
            for pieces, part in zip(collected, parts, strict=True):
                pieces.append(part.to(batch.device))
        num_rows += len(batch)
    if not num_rows:
        raise ValueError("no inputs to run")
    wholes = tuple(pieces[0] if len(pieces) == 1 else torch.cat(pieces) for pieces in collected)
    return wholes if isinstance(outputs, tuple) else wholes[0]


@torch.no_grad()
def map_batches(
    module: Callable[[Tensor], Outputs],
    inputs: Tensor | Iterable[Tensor],
    *,
    batch_size: int,
    device: torch.device | str | None = None,
) -> Iterator[tuple[Tensor, Outputs]]:
    """As ``run_in_batches``, but one batch with its outputs (on the device) at a time: for what is not kept."""
    is_module = isinstance(module, nn.Module)
    if is_module and device is not None:
        module.to(device)
    with eval_mode(module) if is_module else nullcontext():
        for batch in inputs.split(batch_size) if isinstance(inputs, Tensor) else inputs:
            yield batch, module(batch if device is None else batch.to(device))
