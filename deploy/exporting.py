"""A model as one file that runs without this project, compared on real images before it takes its place."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from cloning.network import ClonedNetwork
from datamodules import ImageDataModule
from deploy.model import Model
from deploy.samples import as_input, real_images
from zoo.blueprint import to_text
from zoo.digests import digest
from zoo.errors import FOREIGN_FAULTS, UserError, reason
from zoo.parity import parity
from zoo.progress import Advance, progress
from zoo.storage.files import atomic_path, read_safetensors, write_safetensors
from zoo.storage.records import to_plain

FORMAT = "huozi-export/1"
METADATA_FILE = "huozi.json"
"""Name of the metadata inside a file of torch.export."""

_MAX_ONNX_BYTES = 2**31 - 2**20
_BATCH_SIZES = (1, 2, 5)
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Parity:
    """How near a written file is to the network.

    Attributes:
        difference: Largest of all logits, as a share of the largest logit.
        agreement: Share of the images that both name alike.
        num_images: Compared, in batches of several sizes.
        runtime: That ran the file.
        source: Of the images, in words.
    """

    difference: float
    agreement: float
    num_images: int
    runtime: str
    source: str

    def __str__(self) -> str:
        equal = "bit-equal" if self.difference == 0 else f"within {self.difference:.1e} of the largest"
        return (
            f"{self.runtime} on {self.num_images} {self.source}: logits {equal}, "
            f"{self.agreement:.1%} named alike, in batches of any size"
        )


class Deployable(nn.Module):
    """The network as it is written: all that runs registered in it, with the normalisation in front where wanted.

    Args:
        model: Of ``deploy.load``.
        preprocessing: Take uint8 images (N, C, H, W) instead of normalised float32.
    """

    def __init__(self, model: Model, *, preprocessing: bool) -> None:
        super().__init__()
        self.network = standalone(model)
        self.preprocessing = preprocessing
        for name, values in (("mean", model.input.mean), ("std", model.input.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if self.preprocessing:
            images = (images.float() / 255 - self.mean) / self.std
        return self.network(images)


def standalone(model: Model) -> nn.Module:
    """The network with all that runs among its modules, on the CPU, in eval mode; a clone's networks are copied."""
    network = model.network.cpu()
    if isinstance(network, ClonedNetwork) and not len(network.copies):
        network = network.standalone()
    return network.requires_grad_(False).eval()


def metadata(model: Model, *, preprocessing: bool) -> dict[str, str]:
    """What the file says of itself, as text by name: classes, input, composition, digests."""
    taken = "uint8 (N, C, H, W)" if preprocessing else "float32 (N, C, H, W), (x / 255 - mean) / std"
    return {
        "format": FORMAT,
        "classes": json.dumps(model.classes, ensure_ascii=False),
        "input": json.dumps({**to_plain(model.input), "takes": taken}),
        "output": "logits (N, classes)",
        "composition": model.origin.blueprint.composition,
        "networks": json.dumps(dict(model.origin.blueprint.networks)),
        "weights": digest(model.network),
        "blueprint": to_text(model.origin.blueprint),
    }


