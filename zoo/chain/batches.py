"""Running a module over more inputs than fit in one pass: the one loop of features, scores and closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.chain.chain import Chain
from zoo.chain.modes import eval_mode, float32_products
from zoo.errors import UserError

Outputs = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Batches:
    """Rows that are read or computed anew each time they are gone through, where they need not fit in memory.

    Attributes:
        num_rows: Of all batches together; their ``len``.
        read: Starts a pass: gives batches (b, ...), the same rows in the same order every time.
    """

    num_rows: int
    read: Callable[[], Iterable[Tensor]]

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.read())


Rows = Tensor | Batches
"""(n, ...), in memory or not."""


def batches_of(rows: Rows, batch_size: int) -> Iterator[Tensor]:
    """The rows ``batch_size`` at a time, the last ones fewer, in whatever batches they come: what is computed with
    them is the same, bit for bit, in memory or not."""
    if isinstance(rows, Tensor):
        yield from rows.split(batch_size)
        return
    held: list[Tensor] = []
    num_held = 0
    for batch in rows:
        held.append(batch)
        num_held += len(batch)
        if num_held >= batch_size:
            *whole, rest = (held[0] if len(held) == 1 else torch.cat(held)).split(batch_size)
            if len(rest) == batch_size:
                whole, rest = [*whole, rest], rest[:0]
            yield from whole
            held, num_held = [rest] if len(rest) else [], len(rest)
    if held:
        yield torch.cat(held)


def run_in_batches(
    module: Callable[[Tensor], Outputs],
    inputs: Rows | Iterable[Tensor],
    *,
    batch_size: int,
    device: torch.device | str | None = None,
    precision: torch.dtype | None = None,
) -> Outputs:
    """The outputs of a module for all inputs, in eval mode and without gradient.

    Args:
        module: Maps (b, ...) to (b, ...), or to a tuple of such. An ``nn.Module`` is in eval mode meanwhile, every part
            of it back in its own mode afterwards; a function (a bound method, say) is called as it is.
        inputs: (n, ...); or batches one after the other, where all of them together would not fit in memory.
        batch_size: Rows of a tensor that run at once; batches that come one by one run as they come.
        device: Where to compute; a module is moved there and stays there. None: where module and inputs are.
        precision: ``torch.bfloat16`` for products in it, by autocast; outputs are float32. None: as they are.

    Returns:
        (n, ...), or a tuple of such, on the device that the inputs came on.

    Raises:
        ValueError: No inputs.
    """
    collected: list[list[Tensor]] = []
    num_rows = 0
    outputs: Outputs = ()
    for batch, outputs in map_batches(module, inputs, batch_size=batch_size, device=device, precision=precision):
        parts = outputs if isinstance(outputs, tuple) else (outputs,)
        if isinstance(inputs, (Tensor, Batches)):  # of known length: written in place, so that nothing is held twice
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


def run_rows(
    module: Callable[[Tensor], Tensor],
    rows: Rows,
    *,
    batch_size: int,
    check: Callable[[Tensor], Tensor] = lambda outputs: outputs,
) -> Rows:
    """The outputs of a module: in memory for rows in memory, else computed anew in each pass, ``batch_size`` at a time.

    Args:
        module: Maps (b, ...) to (b, ...); see ``run_in_batches``.
        rows: What goes in.
        batch_size: Rows that run at once.
        check: Looks at outputs, all or some, and returns them.
    """
    if isinstance(rows, Tensor):
        return check(run_in_batches(module, rows, batch_size=batch_size))

    def read() -> Iterator[Tensor]:
        passes = map_batches(module, batches_of(rows, batch_size), batch_size=batch_size)
        return (outputs for _, outputs in passes)

    return checked(Batches(len(rows), read), check)


def checked(rows: Rows, check: Callable[[Tensor], Tensor]) -> Rows:
    """The rows, looked at by ``check``, which returns them: all at once in memory, else batch by batch as they come."""
    return check(rows) if isinstance(rows, Tensor) else Batches(len(rows), lambda: map(check, rows))


@torch.no_grad()
def map_batches(
    module: Callable[[Tensor], Outputs],
    inputs: Tensor | Iterable[Tensor],
    *,
    batch_size: int,
    device: torch.device | str | None = None,
    precision: torch.dtype | None = None,
) -> Iterator[tuple[Tensor, Outputs]]:
    """As ``run_in_batches``, but one batch with its outputs (on the device) at a time: for what is not kept."""
    is_module = isinstance(module, nn.Module)
    if is_module and device is not None:
        module.to(device)
    run = in_precision(module, precision)
    with eval_mode(module) if is_module else nullcontext():
        for batch in inputs.split(batch_size) if isinstance(inputs, Tensor) else inputs:
            with float32_products():
                outputs = run(batch if device is None else batch.to(device))
            yield batch, outputs


def in_precision(module: Callable[[Tensor], Outputs], precision: torch.dtype | None) -> Callable[[Tensor], Outputs]:
    """The module with its products in a precision, by autocast, and outputs in float32; None: as it is."""
    if precision is None:
        return module

    def run(x: Tensor) -> Outputs:
        with torch.autocast(x.device.type, precision):
            outputs = module(x)
        return tuple(map(_full, outputs)) if isinstance(outputs, tuple) else _full(outputs)

    return run


def _full(outputs: Any) -> Any:
    is_half = isinstance(outputs, Tensor) and outputs.dtype in (torch.bfloat16, torch.float16)
    return outputs.float() if is_half else outputs


class Taps(nn.Module):
    """Modules in series, of which each one's output is read: x -> (read_1(f_1(x)), read_2(f_2(f_1(x))), ...).

    Args:
        modules: In their order.
        reads: One per module, from its output to what is wanted of it.
    """

    def __init__(self, modules: Iterable[nn.Module], reads: Iterable[Callable[[Tensor], Any]]) -> None:
        super().__init__()
        self.series, self.reads = nn.ModuleList(modules), list(reads)

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        found = []
        for module, read in zip(self.series, self.reads, strict=True):
            x = module(x)
            found.append(read(x))
        return tuple(found)


def require_finite(features: Tensor, chain: Chain, cut: int) -> Tensor:
    """The features at a cut of a chain, if all are finite.

    Raises:
        UserError: They are not; with the names of network and node.
    """
    if not torch.isfinite(features).all():
        where = f"node {cut - 1} ({chain.nodes[cut - 1].name}) gives" if cut else "its images hold"
        raise UserError(
            f"network {chain.name!r}: {where} NaN or infinity on the task's images: repair its weights, or take it out "
            "of the zoo"
        )
    return features
