from __future__ import annotations

from types import SimpleNamespace

import pytest

from datamodules import Digits
from launch.inputs import require_fitting_augmentation
from zoo.entries import InputSpec
from zoo.errors import UserError

GREY, COLOUR = (
    SimpleNamespace(input=InputSpec(channels, 32, 32, (0.5,) * channels, (0.5,) * channels)) for channels in (1, 3)
)


def test_an_augmentation_that_suits_no_network_is_refused_before_one_is_searched_for() -> None:
    data = Digits(hue=0.2)
    with pytest.raises(UserError, match=r"dataset\.hue=0\.2 is for colour images, .* type dataset\.hue=0$"):
        require_fitting_augmentation(data, {"a": GREY, "b": GREY})
    require_fitting_augmentation(data, {"a": GREY, "b": COLOUR})  # the one that is found may be the second
    require_fitting_augmentation(Digits(), {"a": GREY})
