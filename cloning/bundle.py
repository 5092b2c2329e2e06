"""Transport: a cloned network as one small file, without the networks it is made of.

    huozi-clone/1 <sha256 of the next line>
    {"dtype": ..., "sections": [[name, size, sha256], ...]}
    blueprint (YAML, deflated) | adapters (safetensors) | head (safetensors) | probe (safetensors)

The receiver builds target and sources out of its own zoo, checks their digests, and fills in adapters and head. Every
section has its checksum: a file cut short or with a flipped bit is refused, and what is damaged in adapters or head can
be fitted anew from a few samples. The probe holds the sender's logits on fixed noise, to compare with the receiver's.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cloning.blueprint import CloningBlueprint, build, describe
from cloning.fitting import solve_network_head, with_fitted_adapters
from cloning.frozen import FrozenNetwork
from cloning.network import ClonedNetwork
from cloning.samples import Samples
from zoo.blueprint import FORMAT as BLUEPRINT_FORMAT
from zoo.blueprint import Bundle, to_text
from zoo.entries import InputSpec
from zoo.errors import UserError
from zoo.storage.files import write_bytes
from zoo.storage.records import from_plain

MAGIC = b"huozi-clone/1"
LEARNT = ("adapters", "head")
NUM_PROBES = 4
_DTYPES = {"float32": torch.float32, "float16": torch.float16}

Load = Callable[[str], FrozenNetwork]


@dataclass(frozen=True)
class Unpacked:
    """What a receiver has.

    Attributes:
        network: The cloned network.
        difference: Largest difference between its logits on the probe and the sender's; 0 means bit-equal.
        agreement: Share of the probe images that both name alike.
        repaired: Sections that were damaged and fitted anew.
    """

    network: ClonedNetwork
    difference: float
    agreement: float
    repaired: tuple[str, ...] = ()


def to_bundle(network: ClonedNetwork) -> Bundle:
    """The content of a bundle directory: what was learnt; complete if copies of networks were tuned."""
    tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    return Bundle(describe(network), tensors, complete=len(network.copies) > 0)


def from_bundle(bundle: Bundle, load_network: Load) -> ClonedNetwork:
    """Rebuilds the network of a bundle, in eval mode; its outputs are bit-equal to those of the one saved.

    Raises:
        UserError: Networks with other digests, tensors that do not fit the blueprint.
    """
    network = build(bundle.blueprint, load_network)
    network = network.thawed() if bundle.complete else network
    _fill(network, bundle.tensors)
    return network.eval()


def pack(network: ClonedNetwork, path: str | Path, *, dtype: str = "float32") -> int:
    """Writes the file atomically; returns its size in bytes.

    Args:
        network: Whose adapters and head travel; one with tuned copies (PNC-F) has to travel whole.
        path: The file.
        dtype: ``float32`` (bit-equal at the other end) or ``float16`` (half the size).

    Raises:
        UserError: Unknown dtype, tuned copies.
    """
    if dtype not in _DTYPES:
        raise UserError(f"dtype {dtype!r} is unknown; allowed are {', '.join(_DTYPES)}")
    if len(network.copies):
        raise UserError("a network tuned with tuning=full differs from its zoo everywhere: send its bundle directory")
    state = network.state_dict()
    sections = {"blueprint": zlib.compress(to_text(describe(network)).encode(), 9)}
    for part in LEARNT:
        tensors = {name: tensor for name, tensor in state.items() if name.startswith(f"{part}.")}
        sections[part] = save({name: tensor.to(_DTYPES[dtype]).contiguous() for name, tensor in tensors.items()})
    sections["probe"] = save({"logits": _probe_logits(network)})
    table = [[name, len(content), hashlib.sha256(content).hexdigest()] for name, content in sections.items()]
    header = json.dumps({"dtype": dtype, "sections": table}, separators=(",", ":")).encode()
    checksum = hashlib.sha256(header).hexdigest().encode()
    content = b"%b %b\n%b\n%b" % (MAGIC, checksum, header, b"".join(sections.values()))
    write_bytes(path, content)
    return len(content)


def unpack(path: str | Path, load_network: Load) -> Unpacked:
    """Rebuilds the network of a file.

    Raises:
        UserError: Not such a file, damaged (with the name of the damaged section), a network the zoo lacks or has with
            other weights.
    """
    sections, damaged = _read(path)
    if damaged:
        raise UserError(
            f"{path}: damaged in {', '.join(damaged)} (cut short, or a bit has flipped): have it sent again"
            + (", or fit anew with python -m cloning repair" if set(damaged) <= set(LEARNT) else "")
        )
    network = build(_blueprint(path, sections), load_network)
    _fill(network, {name: tensor for part in LEARNT for name, tensor in load(sections[part]).items()})
    return Unpacked(network, *_compare(network, sections))


def repair(path: str | Path, load_network: Load, samples: Callable[[InputSpec], Samples], *, seed: int = 0) -> Unpacked:
    """Rebuilds the network of a file and fits damaged adapters or a damaged head to a few samples.

    Args:
        path: A file whose blueprint is intact.
        load_network: Gives a network of the zoo by name.
        samples: Gives images preprocessed for the target, labelled by the cloned network's classes.
        seed: Of the folds of the adapters' fit.

    Raises:
        UserError: As ``unpack``, if the damage is elsewhere.
    """
    sections, damaged = _read(path)
    if "blueprint" in damaged:
        raise UserError(f"{path}: damaged in its blueprint, which no fit can bring back: have it sent again")
    network = build(_blueprint(path, sections), load_network)
    few = samples(network.target.input)
    if "adapters" in damaged:
        network = with_fitted_adapters(network, few.images, seed=seed)
    _fill(network, {n: t for part in LEARNT if part not in damaged for n, t in load(sections[part]).items()}, damaged)
    if "head" in damaged:
        solve_network_head(network, few)
    difference = _compare(network, sections) if "probe" not in damaged else (float("nan"), float("nan"))
    return Unpacked(network, *difference, tuple(name for name in LEARNT if name in damaged))


def _read(path: str | Path) -> tuple[dict[str, bytes], list[str]]:
    """The sections of a file, and the names of the damaged ones."""
    if not Path(path).is_file():
        raise UserError(
            f"{path}: expected a file, but it {'is a directory' if Path(path).is_dir() else 'does not exist'}"
        )
    content = Path(path).read_bytes()
    first, _, rest = content.partition(b"\n")
    header, _, payload = rest.partition(b"\n")
    if not first.startswith(MAGIC):
        raise UserError(f"{path}: no packed clone: it does not begin with {MAGIC.decode()}")
    if first != MAGIC + b" " + hashlib.sha256(header).hexdigest().encode():
        raise UserError(f"{path}: damaged in its header (cut short, or a bit has flipped): have it sent again")
    sections, damaged, start = {}, [], 0
    for name, size, checksum in json.loads(header)["sections"]:
        sections[name] = payload[start : start + size]
        if hashlib.sha256(sections[name]).hexdigest() != checksum:
            damaged.append(name)
        start += size
    if len(payload) != start and not damaged:
        raise UserError(f"{path}: {abs(len(payload) - start)} bytes too many: have it sent again")
    return sections, damaged


def _blueprint(path: str | Path, sections: Mapping[str, bytes]) -> CloningBlueprint:
    plain = yaml.safe_load(zlib.decompress(sections["blueprint"]))
    if plain.pop("format", None) != BLUEPRINT_FORMAT:
        raise UserError(f"{path}: its blueprint has another format than {BLUEPRINT_FORMAT}; pack it anew")
    return from_plain(CloningBlueprint, plain, str(path))


@torch.no_grad()
def _fill(network: ClonedNetwork, tensors: Mapping[str, Tensor], damaged: list[str] | tuple[str, ...] = ()) -> None:
    state = network.state_dict()
    for name, tensor in tensors.items():
        if name not in state or tensor.shape != state[name].shape:
            expected = list(state[name].shape) if name in state else "no such tensor"
            raise UserError(f"tensor {name!r} has shape {list(tensor.shape)}, the blueprint expects {expected}")
    missing = [name for name in state if name not in tensors and not name.startswith(tuple(damaged))]
    if missing:
        raise UserError(f"tensor {missing[0]!r} is missing")
    for name, tensor in tensors.items():
        state[name].copy_(tensor)


def _compare(network: ClonedNetwork, sections: Mapping[str, bytes]) -> tuple[float, float]:
    try:
        sent = load(sections["probe"])["logits"]
    except SafetensorError as error:
        raise UserError(f"the probe cannot be read: {error}") from error
    found = _probe_logits(network)
    agreement = (sent.argmax(1) == found.argmax(1)).double().mean().item()
    return (sent - found).abs().max().item(), agreement


@torch.no_grad()
def _probe_logits(network: ClonedNetwork) -> Tensor:
    spec = network.target.input
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(NUM_PROBES, spec.channels, spec.height, spec.width, generator=generator)
    return network(images)
