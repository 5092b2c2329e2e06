"""Tuning of a cloned network on weak data: adapters and F_c, or copies of everything (PNC-F)."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from cloning.fitting import is_without_originals, solve_taught_head
from cloning.network import ClonedNetwork
from cloning.samples import MAX_IMAGES, Samples, correction_samples
from cloning.settings import CorrectionSettings
from datamodules import ImageDataModule
from tuning.fit import TuningResult, tune
from tuning.settings import HeadSettings, TuningSettings
from zoo.errors import UserError

log = logging.getLogger(__name__)


def tune_cloned(
    network: ClonedNetwork,
    data: ImageDataModule,
    tuning: TuningSettings,
    *,
    run_dir: Path,
    num_copies: int = CorrectionSettings.num_copies,
    learnt: bool = False,
    **options: Any,
) -> tuple[ClonedNetwork, TuningResult]:
    """Tunes a cloned network whose adapters are fitted in closed form.

    F_c is first solved (``correction_samples``, ``solve_taught_head``), and is then trained with the adapters by
    class-balanced cross-entropy; the guard keeps the better on validation. Without adapters (every clone at the image)
    F_c is all there is, and it is solved already. Without samples of the target's classes (strict
    mode) nothing is trained: in every method cross-entropy on new classes alone destroys the old ones.

    Args:
        network: In the closed form; it is tuned in place, except in mode ``full``, which works on copies.
        data: Correction samples in class-balanced batches, labelled by ``network.classes``.
        tuning: ``freeze`` (adapters and F_c), ``probe`` (F_c) or ``full`` (PNC-F). Loss and head are those of cloning.
        run_dir: For checkpoints.
        num_copies: Distorted copies of every correction image that F_c is solved on, see ``CorrectionSettings``.
        learnt: The network is tuned already (of a bundle): the start is the network as it is, unless
            ``tuning.head.initialisation=ridge`` asks for F_c solved anew.
        options: Further arguments of ``tuning.fit.tune``.

    Returns:
        The tuned network and what tuning gave.

    Raises:
        UserError: A loss or head that is not for cloning (``check_tuning``); as ``tuning.fit.tune``.
    """
    check_tuning(tuning)
    samples = correction_samples(data, network.target.input, num_copies)
    is_strict = is_without_originals(network, data.labels("train"))
    if tuning.mode == "full" and not is_strict:
        network = network.thawed()
    if is_strict:
        log.info(
            "no exemplars of the target's classes (strict mode): nothing is trained, and F_c stays as it is: the "
            "start is the result"
        )
        tuning = replace(tuning, mode="freeze", num_epochs=0)
    else:
        if learnt and tuning.head.initialisation != "ridge":
            log.info(
                "F_c goes on as it was learnt, whatever correction.num_copies says: tuning.head.initialisation=ridge "
                "solves it anew"
            )
        else:
            val = Samples(*data.images("val", network.target.input, limit=MAX_IMAGES))
            is_taught = solve_taught_head(network, samples, val)
            anew = " anew" if learnt else ""
            copies = f" and {num_copies} distorted copies of each" if num_copies else ""
            told = "labels and what whole sources say" if is_taught else "labels alone, which is better on validation"
            log.info("F_c is solved%s on %d correction images%s: %s", anew, data.num_images("train"), copies, told)
        if tuning.mode == "probe" or (tuning.mode == "freeze" and not any(map(has_parameters, network.adapters))):
            tuning = replace(tuning, mode="freeze", num_epochs=0)
    tuning = replace(tuning, loss="cross_entropy", head=HeadSettings(refit="never"))
    data.use_input(network.target.input)
    return network, tune(network, data, tuning, run_dir=run_dir, learnt=True, **options)


def check_tuning(tuning: TuningSettings) -> None:
    """Refuses settings of tuning that cloning has its own way for: it would leave them out without a word."""
    if tuning.loss == "loo":
        raise UserError(
            "tuning.loss=loo is not for method=cloning, which trains by class-balanced cross-entropy: leave it out"
        )
    if tuning.head.initialisation == "random" or tuning.head.refit == "always":
        raise UserError(
            f"tuning.head.initialisation={tuning.head.initialisation}, refit={tuning.head.refit}: not for "
            "method=cloning, which solves its head before training and trains it with the adapters: leave them out"
        )


def has_parameters(module: nn.Module) -> bool:
    """Whether there is anything in it to train."""
    return any(True for _ in module.parameters())
