"""What another, frozen network says of the images that a network is tuned on: a teacher, or the home of a tail."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tuning.settings import TuningSettings
from zoo.chain import Costs
from zoo.chain.batches import run_in_batches
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


class ReferenceOutputs:
    """The outputs of a reference for batches of a split, without gradient.

    Where the images of a split are the same in every epoch they are computed once, with the reference's own
    preprocessing; else for each batch as it is, converted from the preprocessing of the network that is tuned.

    Args:
        reference: Whose outputs.
        data: Makes images for the network that is tuned.
        split: ``train`` or ``val``.
        is_varied: Whether batches hold other images than those of the split: augmented or mixed.
        columns: Of the outputs, those that are wanted, in this order; all without it.
    """

    def __init__(
        self,
        reference: Reference,
        data: TuningData,
        split: str,
        *,
        is_varied: bool,
        device: torch.device,
        columns: Sequence[int] | None = None,
    ) -> None:
        self._reference, self._spec, self._columns = reference, data.input, columns
        self._network = reference.network
        self._rows: Tensor | None = None
        if is_varied:
            return
        images = data.image_batches(split, reference.input, None, batch_size=data.batch_size)
        outputs = run_in_batches(reference.network, images, batch_size=data.batch_size, device=device)
        rows = self._select(outputs)
        self._rows = rows.to(device) if rows.nbytes <= MAX_DEVICE_BYTES else rows

    @property
    def is_computed_once(self) -> bool:
        """Whether they lie in memory."""
        return self._rows is not None

    def scale(self) -> Tensor:
        """(d,) standard deviation of each output over the split, 1 where it is constant; for what is computed once."""
        assert self._rows is not None
        scale = self._rows.std(0, correction=0)
        return torch.where(scale > 0, scale, torch.ones_like(scale))

    @torch.no_grad()
    def __call__(self, inputs: Tensor, index: Tensor) -> Tensor:
        """Outputs (b, d), float32, of the images of a batch, which have the positions ``index`` in the split."""
        if self._rows is not None:
            return self._rows[index.to(self._rows.device)].to(inputs.device)
        with eval_mode(self._network):
            return self._select(self._network.to(inputs.device)(convert(inputs, self._spec, self._reference.input)))

    def _select(self, outputs: Tensor) -> Tensor:
        return (outputs if self._columns is None else outputs[:, self._columns]).float()


def teacher_outputs(
    teacher: Reference, data: TuningData, tuning: TuningSettings, device: torch.device
) -> ReferenceOutputs:
    """The teacher's logits of the classes of the data, in their order; tells what they cost."""
    is_varied = data.augmentation is not None or bool(tuning.mixup_alpha or tuning.cutmix_alpha)
    columns = teacher.columns(data.class_names)
    outputs = ReferenceOutputs(teacher, data, "train", is_varied=is_varied, device=device, columns=columns)
    log.info(
        "teacher %s: %s parameters, %s MACs an image; its outputs are computed %s",
        *(teacher.name, f"{teacher.costs.num_params:,}", f"{teacher.costs.macs:,}"),
        "once" if outputs.is_computed_once else "for every batch, whose images are new in every epoch",
    )
    return outputs
