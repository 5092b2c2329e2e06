"""Which device computes what is outside of the trainer: features, scores, closed forms, localisation, insertion."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch

from zoo.errors import UserError
from zoo.limits import shown
from zoo.ridge import NO_FLOAT64

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
_NAMES = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


@dataclass(frozen=True)
class Placement:
    """Where forward passes run, and in which precision; closed forms and scores are float64 in any.

    Attributes:
        device: Of networks and images.
        precision: ``float32``, or ``bfloat16`` by autocast.
    """

    device: torch.device = torch.device("cpu")  # noqa: RUF009 immutable
    precision: Literal["float32", "bfloat16"] = "float32"

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the products, as ``zoo.chain.batches`` takes it."""
        return PRECISIONS[self.precision]

    @property
    def float64_device(self) -> torch.device:
        """The device, or the CPU where it has no float64."""
        return torch.device("cpu") if self.device.type in NO_FLOAT64 else self.device

    @property
    def key(self) -> list[str]:
        """What results depend on by rounding: other devices and precisions make other entries of a store."""
        return [] if self == CPU else [self.device.type, self.precision]


CPU = Placement()


def check_device_name(name: str, key: str = "device") -> None:
    """Refuses what names no device.

    Raises:
        UserError: What is allowed.
    """
    if not _NAMES.fullmatch(name):
        raise UserError(f"{key}={shown(name)} is unknown; allowed are auto, cpu, cuda, cuda:N, mps; type {key}=auto")


def find_device(name: str, key: str = "device") -> torch.device:
    """The device of that name; ``auto`` is the first GPU, else MPS, else the CPU.

    Raises:
        UserError: This machine does not have it.
    """
    check_device_name(name, key)
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if num_gpus else "mps" if has_mps else "cpu")
    kind, _, index = name.partition(":")
    if (kind == "mps" and not has_mps) or (kind == "cuda" and not num_gpus):
        raise UserError(f"{key}={name}: torch finds no such device on this machine; type {key}=auto")
    if kind == "cuda" and int(index or 0) >= num_gpus:
        raise UserError(f"{key}={name}: this machine has {num_gpus} of them; type {key}=cuda:{num_gpus - 1}")
    return torch.device(name)
