"""Who gives what to whom, on which images: the scenarios of ``benchmarks.cloning``, as YAML files.

    name: 'P=1: 0-4 <- {5,6}'
    dataset: [dataset=mnist5k, dataset.num_validation=500]   # as train.py takes it
    zoo: embedded                                            # networks that are there; may be left out
    networks: {'0-4': ['0', '1', '2', '3', '4'], ...}        # networks that are trained first, by their classes
    training: [dataset=mnist5k, dataset.augmentation=affine] # on what
    target: '0-4'
    kept: ['0', '1', '2', '3', '4']
    cloned: {'5-9': ['5', '6']}

A whole number in the place of a class's name is the class of that number in the data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cloning_zoo import INPUT, trained_entry
from datamodules import ImageDataModule
from launch.datasets import open_dataset
from zoo.entries import InputSpec
from zoo.errors import UserError
from zoo.registry import Zoo, read_zoo
from zoo.storage.files import read_yaml
from zoo.storage.records import from_plain
from zoo.storage.store import Store

FOLDER = Path(__file__).parent / "scenarios"
Names = tuple[str | int, ...]


@dataclass(frozen=True)
class Scenario:
    """One task.

    Attributes:
        name: For tables.
        dataset: The images, in the words of train.py.
        target: Name of the network that receives.
        kept: Classes that it keeps.
        cloned: Classes by source.
        zoo: Name or file of a zoo whose networks take part.
        networks: Classes by network that is trained first.
        training: The images it is trained on, in the words of train.py.
        input: What it takes.
        width: Channels of its first stage.
        epochs: Of its training.
    """

    name: str
    dataset: tuple[str, ...]
    target: str
    kept: Names
    cloned: Mapping[str, Names]
    zoo: str | None = None
    networks: Mapping[str, Names] | None = None
    training: tuple[str, ...] = ()
    input: InputSpec = INPUT
    width: int = 8
    epochs: int = 8

    def data(self, seed: int, *words: str) -> ImageDataModule:
        """The images of all classes."""
        return open_dataset([*self.dataset, *words, f"seed={seed}"], None)

    def read(self, seed: int, store: Store) -> Zoo:
        """The networks; those that are trained here are other ones with another seed."""
        names = self.data(seed).class_names
        trained = [
            trained_entry(
                name,
                _named(classes, names),
                self.training,
                seed=seed,
                store=store,
                spec=self.input,
                width=self.width,
                epochs=self.epochs,
            )
            for name, classes in (self.networks or {}).items()
        ]
        return Zoo("benchmark", [*trained, *(read_zoo(self.zoo).values() if self.zoo else ())])

    def task(self, names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
        """Classes kept, and classes by source, among the names of the data set."""
        return _named(self.kept, names), {source: _named(given, names) for source, given in self.cloned.items()}


def _named(classes: Names, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(names[name] if isinstance(name, int) else name for name in classes)


def read_scenario(name: str | Path) -> Scenario:
    """A scenario of ``benchmarks/scenarios`` by name, or any file.

    Raises:
        UserError: No such file, or not what a scenario is.
    """
    path = Path(name) if Path(name).suffix in (".yaml", ".yml") else FOLDER / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UserError(f"{name}: no such scenario; there are {there}, or give a YAML file")
    return from_plain(Scenario, read_yaml(path), str(path))