def export(
    model: Model,
    path: Path,
    kind: str,
    *,
    preprocessing: bool = False,
    images: Sequence[Path] = (),
    data: ImageDataModule | None = None,
    tolerance: float = 1e-3,
) -> Parity:
    """Writes a model; the file appears only where the runtime that it is for gives what the network gives.

    Args:
        model: Of ``deploy.load``; it goes to the CPU.
        path: The file.
        kind: ``onnx``, ``torch_export`` or ``safetensors`` (weights by name alone).
        preprocessing: See ``Deployable``.
        images: Files to compare on.
        data: Without files, its test images are compared; without either, photographs.
        tolerance: How far logits may be apart, as a share of the largest.

    Raises:
        UserError: A recipe without weights, a library that is missing, what the exporter refuses, logits too far apart.
    """
    model.require_weights()
    pixels, source = real_images(model.cpu(), images, data)
    network = Deployable(model, preprocessing=preprocessing).eval()
    inputs = pixels if preprocessing else as_input(pixels, model)
    told = metadata(model, preprocessing=preprocessing)
    steps = progress(f"exporting to {kind}", 2 + len(_BATCH_SIZES))
    with atomic_path(path) as temporary, torch.no_grad(), steps as advance:
        try:
            with quiet():
                runtime, run = _WRITERS[kind](network, inputs, told, temporary)
            advance()
        except UserError:
            raise
        except FOREIGN_FAULTS as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the file, not of the network
                raise
            raise UserError(f"{model.origin.path} cannot be exported as {kind}: {reason(error)}") from error
        found = _compare(model, run, inputs, as_input(pixels, model), runtime, source, advance)
        if not found.difference <= tolerance:  # NaN is not
            raise UserError(
                f"{path} is not written: logits of {runtime} are up to {found.difference:.2g} of the largest away from "
                f"the network's, allowed are {tolerance:g} (--tolerance); {found.agreement:.1%} of images named alike"
            )
    return found


def _compare(
    model: Model, run: Run, inputs: Tensor, images: Tensor, runtime: str, source: str, advance: Advance
) -> Parity:
    expected, found, start = [], [], 0
    for size in (*_BATCH_SIZES, len(inputs)):  # of several sizes: that the batch is free
        part = slice(start, start + size)
        if len(inputs[part]):
            expected.append(model.network(images[part]).float())
            found.append(run(inputs[part]).float())
        start += size
        advance()
    ours, theirs = torch.cat(expected), torch.cat(found)
    return Parity(*parity(ours, theirs), len(ours), runtime, source)


def _exported(network: nn.Module, inputs: Tensor) -> ExportedProgram:
    """The network as a graph with a free batch."""
    example = torch.cat([inputs, inputs])[:2]  # 0 and 1 are special to torch.export
    return torch.export.export(network, (example,), dynamic_shapes=({0: Dim("batch")},))


def _write_onnx(network: Deployable, inputs: Tensor, told: dict[str, str], path: Path) -> tuple[str, Run]:
    session = write_onnx_file(network, inputs, told, path, torch.get_num_threads())

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])

    return f"onnxruntime {version('onnxruntime')}", run


def write_onnx_file(network: nn.Module, inputs: Tensor, told: dict[str, str], path: Path, num_threads: int) -> Any:
    """Writes a network from ``images`` to ``logits`` with a free batch; returns the runtime's session of the file.

    Raises:
        UserError: A library that is missing, or more weights than a file holds.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 what torch.onnx needs
    except ImportError as error:
        raise UserError(f"ONNX needs {error.name}: type pip install -e '.[export]'") from error
    num_bytes = sum(tensor.nbytes for tensor in network.state_dict().values())
    if num_bytes > _MAX_ONNX_BYTES:
        raise UserError(f"{num_bytes:,} bytes of weights: an ONNX file takes 2 GiB; type --format torch_export")
    program = torch.onnx.export(
        _exported(network, inputs), dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
    )
    program.model.metadata_props.update(told)
    program.save(path, external_data=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = num_threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _write_torch_export(network: Deployable, inputs: Tensor, told: dict[str, str], path: Path) -> tuple[str, Run]:
    with path.open("wb") as file:
        torch.export.save(_exported(network, inputs), file, extra_files={METADATA_FILE: json.dumps(told)})
    with path.open("rb") as file:
        return "torch.export", torch.export.load(file).module()


def _write_safetensors(network: Deployable, inputs: Tensor, told: dict[str, str], path: Path) -> tuple[str, Run]:
    write_safetensors(path, network.network.state_dict(), told)
    tensors, _ = read_safetensors(path)
    network.network = copy.deepcopy(network.network)  # not into the network that is compared
    network.network.load_state_dict(tensors)
    return "safetensors, read back,", network


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' own remarks: what is wrong is told by the comparison."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch._dynamo")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


_WRITERS = {"onnx": _write_onnx, "torch_export": _write_torch_export, "safetensors": _write_safetensors}
