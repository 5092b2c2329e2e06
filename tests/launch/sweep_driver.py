"""``train.py`` with a stand-in for the training: fails, is killed or ends well, by its seed."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from launch.entry import application
from launch.schema import Config


@application("train")
def main(config: Config) -> Mapping[str, Any]:
    """Ends well with seed 0, fails with seed 1, is killed with seed 2 or more."""
    if config.seed == 1:
        raise RuntimeError("power\ncut")
    if config.seed > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"value": 0.5 + config.optimizer.learning_rate, "val_accuracy": 0.5}


if __name__ == "__main__":
    main()
