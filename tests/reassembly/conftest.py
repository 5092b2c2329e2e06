from __future__ import annotations

import sys
from pathlib import Path

import pytest

from datamodules import Digits
from zoo.registry import Zoo, read_zoo

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    embedded = read_zoo("embedded")
    return Zoo("three", [embedded[name] for name in ("resnet_digits", "regnety_even", "vit_digits")])


@pytest.fixture(scope="module")
def data() -> Digits:
    return Digits(num_train=60, num_validation=30, num_test=30)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")
