"""What a network is worth on a split, over all processes, and the candidates that the final choice is made of."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytorch_lightning as pl
from torch import Tensor, nn

from tuning.data import IndexedData, TuningInputs
from tuning.distributed import take_from_main
from tuning.module import TuningModule
from tuning.network import TunableNetwork
from tuning.settings import Recipe
from zoo.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A state that the network may end with.

    Attributes:
        name: ``start``, ``tuned``, ...
        val_accuracy: On the validation split.
        val_loss: Mean cross-entropy there.
        state: What is trained, copied, on the CPU.
    """

    name: str
    val_accuracy: float
    val_loss: float
    state: dict[str, Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Measures the network as it is, over all processes."""

    network: TunableNetwork
    recipe: Recipe
    trainer: pl.Trainer

    def candidate(self, name: str, inputs: TuningInputs) -> Candidate:
        """The network's trained state, that of the main process in all of them, and what it is worth on validation.

        Raises:
            UserError: Its outputs are not finite.
        """
        take_from_main(self.network.trained_state().values(), self.trainer.strategy.root_device)
        return self.measured(name, *self.measure("val", inputs.body, inputs.loaders))

    def measured(self, name: str, accuracy: float, loss: float) -> Candidate:
        """The same of a state whose figures on validation are known."""
        log.info("%s: validation accuracy %.4f, loss %.4f", name, accuracy, loss)
        if not math.isfinite(loss):
            raise UserError(
                f"{name}: the validation loss is {loss}: look for weights that are not finite, or for an input.mean "
                "and input.std of another scale"
            )
        state = {name: tensor.detach().cpu().clone() for name, tensor in self.network.trained_state().items()}
        return Candidate(name, round(accuracy, 6), loss, state)

    def measure(
        self,
        split: str,
        body: nn.Module,
        loaders: IndexedData,
        outcomes: Callable[[Tensor, Tensor], None] | None = None,
    ) -> tuple[float, float]:
        """Accuracy and mean cross-entropy on a split; ``outcomes`` takes in logits and labels of a test."""
        run = self.trainer.validate if split == "val" else self.trainer.test
        run(TuningModule(self.network, body, self.recipe, outcomes=outcomes), datamodule=loaders, verbose=False)
        accuracy, loss = (float(self.trainer.callback_metrics[f"{split}/{name}"]) for name in ("accuracy", "loss"))
        return round(accuracy, 6), loss
