"""Small networks that know a few digits each, trained for the benchmark of cloning and kept by their content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from datamodules import MNIST5k
from zoo.entries import InputSpec, ZooEntry
from zoo.loading import load_network
from zoo.storage.files import write_safetensors
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


def trained_entry(name: str, classes: Sequence[str], *, seed: int, store: Store) -> ZooEntry:
    """The entry of a small ResNet that knows some digits of MNIST-5k; trained where the store does not hold it."""
    fresh = ZooEntry(
        name=f"{name}_{seed}",
        source="zoo.embedded.networks:small_image",
        input=INPUT,
        kwargs={**ARCHITECTURE, "num_classes": len(classes)},
        classes=tuple(classes),
    )
    inputs = {"architecture": ARCHITECTURE, "classes": classes, "seed": seed, "recipe": [EPOCHS, LEARNING_RATE]}
    tensors = store.fetch("benchmark_network", inputs, lambda: StageResult(_train(fresh, seed))).tensors
    path = Path(store.root).resolve() / "benchmark_network" / f"{Store.key('benchmark_network', inputs)}.safetensors"
    if not path.exists():
        write_safetensors(path, tensors, {})
    return ZooEntry(**{**vars(fresh), "name": name, "weights": Weights(file=str(path))})


def _train(entry: ZooEntry, seed: int) -> dict[str, torch.Tensor]:
    data = MNIST5k(classes=entry.classes, seed=seed, batch_size=64, augmentation="affine")
    data.use_input(entry.input)
    network, loader = load_network(entry).train(), data.train_dataloader()
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * len(loader))
    for epoch in range(EPOCHS):
        loader.batch_sampler.set_epoch(epoch)
        for images, labels in loader:
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.state_dict()
