"""A warm-up of adapters without labels: the network's last features are to be those of its tail's own network.

Blocks behind an adapter were trained on the features of their own network. The adapters alone are trained so that what
the head will read of an image equals what it would read of the tail's own, whole network:

    min  mean over images and features of ((f(x) - g(x)) / s)^2,    s the standard deviation of g over the images

A blockwise distillation of the kind of DNA (Li et al., arXiv 1911.13053), which matches feature maps with their
variance taken out, at the one place that the head reads.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torchmetrics import MeanMetric

from tuning.data import TuningData, TuningInputs
from tuning.distributed import total, world_size
from tuning.freezing import set_trainable
from tuning.network import TunableNetwork
from tuning.reference import Reference, ReferenceOutputs
from tuning.settings import Recipe, TuningSettings
from tuning.sharding import copy_whole, trained_by
from tuning.trainer import build_trainer
from zoo.errors import UserError

log = logging.getLogger(__name__)


def match_features(
    network: TunableNetwork,
    inputs: TuningInputs,
    data: TuningData,
    home: Reference,
    recipe: Recipe,
    directory: Path,
    device: torch.device,
) -> None:
    """Trains the adapters of a network and nothing else; where the validation images gain nothing, not even these.

    Blocks, neck and head keep every bit, statistics too. No label is read.

    Args:
        network: In place.
        inputs: The data as its trained part sees it.
        data: The same data, for what the home takes.
        home: The tail's own network up to the features that the head reads.
        directory: For Lightning; nothing is written.

    Raises:
        UserError: It has no adapters; the rate is too high.
    """
    tuning = recipe.tuning
    adapters = require_adapters(network)
    is_varied, options = data.augmentation is not None, {"max_bytes": tuning.max_cache_bytes, "device": device}
    targets = {
        split: ReferenceOutputs(home, data, split, is_varied=is_varied and split == "train", **options)
        for split in ("train", "val")
    }
    module, measured = (_Matching(network, inputs.body, targets["train"], targets["val"], recipe) for _ in range(2))
    trainer = build_trainer(recipe.trainer, directory, max_epochs=tuning.warmup_epochs)
    before = [{name: tensor.detach().clone() for name, tensor in part.state_dict().items()} for part in adapters]
    trainable = [parameter.requires_grad for parameter in network.parameters()]
    set_trainable(network, adapters)
    try:
        module.eval()
        (start,) = trainer.validate(measured, datamodule=inputs.loaders, verbose=False)
        trainer.fit(module, datamodule=inputs.loaders)
        if module.network is not network:
            for part, tuned in zip(adapters, require_adapters(module.network), strict=True):
                copy_whole(tuned, part)
        end = float(trainer.callback_metrics["val/mismatch"])
    finally:
        for parameter, asked in zip(network.parameters(), trainable, strict=True):
            parameter.requires_grad_(asked)
    start_mismatch = start["val/mismatch"]
    is_better = end < start_mismatch  # not where it is NaN
    if not is_better:
        for part, state in zip(adapters, before, strict=True):
            part.load_state_dict(state)
    log.info(
        "tuning.warmup=feature_matching: %d adapters, %d epochs; mismatch with the features of %s on the validation "
        "images %.4f before, %.4f after%s",
        *(len(adapters), tuning.warmup_epochs, home.name, start_mismatch, end),
        "" if is_better else ": taken back",
    )


def check_warmup(network: TunableNetwork, tuning: TuningSettings, *, learnt: bool) -> None:
    """Refuses a warm-up without adapters, or under a head that would stay as it was learnt.

    Raises:
        UserError: Which of the two, and what to type.
    """
    require_adapters(network)
    if learnt and tuning.head.initialisation != "ridge":
        raise UserError(
            f"tuning.warmup={tuning.warmup} changes the features under a head that is learnt already: type "
            "tuning.head.initialisation=ridge to solve it anew, or tuning.warmup=none"
        )


def require_adapters(network: TunableNetwork) -> list[torch.nn.Module]:
    """The adapters of a network.

    Raises:
        UserError: It has none.
    """
    adapters = [module for module in network.adapters_alone() if any(True for _ in module.parameters())]
    if not adapters:
        raise UserError(
            "tuning.warmup=feature_matching trains adapters, and this network has none between its blocks: type "
            "tuning.warmup=none, or give a composition of several networks"
        )
    return adapters


class _Matching(pl.LightningModule):
    """Everything in eval mode; gradients reach what ``set_trainable`` left trainable."""

    def __init__(
        self,
        network: TunableNetwork,
        body: nn.Module,
        train: ReferenceOutputs,
        val: ReferenceOutputs,
        recipe: Recipe,
    ) -> None:
        super().__init__()
        self.network = network
        self._body, self._targets = (body,), (train, val)
        self._recipe = recipe
        self.mismatch = MeanMetric()
        self._scale = val.scale()

    def configure_model(self) -> None:
        """Goes on with copies in shards where the strategy shards."""
        self.network, body = trained_by(self.trainer.strategy, self.network, self._body[0])
        self._body = (body,)

    def train(self, mode: bool = True) -> _Matching:
        """Stays in eval mode."""
        return super().train(False)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """The mean mismatch over the batch of all processes, times their number, by which DDP divides gradients."""
        loss = self._mismatch(batch, self._targets[0])
        if not torch.isfinite(loss):
            raise UserError(
                f"the mismatch of features is {loss.item()} in epoch {self.current_epoch} of the warm-up: type a rate "
                f"below tuning.warmup_learning_rate={self._recipe.tuning.warmup_learning_rate}"
            )
        count = len(batch[0])
        if world_size() > 1:
            count = total(torch.full((), count, device=self.device))
        return loss * world_size() / count

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Measures the mismatch on the validation images."""
        num_images = len(batch[0])
        self.mismatch.update(self._mismatch(batch, self._targets[1]) / num_images, weight=num_images)
        self.log("val/mismatch", self.mismatch, on_step=False, on_epoch=True, batch_size=num_images)

    def configure_optimizers(self) -> dict:
        """AdamW without decay, on a cosine to zero."""
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        rate, num_steps = self._recipe.tuning.warmup_learning_rate, int(self.trainer.estimated_stepping_batches)
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
        scheduler = CosineAnnealingLR(optimizer, max(num_steps, 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _mismatch(self, batch: tuple[Tensor, Tensor, Tensor], targets: ReferenceOutputs) -> Tensor:
        """Sum over the images of the mean squared standardised difference."""
        inputs, _, index = batch
        difference = (self._body[0](inputs) - targets(inputs, index)) / self._scale.to(inputs.device)
        return difference.square().mean(1).sum()
