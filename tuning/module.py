"""The training loop of any composed network, as a LightningModule."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from tuning.averaging import MovingAverage
from tuning.distributed import gather_rows, total, world_size
from tuning.losses import LeaveOneOutHead, cross_entropy, distillation
from tuning.mixing import mix
from tuning.network import TunableNetwork
from tuning.optimizers import build_optimizer, build_schedule
from tuning.parameter_groups import parameter_groups
from tuning.reference import ReferenceOutputs
from tuning.settings import Recipe
from zoo.checkpoints import shorten
from zoo.errors import UserError

log = logging.getLogger(__name__)


class TuningModule(pl.LightningModule):
    """Trains what a ``TunableNetwork`` leaves trainable and measures loss and accuracy.

    Batches are (inputs, labels, index): inputs are images, or outputs of the frozen stages where those were computed
    once; index is the position of the sample in its split. Checkpoints hold what is trained and no frozen weight.

    With ``tuning.ema_decay`` validation and checkpoints are of the averaged weights: a checkpoint's ``state_dict`` is
    what was validated, and the weights as trained lie beside it under ``trained``, for a resumed run.

    Args:
        network: Frozen as its mode demands (``TunableNetwork.freeze``).
        body: Maps the inputs of a batch to pooled features.
        recipe: Its seed fixes dropout and mixing per epoch, so that a resumed run draws the same.
        leave_one_out: Where given, the head is solved instead of trained.
        features: Gives the pooled features of all training images as the network now makes them; with
            ``leave_one_out``, which starts every validation from them.
        teacher: Gives the logits to follow, of the inputs of a batch and their positions.
    """

    def __init__(
        self,
        network: TunableNetwork,
        body: Callable[[Tensor], Tensor],
        recipe: Recipe,
        *,
        leave_one_out: LeaveOneOutHead | None = None,
        features: Callable[[], Tensor] | None = None,
        teacher: ReferenceOutputs | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.leave_one_out = leave_one_out
        self._body, self._features = (body,), features  # in a tuple: its modules belong to the network already
        self._recipe, self._tuning, self._teacher = recipe, recipe.tuning, teacher
        self._average: MovingAverage | None = None
        self._resumed: dict[str, Tensor] | None = None
        self._averaged_step = 0
        self._is_first_backward = True
        for split in ("train", "val", "test"):
            setattr(self, f"{split}_loss", MeanMetric())
            setattr(self, f"{split}_accuracy", MulticlassAccuracy(network.head.out_features, average="micro"))
        if leave_one_out is not None:
            network.head.requires_grad_(False)
        self.register_load_state_dict_post_hook(_expect_no_frozen_keys)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps the inputs of a batch to logits."""
        return self.network.head(self._body[0](inputs))

    def on_train_start(self) -> None:
        """Starts the average where the weights are: at the start, or at those of the checkpoint to go on from."""
        if not self._tuning.ema_decay:
            return
        state = self.network.trained_state()
        self._average, self._averaged_step = MovingAverage(state, self._tuning.ema_decay), self.trainer.global_step
        if self._resumed is not None:
            with torch.no_grad():
                for name, tensor in state.items():
                    tensor.copy_(self._resumed[name])
            self._resumed = None

    def on_train_epoch_start(self) -> None:
        """Seeds dropout and stochastic depth from (seed, epoch, rank)."""
        sequence = np.random.SeedSequence([self._recipe.seed, self.current_epoch, self.global_rank])
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the mean loss over the batch of all processes, times their number, by which DDP divides gradients.

        Raises:
            UserError: The loss is not finite.
        """
        inputs, labels, index = batch
        if self.leave_one_out is None:
            inputs, targets = self._mix(inputs, labels, batch_idx)
            logits, count = self(inputs), total(len(labels), self.device)
            taught = self._teacher(inputs, index) if self._teacher is not None else None
        else:
            taught = gather_rows(self._teacher(inputs, index)) if self._teacher is not None else None
            labels, index = gather_rows(labels), gather_rows(index)
            logits, targets = self.leave_one_out(gather_rows(self._body[0](inputs)), index), labels
            count = len(labels)
        loss = cross_entropy(logits, targets, label_smoothing=self._tuning.label_smoothing)
        if taught is not None:
            share, temperature = self._tuning.teacher_weight, self._tuning.teacher_temperature
            loss = (1 - share) * loss + share * distillation(logits, taught, temperature=temperature)
        if not torch.isfinite(loss):
            raise UserError(
                f"the training loss is {loss.item()} in epoch {self.current_epoch}: "
                f"type a learning rate below optimizer.learning_rate={self._recipe.optimizer.learning_rate}"
            )
        self._log("train", loss.detach(), logits.detach(), labels)
        return loss * world_size() / count

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Measures loss and accuracy on the validation split."""
        self._measure("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Measures loss and accuracy on the test split."""
        self._measure("test", batch)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Averages after every step, however many batches it took."""
        if self._average is not None and self.trainer.global_step > self._averaged_step:
            self._average.update()
            self._averaged_step = self.trainer.global_step

    def on_after_backward(self) -> None:
        """Tells once of parameters that the mode trains and the loss does not reach."""
        if self._is_first_backward:
            self._is_first_backward = False
            names = [name for name, p in self.network.named_parameters() if p.requires_grad and p.grad is None]
            if names and self.trainer.is_global_zero:
                log.warning("%d trained tensors get no gradient and stay as they are: %s", len(names), shorten(names))

    def on_validation_epoch_start(self) -> None:
        """Solves the head on the features of the epoch's end; with an average, on those of the averaged weights."""
        features = self._features() if self.leave_one_out is not None else None
        if features is not None:
            self.leave_one_out.refresh(features)
        if self._average is not None:
            self._average.exchange()
            features = self._features() if self.leave_one_out is not None else None
        if features is not None:
            self.leave_one_out.solve(features, self.network.head)

    def on_validation_epoch_end(self) -> None:
        """Goes back from the averaged weights to those that training goes on with."""
        if self._average is not None:
            self._average.exchange()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts the averaged weights, which were validated, in the first place."""
        if self._average is not None:
            checkpoint["trained"] = {name: tensor.detach() for name, tensor in self.network.trained_state().items()}
            checkpoint["state_dict"] |= {f"network.{name}": t for name, t in self._average.state().items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the weights as trained until training starts."""
        self._resumed = checkpoint.get("trained")

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimiser of the parameter groups; one schedule step per optimiser step."""
        settings, num_steps = self._recipe.optimizer, int(self.trainer.estimated_stepping_batches)
        optimizer = build_optimizer(parameter_groups(self.network, settings), settings)
        scheduler = LambdaLR(optimizer, build_schedule(self._recipe.schedule, num_steps, settings.learning_rate))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The state without the frozen part of the network, which tuning cannot change."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for key in _frozen_keys(self):
            state.pop(prefix + key, None)
        return state

    def _mix(self, inputs: Tensor, labels: Tensor, batch_idx: int) -> tuple[Tensor, Tensor]:
        if self._tuning.mixup_alpha == 0 == self._tuning.cutmix_alpha:
            return inputs, labels
        return mix(
            inputs,
            labels,
            self.network.head.out_features,
            mixup_alpha=self._tuning.mixup_alpha,
            cutmix_alpha=self._tuning.cutmix_alpha,
            seed=(self._recipe.seed, self.current_epoch, batch_idx, self.global_rank),
        )

    def _measure(self, split: str, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        inputs, labels, _ = batch
        logits = self(inputs)
        self._log(split, cross_entropy(logits, labels), logits, labels)

    def _log(self, split: str, loss_sum: Tensor, logits: Tensor, labels: Tensor) -> None:
        loss, accuracy = getattr(self, f"{split}_loss"), getattr(self, f"{split}_accuracy")
        loss.update(loss_sum / len(labels), weight=len(labels))
        accuracy.update(logits, labels)
        for name, metric in (("loss", loss), ("accuracy", accuracy)):
            self.log(f"{split}/{name}", metric, on_step=False, on_epoch=True, batch_size=len(labels))


def _frozen_keys(module: TuningModule) -> set[str]:
    network = module.network
    return {f"network.{name}" for name in network.state_dict().keys() - network.trained_state().keys()}


def _expect_no_frozen_keys(module: TuningModule, incompatible: Any) -> None:
    frozen = _frozen_keys(module)
    incompatible.missing_keys[:] = [
        key for key in incompatible.missing_keys if not any(key.endswith(name) for name in frozen)
    ]
