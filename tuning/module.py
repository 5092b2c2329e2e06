"""The training loop of any composed network, as a LightningModule."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from tuning.accumulation import Accumulation
from tuning.averaging import MovingAverage
from tuning.checkpoints import RECORD
from tuning.distributed import gather_rows, is_main, take_from_main, total, world_size
from tuning.losses import LeaveOneOutHead, cross_entropy, distillation
from tuning.mixing import mix
from tuning.network import TunableNetwork
from tuning.optimizers import build_optimizer, build_schedule
from tuning.outcomes import ImageMean
from tuning.parameter_groups import parameter_groups
from tuning.reference import ReferenceOutputs
from tuning.settings import Recipe
from tuning.sharding import adapting_statistics, clip_gradients, is_sharded, trained_by, whole
from zoo.checkpoints import shorten
from zoo.errors import UserError

log = logging.getLogger(__name__)


class TuningModule(pl.LightningModule):
    """Trains what a ``TunableNetwork`` leaves trainable and measures loss and accuracy.

    Batches are (inputs, labels, index): inputs are images, or outputs of the frozen stages where those were computed
    once; index is the position of the sample in its split. Checkpoints hold what is trained and no frozen weight.

    With ``tuning.ema_decay`` validation and checkpoints are of the averaged weights: a checkpoint's ``state_dict`` is
    what was validated, and the weights as trained lie beside it under ``trained``, for a resumed run.

    All that is drawn, is drawn from (seed, epoch, batch, rank), so that a run resumed inside an epoch draws the same.

    Args:
        network: Frozen as its mode demands (``TunableNetwork.freeze``).
        body: Maps the inputs of a batch to pooled features.
        recipe: Its seed fixes dropout and mixing.
        leave_one_out: Where given, the head is solved instead of trained.
        features: Gives the pooled features of all training images as a body now makes them; with ``leave_one_out``,
            which starts every validation from them.
        teacher: Gives the logits to follow, of the inputs of a batch and their positions.
        outcomes: Receives logits and labels of every batch of a test.
    """

    def __init__(
        self,
        network: TunableNetwork,
        body: nn.Module,
        recipe: Recipe,
        *,
        leave_one_out: LeaveOneOutHead | None = None,
        features: Callable[[nn.Module], Tensor] | None = None,
        teacher: ReferenceOutputs | None = None,
        outcomes: Callable[[Tensor, Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.leave_one_out = leave_one_out
        self._body, self._features = (body,), features  # in a tuple: its modules belong to the network already
        self._recipe, self._tuning, self._teacher = recipe, recipe.tuning, teacher
        self._outcomes = outcomes
        self._average: MovingAverage | None = None
        self._resumed: dict[str, Any] = {}
        self._accumulation = Accumulation(recipe.trainer.accumulate_batches)
        self._batch_idx, self._is_first_backward = 0, True
        self._worst_loss: Tensor | None = None
        for split in ("train", "val", "test"):
            setattr(self, f"{split}_loss", ImageMean())
            setattr(self, f"{split}_accuracy", ImageMean())
        if leave_one_out is not None:
            network.head.requires_grad_(False)
        self.register_load_state_dict_post_hook(_expect_no_frozen_keys)

    @property
    def body(self) -> nn.Module:
        """Maps the inputs of a batch to pooled features."""
        return self._body[0]

    def configure_model(self) -> None:
        """Goes on with copies in shards where the strategy shards; the network itself stays as it is."""
        self.network, body = trained_by(self.trainer.strategy, self.network, self.body)
        self._body = (body,)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps the inputs of a batch to logits."""
        return self.network.head(self.body(inputs))

    def on_train_start(self) -> None:
        """Starts the average where the weights are: at the start, or at those of the checkpoint to go on from."""
        if self._tuning.ema_decay:
            state = self.network.trained_state()
            self._average = MovingAverage(state, self._tuning.ema_decay)
            with torch.no_grad():
                for name, tensor in self._resumed.get("trained", {}).items():
                    state[name].copy_(tensor)
        for name, values in self._resumed.get("measured", {}).items():
            metric, _, value = name.partition("/")
            if is_main():
                setattr(getattr(self, metric), value, values.to(self.device))
        self._resumed = {}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds dropout and stochastic depth."""
        sequence = np.random.SeedSequence([self._recipe.seed, self.current_epoch, batch_idx, self.global_rank])
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the mean loss over the batch of all processes, times their number, by which DDP divides gradients.

        Raises:
            UserError: The loss is not finite; on a device that would have to be waited for, ``require_finite`` says so.
        """
        self._batch_idx = batch_idx
        inputs, labels, index = batch
        if self.leave_one_out is None:
            inputs, targets = self._mix(inputs, labels, batch_idx)
            logits, count = self(inputs), len(labels)
            if world_size() > 1:
                count = total(torch.full((), count, device=self.device))
            taught = self._teacher(inputs, index) if self._teacher is not None else None
        else:
            taught = gather_rows(self._teacher(inputs, index)) if self._teacher is not None else None
            labels, index = gather_rows(labels), gather_rows(index)
            logits, targets = self.leave_one_out(gather_rows(self.body(inputs)), index), labels
            count = len(labels)
        loss = cross_entropy(logits, targets, label_smoothing=self._tuning.label_smoothing)
        if taught is not None:
            share, temperature = self._tuning.teacher_weight, self._tuning.teacher_temperature
            loss = (1 - share) * loss + share * distillation(logits, taught, temperature=temperature)
        worst = self._worst_loss
        self._worst_loss = loss.detach() if worst is None else torch.where(worst.isfinite(), loss.detach(), worst)
        if self.device.type == "cpu" or self.leave_one_out is not None:
            self.require_finite()
        self._take_in("train", loss.detach(), logits.detach(), labels)
        if self.trainer.is_last_batch:  # before the callbacks of the epoch's end, which read it
            self._log("train")
        if self._accumulation.num_batches > 1:
            return self._accumulation.scaled(loss * world_size(), count, batch_idx)
        return loss * world_size() / count

    def require_finite(self) -> None:
        """Waits for the device and looks at the losses since the last look.

        Raises:
            UserError: One of them is not finite.
        """
        worst, self._worst_loss = self._worst_loss, None
        if worst is not None and not worst.isfinite():
            raise UserError(
                f"the training loss is {worst.item()} in epoch {self.current_epoch}: "
                f"type a learning rate below optimizer.learning_rate={self._recipe.optimizer.learning_rate}"
            )

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Measures loss and accuracy on the validation split."""
        self._measure("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Measures loss and accuracy on the test split."""
        logits = self._measure("test", batch)
        if self._outcomes is not None:
            self._outcomes(logits, batch[1])

    def on_test_epoch_end(self) -> None:
        """Tells what was measured."""
        self._log("test")

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Averages after every step, however many batches it took."""
        super().optimizer_step(*args, **kwargs)
        if self._average is not None:
            self._average.update()

    def on_after_backward(self) -> None:
        """Ends a group of batches; tells once of parameters that the mode trains and the loss does not reach."""
        is_last = (self._batch_idx + 1) % self._accumulation.num_batches == 0 or self.trainer.is_last_batch
        if self._accumulation.num_batches > 1 and is_last:
            self._accumulation.complete(self.network.parameters())
        if self._is_first_backward:
            self._is_first_backward = False
            names = [name for name, p in self.network.named_parameters() if p.requires_grad and p.grad is None]
            if names and self.trainer.is_global_zero:
                log.warning("%d trained tensors get no gradient and stay as they are: %s", len(names), shorten(names))
        if is_sharded(self.network):  # with DDP those of the first process go round before a forward
            take_from_main(adapting_statistics(self.network), self.device)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """By the norm over all shards, or by value."""
        if not is_sharded(self.network):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            by_value = getattr(gradient_clip_algorithm, "value", gradient_clip_algorithm) == "value"
            clip_gradients(self.network.parameters(), gradient_clip_val, by_value=by_value)

    def on_validation_epoch_start(self) -> None:
        """Solves the head on the features of the epoch's end; with an average, on those of the averaged weights."""
        self.require_finite()
        features = self._features(self.body) if self.leave_one_out is not None else None
        if features is not None:
            self.leave_one_out.refresh(features)
        if self._average is not None:
            self._average.exchange()
            features = self._features(self.body) if self.leave_one_out is not None else None
        if features is not None:
            with whole(self.network.head) as head:
                self.leave_one_out.solve(features, head)
                take_from_main(head.parameters(), self.device)

    def on_validation_epoch_end(self) -> None:
        """Goes back from the averaged weights to those that training goes on with."""
        self._log("val")
        if self._average is not None:
            self._average.exchange()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts the averaged weights, which were validated, in the first place; adds what the epoch has measured."""
        if self._average is not None:
            checkpoint["trained"] = {name: tensor.detach() for name, tensor in self.network.trained_state().items()}
            checkpoint["state_dict"] |= {f"network.{name}": t for name, t in self._average.state().items()}
        metrics = {name: getattr(self, name) for name in ("train_loss", "train_accuracy")}
        checkpoint["measured"] = {
            f"{name}/{key}": total(value)
            for name, metric in metrics.items()
            for key, value in metric.metric_state.items()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps, until training starts, the weights as trained and what was measured of an epoch that is not over."""
        self._resumed = {"trained": checkpoint.get("trained", {})}
        if checkpoint[RECORD]["batch"]:
            self._resumed["measured"] = checkpoint["measured"]

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

    def _measure(self, split: str, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        inputs, labels, _ = batch
        logits = self(inputs)
        self._take_in(split, cross_entropy(logits, labels), logits, labels)
        return logits

    def _take_in(self, split: str, loss_sum: Tensor, logits: Tensor, labels: Tensor) -> None:
        getattr(self, f"{split}_loss").update(loss_sum, len(labels))
        getattr(self, f"{split}_accuracy").update((logits.argmax(1) == labels).sum(), len(labels))

    def _log(self, split: str) -> None:
        """Once an epoch: asking Lightning at every batch takes longer than a small network's step."""
        for name in ("loss", "accuracy"):
            metric = getattr(self, f"{split}_{name}")
            self.log(f"{split}/{name}", metric, on_step=False, on_epoch=True, logger=False)


def _frozen_keys(module: TuningModule) -> set[str]:
    network = module.network
    return {f"network.{name}" for name in network.state_dict().keys() - network.trained_state().keys()}


def _expect_no_frozen_keys(module: TuningModule, incompatible: Any) -> None:
    frozen = _frozen_keys(module)
    incompatible.missing_keys[:] = [
        key for key in incompatible.missing_keys if not any(key.endswith(name) for name in frozen)
    ]
