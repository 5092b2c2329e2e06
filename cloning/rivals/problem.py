"""The question that a cloned network and its rivals answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from cloning.frozen import FrozenNetwork
from cloning.measures import Accuracies, measure_accuracies
from cloning.network import ClonedNetwork
from cloning.samples import BATCH_SIZE, Samples, correction_samples
from cloning.settings import CorrectionSettings
from datamodules import ImageDataModule
from datamodules.correction import CorrectionData
from zoo.chain.batches import run_in_batches
from zoo.conversion import convert
from zoo.entries import InputSpec


def num_copies(data: ImageDataModule) -> int:
    """Distorted copies of every image that all ways are given: none where the data is not augmented."""
    return CorrectionSettings.num_copies if data.augmentation else 0


def given_samples(data: ImageDataModule, spec: InputSpec) -> Samples:
    """The training images and these copies, preprocessed for ``spec``."""
    return Samples.joined(correction_samples(data, spec, num_copies(data)))


@dataclass(frozen=True)
class CloningProblem:
    """The question that a cloned network answers.

    Attributes:
        network: The cloned network in closed form; it names target, sources and classes, and is left as it is.
        data: The correction data that cloning tunes on, labelled by ``network.classes``.
        complete: All training images of all classes, preprocessed for the target, labelled likewise. Only ``joint``
            trains on them; EWC reads its Fisher information off the target's part, RanPAC its second moments.
    """

    network: ClonedNetwork
    data: CorrectionData
    complete: Samples

    @property
    def target(self) -> FrozenNetwork:
        """The network that receives."""
        return self.network.target

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the target's classes, in the order of the outputs."""
        return self.network.kept_classes

    @property
    def kept_outputs(self) -> list[int]:
        """Outputs of the cloned network that belong to the target's classes."""
        return [self.network.classes.index(name) for name in self.kept]

    @cached_property
    def correction(self) -> Samples:
        """The correction samples, preprocessed for the target, with the copies that cloning itself is given."""
        return given_samples(self.data, self.target.input)

    def target_logits(self, images: Tensor) -> Tensor:
        """The untouched target's logits (n, kept classes)."""
        outputs = [self.target.classes.index(name) for name in self.kept]
        return run_in_batches(self.target.logits, images, batch_size=BATCH_SIZE)[:, outputs]

    def source_logits(self, images: Tensor) -> list[tuple[list[int], Tensor]]:
        """Of every source its outputs of the cloned network, and its logits (n, those) on images for the target."""
        found = []
        for clone in self.network.clones:
            own = [clone.source.classes.index(name) for name in clone.classes]
            seen = convert(images, self.target.input, clone.source.input)
            logits = run_in_batches(clone.source.logits, seen, batch_size=BATCH_SIZE)[:, own]
            found.append(([self.network.classes.index(name) for name in clone.classes], logits))
        return found

    def accuracies(self, module: nn.Module, split: str) -> Accuracies:
        """Accuracies of a module that answers the question, on a split."""
        samples = Samples(*self.data.images(split, self.target.input))
        return measure_accuracies(self.network, samples, module)
