"""What another, frozen network says of the images that a network is tuned on: a teacher, or the home of a tail."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tuning.passes import Images, shared_outputs
from tuning.settings import TuningSettings
from zoo.chain import Costs
from zoo.chain.modes import eval_mode
from zoo.conversion import convert
from zoo.entries import InputSpec
from zoo.errors import UserError

if TYPE_CHECKING:
    from tuning.data import TuningData  # heavy

log = logging.getLogger(__name__)

MAX_DEVICE_BYTES = 1 << 28
"""Outputs computed once lie on the device up to this size, so that no step waits for a transfer of positions."""


@dataclass(frozen=True)
class Reference:
    """A network to learn from, which stays as it is.

    Attributes:
        name: For messages.
        network: Maps images (N, C, H, W), preprocessed as ``input`` says, to (N, d). It is run in eval mode and never
            trained, and its parameters and modes are as before afterwards.
        input: What it takes.
        costs: Of one image.
        classes: Names of its outputs, where they are logits.
    """

    name: str
    network: nn.Module
    input: InputSpec
    costs: Costs
    classes: tuple[str, ...] = ()

    @torch.no_grad()
    def require_outputs(self, example: Tensor) -> None:
        """Refuses (`UserError`) names that are not as many as the outputs for an image (1, C, H, W): one may stand
        beside another's output."""
        with eval_mode(self.network):
            outputs = self.network(example)
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else ()
        if self.classes and shape != (1, len(self.classes)):
            told = f"{shape[1]} outputs" if len(shape) == 2 else f"outputs of shape {shape}"
            raise UserError(
                f"tuning.teacher={self.name} has {told} for an image and {len(self.classes)} class names: list the "
                "names of all its outputs, in their order, as its `classes` in the zoo's file"
            )

    def columns(self, wanted: Sequence[str]) -> list[int]:
        """Its outputs for the classes of the data, in their order, by name.

        Raises:
            UserError: It has no names, or lacks a class.
        """
        if not self.classes:
            raise UserError(
                f"tuning.teacher={self.name} has no names of its outputs, so that they cannot be matched with those of "
                "the data: list its `classes` in the zoo's file"
            )
        lacking = [name for name in wanted if name not in self.classes]
        if lacking:
            raise UserError(
                f"tuning.teacher={self.name} knows {len(self.classes)} classes, and of the {len(wanted)} of the data "
                f"it lacks {', '.join(map(repr, lacking[:5]))}{', ...' if len(lacking) > 5 else ''}: give a teacher of "
                "the same class names, or leave it out"
            )
        return [self.classes.index(name) for name in wanted]


def bytes_to_keep(num_images: int, num_outputs: int) -> int:
    """Of outputs that are computed once."""
    return 4 * num_images * num_outputs


class ReferenceOutputs:
    """The outputs of a reference for batches of a split, without gradient.

    Where the images of a split are the same in every epoch and ``max_bytes`` hold the outputs, they are computed once,
    with the reference's own preprocessing; else for each batch as it is, converted from the preprocessing of the
    network that is tuned.

    Args:
        reference: Whose outputs.
        data: Makes images for the network that is tuned.
        split: ``train`` or ``val``.
        is_varied: Whether batches hold other images than those of the split: augmented or mixed.
        max_bytes: That outputs computed once may take.
        columns: Of the outputs, those that are wanted, in this order; all without it.
    """

    def __init__(
        self,
        reference: Reference,
        data: TuningData,
        split: str,
        *,
        is_varied: bool,
        max_bytes: int,
        device: torch.device,
        columns: Sequence[int] | None = None,
    ) -> None:
        self._reference, self._data, self._columns = reference, data, columns
        self._network, self._spec, self._device = reference.network, data.input, device
        self._images = Images(data, split, reference.input)
        self._rows: Tensor | None = None
        if is_varied:
            return
        start = 0
        for batch in self._outputs():
            if self._rows is None:
                num_bytes = bytes_to_keep(len(self._images), batch.shape[1])
                if num_bytes > max_bytes:
                    return
                where = device if num_bytes <= MAX_DEVICE_BYTES else "cpu"
                self._rows = torch.empty(len(self._images), batch.shape[1], device=where)
            self._rows[start : start + len(batch)] = batch
            start += len(batch)

    @property
    def is_computed_once(self) -> bool:
        """Whether they lie in memory."""
        return self._rows is not None

    def scale(self) -> Tensor:
        """(d,) standard deviation of each output over the images of the split as they are, 1 where it is constant."""
        count, mean, squares = 0, torch.zeros(()), torch.zeros(())
        for batch in self._outputs() if self._rows is None else self._rows.cpu().split(self._data.batch_size):
            own, step = batch.double().mean(0), len(batch) / (count + len(batch))
            squares = squares + (batch - own).square().sum(0) + (own - mean).square() * count * step
            count, mean = count + len(batch), mean + (own - mean) * step
        scale = (squares / count).sqrt().float()
        return torch.where(scale > 0, scale, torch.ones_like(scale))

    @torch.no_grad()
    def __call__(self, inputs: Tensor, index: Tensor) -> Tensor:
        """Outputs (b, d), float32, of the images of a batch, which have the positions ``index`` in the split."""
        if self._rows is not None:
            return self._rows[index.to(self._rows.device)].to(inputs.device)
        with eval_mode(self._network):
            return self._select(self._network.to(inputs.device)(convert(inputs, self._spec, self._reference.input)))

    def _outputs(self) -> Iterator[Tensor]:
        """Of the images of the split as the reference itself takes them, (b, d) float32 on the CPU."""
        options = {"batch_size": self._data.batch_size, "device": self._device}
        return map(self._select, shared_outputs(self._network, self._images.batches, len(self._images), **options))

    def _select(self, outputs: Tensor) -> Tensor:
        return (outputs if self._columns is None else outputs[:, self._columns]).float()


def teacher_outputs(
    teacher: Reference, data: TuningData, tuning: TuningSettings, device: torch.device
) -> ReferenceOutputs:
    """The teacher's logits of the classes of the data, in their order; tells what they cost."""
    is_varied = data.augmentation is not None or bool(tuning.mixup_alpha or tuning.cutmix_alpha)
    columns = teacher.columns(data.class_names)
    options = {"max_bytes": tuning.max_cache_bytes, "device": device, "columns": columns}
    outputs = ReferenceOutputs(teacher, data, "train", is_varied=is_varied, **options)
    num_bytes = bytes_to_keep(data.num_images("train"), len(columns))
    when = "for every batch, whose images are new in every epoch"
    if not is_varied:
        when = f"for every batch, as it is made for the tuned network: tuning.max_cache_bytes is below {num_bytes:,}"
    log.info(
        "teacher %s: %s parameters, %s MACs an image; its outputs are computed %s",
        *(teacher.name, f"{teacher.costs.num_params:,}", f"{teacher.costs.macs:,}"),
        "once" if outputs.is_computed_once else when,
    )
    return outputs
