"""PNC-F: the cloned network with everything trained, on copies of target and sources.

Source: Partial Network Cloning (arXiv 2303.10597), the variant that tunes all parameters. It starts where cloning
starts (same module, same position, F_c solved) and is tuned as ``tuning=full`` does it: normalisation statistics stay
as they were, and the best of start and epochs by validation accuracy is kept. Without exemplars of the target's classes
nothing is trained, as in cloning itself.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

from torch import nn

from cloning.rivals.problem import CloningProblem, num_copies
from cloning.rivals.training import RivalSettings
from cloning.tuning import tune_cloned
from tuning.settings import OptimizerSettings, TuningSettings


def full_cloning(problem: CloningProblem, settings: RivalSettings, *, seed: int) -> nn.Module:
    """Tunes a copy of ``problem.network``, for the epochs that come nearest to ``settings.num_steps``.

    The size of its batches is that of ``problem.data``.
    """
    num_epochs = max(1, round(settings.num_steps / len(problem.data.train_dataloader())))
    tuning = TuningSettings(mode="full", num_epochs=num_epochs, norm_stats="frozen")
    optimizer = OptimizerSettings(learning_rate=settings.learning_rate, block_scale=1.0, layer_decay=1.0)
    with tempfile.TemporaryDirectory() as directory:
        network, _ = tune_cloned(
            copy.deepcopy(problem.network),
            problem.data,
            tuning,
            run_dir=Path(directory),
            num_copies=num_copies(problem.data),
            optimizer=optimizer,
            seed=seed,
            test=False,
        )
    return network
