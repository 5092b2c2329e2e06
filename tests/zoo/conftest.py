"""The checkpoint of a small network, and where one lies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.zoo.checkpoint_stand_ins import small


@pytest.fixture
def trained() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    state = small().state_dict()
    return {key: torch.rand(t.shape, generator=generator).to(t.dtype) for key, t in state.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"
