"""Image data modules: `conf/dataset/*.yaml` names one each."""

from datamodules.base import ImageDataModule
from datamodules.cluttered_mnist import ClutteredMNIST
from datamodules.digits import Digits
from datamodules.image_folder import ImageFolder
from datamodules.manifest import Manifest, difference
from datamodules.mnist5k import MNIST5k
from datamodules.published import PublishedImages

__all__ = [
    "ClutteredMNIST",
    "Digits",
    "ImageDataModule",
    "ImageFolder",
    "MNIST5k",
    "Manifest",
    "PublishedImages",
    "difference",
]
