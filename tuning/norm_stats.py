"""Whether BatchNorm keeps its statistics or learns those of the new images: decided before training, by a look."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from tuning.data import TuningInputs
from tuning.distributed import broadcast
from tuning.freezing import has_running_statistics, trainable_submodules
from tuning.network import TunableNetwork
from tuning.ridge import calibrate, fit_ridge
from tuning.sharding import runner
from zoo.chain.modes import eval_mode

log = logging.getLogger(__name__)

MAX_IMAGES = 2000
"""Training images of the look; more say no more of a network's statistics."""


def has_norm_stats(network: TunableNetwork, mode: str) -> bool:
    """Whether what the mode trains holds statistics that training could adapt."""
    return any(map(has_running_statistics, trainable_submodules(network.trainable_modules(mode))))


def choose_norm_stats(network: TunableNetwork, mode: str, inputs: TuningInputs, device: torch.device) -> str:
    """``frozen`` or ``adaptive``: whichever gives a closed-form head the lower cross-entropy on the validation images.

    The look compares the network as it is with one whose BatchNorm layers hold the statistics of the training images
    (of at most ``MAX_IMAGES``), as training in batches would see them. Statistics of the new images help where these
    differ from what the network was trained on, and ruin parts that were stitched for the old ones (measured: see
    ``docs/tuning.md``). Nothing of the network is changed, no test image is seen.
    """
    losses = {"frozen": _loss(network, inputs, device)}
    with _adapted(network, mode, inputs, device):
        losses["adaptive"] = _loss(network, inputs, device)
    choice = broadcast("adaptive" if losses["adaptive"] < losses["frozen"] else "frozen")
    log.info(
        "tuning.norm_stats=auto: validation loss of a solved head %.4f with frozen statistics, %.4f with those of "
        "these images: %s",
        *(losses["frozen"], losses["adaptive"], choice),
    )
    return choice


def _loss(network: TunableNetwork, inputs: TuningInputs, device: torch.device) -> float:
    """Cross-entropy on the validation images of the head that solves the training images; infinite without one."""
    train, val = (inputs.features(split, device, limit=MAX_IMAGES) for split in ("train", "val"))
    if not (torch.isfinite(train).all() and torch.isfinite(val).all()):
        return float("inf")
    labels = inputs.labels["train"][:MAX_IMAGES]
    fit = fit_ridge(train, labels, network.head.out_features)
    temperature = calibrate(fit.leave_one_out(train, labels), labels)
    logits = temperature * (val.double() @ fit.weight.T + fit.bias)
    return float(F.cross_entropy(logits, inputs.labels["val"][:MAX_IMAGES]))


@contextmanager
@torch.no_grad()
def _adapted(network: TunableNetwork, mode: str, inputs: TuningInputs, device: torch.device) -> Iterator[None]:
    """Inside the ``with`` the BatchNorm layers that the mode trains hold the mean statistics of training batches."""
    norms = _trained_norms(network, mode)
    saved = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    try:
        measure_norm_stats(network, mode, inputs, device, limit=MAX_IMAGES)
        yield
    finally:
        for norm, buffers in zip(norms, saved, strict=True):
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])


@torch.no_grad()
def measure_norm_stats(
    network: TunableNetwork, mode: str, inputs: TuningInputs, device: torch.device, *, limit: int | None = None
) -> None:
    """Gives the BatchNorm layers that the mode trains the mean statistics of training batches, without augmentation.

    Args:
        limit: Training images to measure; None takes all that closed forms take.
    """
    body, trained = runner(inputs.body), set(_trained_norms(network, mode))
    pairs = [(norm, ran) for norm, ran in zip(inputs.body.modules(), body.modules(), strict=True) if norm in trained]
    momenta = [norm.momentum for norm, _ in pairs]
    try:
        with eval_mode(body.to(device)):
            for _, norm in pairs:
                norm.reset_running_stats()
                norm.momentum = None  # the mean over all batches
                norm.training = True
            for batch in inputs.batches("train", limit=limit):
                if len(batch) > 1:
                    body(batch.to(device))
    finally:
        for (norm, ran), momentum in zip(pairs, momenta, strict=True):
            ran.momentum = momentum
            if ran is not norm:
                for name, buffer in norm.named_buffers():
                    buffer.copy_(ran.get_buffer(name))


def _trained_norms(network: TunableNetwork, mode: str) -> list[_BatchNorm]:
    trained = trainable_submodules(network.trainable_modules(mode))
    return [module for module in trained if isinstance(module, _BatchNorm) and has_running_statistics(module)]
