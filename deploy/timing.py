"""How long a forward pass takes: medians over repeats, with their spread, of a model and of its zoo's networks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deploy.exporting import quiet, standalone, write_onnx_file
from deploy.model import Model
from zoo.entries import InputSpec
from zoo.errors import FOREIGN_FAULTS, UserError, reason
from zoo.loading import load_network
from zoo.progress import progress
from zoo.timing import num_threads as threads_of
from zoo.timing import synchronise, timed_calls

COLUMNS = (
    *("network", "runtime", "precision", "device", "threads", "batch_size"),
    *("latency_ms", "latency_ms_lower_quartile", "latency_ms_upper_quartile", "images_per_second", "note"),
)
Row = dict[str, Any]


def time_model(
    model: Model,
    *,
    batch_sizes: Sequence[int],
    runtimes: Sequence[str] = ("eager",),
    precision: str = "float32",
    num_threads: Sequence[int] | None = None,
    num_repeats: int = 20,
    beside: bool = True,
) -> list[Row]:
    """Times a model, with learnt weights or without, on images of random numbers.

    Args:
        model: Of ``deploy.load``, on the device to measure.
        batch_sizes: Images at once.
        runtimes: Of ``eager``, ``compiled`` (``torch.compile``) and ``onnxruntime`` (on the CPU, in float32).
        precision: ``float32``, ``bfloat16`` or ``float16``.
        num_threads: Of the CPU, one after the other; None takes torch's.
        num_repeats: Measured passes.
        beside: Time the zoo's networks that it is made of, too, each whole and at its own input.

    Returns:
        A row for each network, runtime and batch size; where a runtime cannot be had, ``note`` says why.
    """
    networks: list[tuple[str, nn.Module, InputSpec]] = [(str(model.origin.path), standalone(model), model.input)]
    for name in model.origin.blueprint.networks if beside else ():
        entry = model.origin.zoo.entry(name)
        networks.append((f"{name} of the zoo", load_network(entry).requires_grad_(False), entry.input))
    rows: list[Row] = []
    cases = list(product(num_threads or (torch.get_num_threads(),), networks, runtimes))
    device = model.device
    with torch.no_grad(), progress("timing", len(cases) * len(batch_sizes)) as advance:
        for threads, (name, network, spec), runtime in cases:
            known: Row = {"network": name, "runtime": runtime, "precision": precision, "threads": threads}
            known["device"] = str(device) if runtime != "onnxruntime" else "cpu"
            try:
                with threads_of(threads):
                    run = _runner(network, spec, runtime, precision, device, threads)
                    for size in batch_sizes:
                        rows.append({**known, "batch_size": size, **_time(run, spec, size, num_repeats)})
                        advance()
            except FOREIGN_FAULTS as error:
                told = str(error) if isinstance(error, UserError) else reason(error)
                rows.append({**known, "note": told})
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as text, the quartiles behind the median."""
    width = max(len("network"), *(len(row["network"]) for row in rows))
    lines = [f"{'network':<{width}}  {'runtime':<11}  threads  batch      ms a pass (quartiles)        images/s"]
    for row in rows:
        start = f"{row['network']:<{width}}  {row['runtime']:<11}  {row['threads']:>7}"
        if "note" in row:
            lines.append(f"{start}  not measured: {row['note']}")
            continue
        quartiles = f"({row['latency_ms_lower_quartile']:.2f} - {row['latency_ms_upper_quartile']:.2f})"
        median = f"{row['latency_ms']:>10.2f} {quartiles:<20}"
        lines.append(f"{start}  {row['batch_size']:>5}  {median}  {row['images_per_second']:>9,.0f}")
    first = rows[0]
    lines.append(f"{first['precision']}, {first['device']}; medians")
    return "\n".join(lines)


def _runner(
    network: nn.Module, spec: InputSpec, runtime: str, precision: str, device: torch.device, threads: int
) -> Callable[[Tensor], Any]:
    """A function of float32 images on the CPU that returns when the pass is over."""
    if runtime == "onnxruntime":
        if precision != "float32":
            raise UserError("onnxruntime is measured in float32 alone")
        return _onnx_runner(network.cpu(), spec, threads)
    dtype = getattr(torch, precision)
    placed = network.to(device)
    if runtime == "compiled":
        torch._dynamo.reset()
        placed = torch.compile(placed)

    def run(x: Tensor) -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            placed(x)
        synchronise(device)

    run.device = device  # type: ignore[attr-defined]
    return run


def _onnx_runner(network: nn.Module, spec: InputSpec, threads: int) -> Callable[[Tensor], Any]:
    with tempfile.TemporaryDirectory() as directory, quiet():
        session = write_onnx_file(network, spec.example(2), {}, Path(directory) / "network.onnx", threads)
    return lambda x: session.run(None, {"images": x.numpy()})


def _time(run: Callable[[Tensor], Any], spec: InputSpec, size: int, num_repeats: int) -> Row:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, spec.channels, spec.height, spec.width, generator=generator)
    x = x.to(getattr(run, "device", "cpu"))
    found = timed_calls(lambda: run(x), num_repeats)
    return {
        "latency_ms": round(1000 * found.median, 4),
        "latency_ms_lower_quartile": round(1000 * found.lower_quartile, 4),
        "latency_ms_upper_quartile": round(1000 * found.upper_quartile, 4),
        "images_per_second": round(size / found.median, 1),
    }
