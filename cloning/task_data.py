"""What a search for clones sees of the data: the images of its classes, few of them or many, where it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloning.frozen import FrozenNetwork
from cloning.samples import MAX_IMAGES, Samples
from cloning.settings import CorrectionSettings
from datamodules import ImageDataModule
from datamodules.correction import CorrectionData
from zoo.devices import Placement
from zoo.errors import UserError
from zoo.storage.sources import module_digest


@dataclass(frozen=True)
class TaskData:
    """The data of a task.

    Attributes:
        data: All of it.
        settings: How much of the training images is seen.
        placement: Where samples are put.
    """

    data: ImageDataModule
    settings: CorrectionSettings
    placement: Placement

    def correction(self, classes: Sequence[str], cloned: Sequence[str], target: FrozenNetwork) -> CorrectionData:
        """The correction data of some classes, read as the target takes images.

        Raises:
            UserError: The validation or the test split has no image of either side.
        """
        self.data.use_input(target.input)
        data = CorrectionData(
            self.data,
            classes=classes,
            cloned=cloned,
            fraction=self.settings.fraction,
            exemplars=self.settings.exemplars,
        )
        for split in ("val", "test"):
            for names in (set(cloned), set(classes) - set(cloned)):
                if names and names <= set(data.missing(split)):
                    raise UserError(
                        f"{data.name}: the {split} split has no image of the classes {', '.join(sorted(names))}: how "
                        "well they are known cannot be measured; make the split larger, or leave them out"
                    )
        return data

    def samples(self, data: CorrectionData, split: str, target: FrozenNetwork, limit: int | None = None) -> Samples:
        """The images of a split, at most so many, preprocessed for the target."""
        return Samples(*data.images(split, target.input, limit=limit)).to(self.placement.device)

    def train_and_val(self, data: CorrectionData, target: FrozenNetwork) -> tuple[Samples, Samples]:
        """All training images, and of the validation images so many that heads can be compared."""
        return self.samples(data, "train", target), self.samples(data, "val", target, limit=MAX_IMAGES)

    def key(self, data: CorrectionData) -> list[str | None]:
        """What decides its images, for content keys."""
        return [data.digest, module_digest(type(self.data).__module__), *self.placement.key]
