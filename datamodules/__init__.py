"""Image data modules: `conf/dataset/*.yaml` names one each. They are imported when first asked for."""

from __future__ import annotations

import importlib
from typing import Any

_PLACE_OF = {
    "ClutteredMNIST": "datamodules.cluttered_mnist",
    "Digits": "datamodules.digits",
    "ImageDataModule": "datamodules.base",
    "ImageFolder": "datamodules.image_folder",
    "MNIST5k": "datamodules.mnist5k",
    "Manifest": "datamodules.manifest",
    "PublishedImages": "datamodules.published",
    "difference": "datamodules.manifest",
}

__all__ = sorted(_PLACE_OF)


def __getattr__(name: str) -> Any:
    if name not in _PLACE_OF:
        raise AttributeError(f"module 'datamodules' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACE_OF[name]), name)
