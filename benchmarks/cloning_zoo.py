"""Small networks that know a few classes each, trained for the benchmark of cloning and kept by their content."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path

import torch
from torch.nn import functional as F

from datamodules import ImageDataModule
from datamodules.correction import CorrectionData
from launch.datasets import open_dataset
from zoo.arguments import Parser, positive, run
from zoo.entries import InputSpec, ZooEntry
from zoo.loading import load_network
from zoo.storage.files import write_safetensors
from zoo.storage.places import require_directory
from zoo.storage.records import to_plain
from zoo.storage.store import StageResult, Store
from zoo.weights import Weights

EPOCHS = 8
LEARNING_RATE = 5e-3
ARCHITECTURE = {
    "model": "resnet18",
    "in_chans": 1,
    "stem_type": "deep",
    "stem_width": 4,
    "layers": [1, 1, 1, 1],
    "channels": [8, 16, 32, 64],
    "strides": {},
    "remove": ["maxpool"],
}
INPUT = InputSpec(1, 32, 32, (0.5,), (0.5,))


def trained_entry(
    name: str,
    classes: Sequence[str],
    words: Sequence[str],
    *,
    seed: int,
    store: Store,
    spec: InputSpec = INPUT,
    width: int = 8,
    epochs: int = EPOCHS,
) -> ZooEntry:
    """The entry of a small ResNet that knows some classes of a data set; trained where the store does not hold it.

    Args:
        name: Of the network.
        classes: That it knows.
        words: The data set, as train.py takes it.
        seed: Of data and training.
        store: Keeps the weights.
        spec: What it takes.
        width: Channels of its first stage.
        epochs: Of training.
    """
    architecture = {
        **ARCHITECTURE,
        "in_chans": spec.channels,
        "stem_width": width // 2,
        "channels": [width * k for k in (1, 2, 4, 8)],
    }
    fresh = ZooEntry(
        name=f"{name}_{seed}",
        source="zoo.embedded.networks:small_image",
        input=spec,
        kwargs={**architecture, "num_classes": len(classes)},
        classes=tuple(classes),
    )
    inputs = {"architecture": architecture, "classes": classes, "seed": seed, "recipe": [epochs, LEARNING_RATE]}
    inputs |= {"words": words, "input": to_plain(spec)}
    tensors = store.fetch("benchmark_network", inputs, lambda: StageResult(_train(fresh, words, seed, epochs))).tensors
    path = Path(store.root).resolve() / "benchmark_network" / f"{Store.key('benchmark_network', inputs)}.safetensors"
    if not path.exists():
        write_safetensors(path, tensors, {})
    return ZooEntry(**{**vars(fresh), "name": name, "weights": Weights(file=str(path))})


def _train(entry: ZooEntry, words: Sequence[str], seed: int, epochs: int) -> dict[str, torch.Tensor]:
    data = _restricted(words, entry.classes, seed)
    data.use_input(entry.input)
    network, loader = load_network(entry).train(), data.train_dataloader()
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * len(loader))
    for epoch in range(epochs):
        loader.batch_sampler.set_epoch(epoch)
        for images, labels in loader:
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.state_dict()


def _restricted(words: Sequence[str], classes: Sequence[str], seed: int) -> ImageDataModule:
    """A data set of some of its classes, by its own option where it has one, else with all classes equally often."""
    whole = open_dataset([*words, f"seed={seed}"], None)
    if "classes" in signature(type(whole)).parameters:
        quoted = ",".join(f"'{name}'" for name in classes)
        return open_dataset([*words, f"dataset.classes=[{quoted}]", f"seed={seed}"], None)
    return CorrectionData(whole, classes=classes, cloned=classes, fraction=1.0, exemplars=0)


def main() -> None:
    """Trains all networks of some scenarios that the cache does not hold: ``python -m benchmarks.cloning_zoo NAME``."""
    from benchmarks.cloning_scenarios import read_scenario

    parser = Parser(description=main.__doc__)
    parser.add_argument("scenarios", nargs="+", help="names in benchmarks/scenarios, or YAML files")
    parser.add_argument("--seeds", type=positive, default=5)
    parser.add_argument("--cache", default="runs/cache")
    arguments = parser.parse_args()
    require_directory("--cache", arguments.cache, is_read=True)
    for name in arguments.scenarios:
        scenario = read_scenario(name)
        for seed in range(arguments.seeds):
            print(scenario.name, seed, ", ".join(scenario.read(seed, Store(arguments.cache))), flush=True)


if __name__ == "__main__":
    run(main)
