"""The settings of tuning, as plain frozen dataclasses of basic types; a wrong value names its override."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from tuning.network import MODES
from zoo.errors import UserError
from zoo.limits import MAX_INTEGER, above, at_least, check, from_below, one_of


@dataclass(frozen=True)
class HeadSettings:
    """How the linear head starts and ends.

    Attributes:
        initialisation: ``ridge`` solves it in closed form on the training features, ``random`` leaves a new head as it
            was drawn, ``auto`` is ``ridge`` for a new head and leaves a learnt one (a bundle's) as it is.
        refit: Whether a head solved anew on the tuned features is a candidate: ``auto`` (while the training images
            are at most ``max_images``), ``always`` or ``never``.
        max_images: The most training images that a closed form takes: the first ones, which stand for the split, where
            there are more. They need not fit in memory together; their features (max_images, d) do.
    """

    initialisation: Annotated[str, one_of("auto", "ridge", "random")] = "auto"
    refit: Annotated[str, one_of("auto", "always", "never")] = "auto"
    max_images: Annotated[int, at_least(2)] = 50_000

    def __post_init__(self) -> None:
        check(self, "tuning.head")


@dataclass(frozen=True)
class TuningSettings:
    """What is tuned, for how long, on which loss.

    Attributes:
        mode: ``full`` trains everything, ``freeze`` the adapters and the head, ``probe`` solves the head alone.
        loss: ``cross_entropy``, ``loo`` (the head is solved, never trained; for small data), or ``auto``: ``loo`` up
            to 2,000 training images, where nothing speaks against it.
        num_epochs: Passes over the training images; 0 leaves the start.
        norm_stats: BatchNorm statistics of the trained part while it is trained: ``frozen``, ``adaptive``, or ``auto``:
            what a look at the start says (``norm_stats.choose_norm_stats``).
        cache_prefix: Compute the outputs of the frozen leading stages once: ``auto`` (no augmentation, fits in
            memory), ``always`` or ``never``.
        max_cache_bytes: The most that outputs of the frozen stages, or else the images for closed forms, take in
            memory; what is larger is computed or read anew each time. No result depends on it.
        guard: Keep the best on validation of start, tuned and refitted, so that tuning never ends below its start.
        label_smoothing: Share of the target spread over all classes.
        mixup_alpha: Parameter of the Beta distribution of Mixup; 0 switches it off.
        cutmix_alpha: The same for CutMix; where both are on, each batch draws one of them.
        ema_decay: Decay per step of the exponential moving average of the trained weights, which is then what is
            validated and kept; 0 switches it off.
        head: How the head starts and ends.
    """

    mode: Annotated[str, one_of(*MODES)] = "freeze"
    loss: Annotated[str, one_of("auto", "cross_entropy", "loo")] = "auto"
    num_epochs: Annotated[int, at_least(0)] = 10
    norm_stats: Annotated[str, one_of("auto", "frozen", "adaptive")] = "auto"
    cache_prefix: Annotated[str, one_of("auto", "always", "never")] = "auto"
    max_cache_bytes: Annotated[int, at_least(0, MAX_INTEGER)] = 2 << 30
    guard: bool = True
    label_smoothing: Annotated[float, from_below(0, 1)] = 0.0
    mixup_alpha: Annotated[float, at_least(0, 1000)] = 0.0
    cutmix_alpha: Annotated[float, at_least(0, 1000)] = 0.0
    ema_decay: Annotated[float, from_below(0, 1)] = 0.0
    head: HeadSettings = field(default_factory=HeadSettings)

    def __post_init__(self) -> None:
        check(self, "tuning")
        if self.loss == "loo" and (self.mixup_alpha or self.cutmix_alpha):
            raise UserError("tuning.loss=loo leaves images unmixed: type tuning.loss=cross_entropy to mix them")
        if self.loss == "loo" and self.norm_stats == "adaptive":
            raise UserError(
                "tuning.loss=loo needs tuning.norm_stats=frozen; adaptive statistics go with tuning.loss=cross_entropy"
            )
        if self.mode == "probe" and self.head.initialisation == "random" and self.num_epochs == 0:
            raise UserError(
                "tuning.head.initialisation=random with tuning.mode=probe and tuning.num_epochs=0 leaves a random "
                "head; allowed: tuning.head.initialisation=ridge or tuning.num_epochs=10"
            )


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimiser of the trained parameters; norms and biases are not decayed.

    Attributes:
        name: ``adamw`` or ``sgd`` (Nesterov).
        learning_rate: Peak of the schedule.
        weight_decay: Decoupled for ``adamw``.
        momentum: For ``sgd``.
        gradient_clip_norm: Largest norm of the gradient; 0 switches clipping off.
    """

    name: Annotated[str, one_of("adamw", "sgd")] = "adamw"
    learning_rate: Annotated[float, above(0, 1000)] = 3e-3
    weight_decay: Annotated[float, at_least(0, 1000)] = 0.02
    momentum: Annotated[float, from_below(0, 1)] = 0.9
    gradient_clip_norm: Annotated[float, at_least(0, 1e9)] = 0.0

    def __post_init__(self) -> None:
        check(self, "optimizer")


@dataclass(frozen=True)
class ScheduleSettings:
    """The learning rate over the steps.

    Attributes:
        name: ``cosine`` to ``final_fraction`` of the peak, or ``constant``.
        warmup_fraction: Share of all steps over which the rate rises linearly.
        final_fraction: Share of the peak at the last step.
    """

    name: Annotated[str, one_of("cosine", "constant")] = "cosine"
    warmup_fraction: Annotated[float, at_least(0, 1)] = 0.2
    final_fraction: Annotated[float, at_least(0, 1)] = 0.0

    def __post_init__(self) -> None:
        check(self, "schedule")


@dataclass(frozen=True)
class TrainerSettings:
    """Where the computation runs; names and values as Lightning's ``Trainer`` takes them.

    Attributes:
        accelerator: ``cpu``, ``gpu``, ``mps`` or ``auto`` (what the machine has).
        devices: Number of devices (processes on a CPU), each with its share of every batch.
        strategy: ``auto``, ``ddp``, ...
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed`` (GPU). Weights stay in 32 bits in all of them: what is
            frozen stays as it is, bit for bit.
        accumulate_batches: Batches whose gradients are added up for one step.
        deterministic: Refuse algorithms whose result varies from run to run.
        channels_last: Keep kernels with their channels last in memory, which is faster for convolutions on a GPU.
        progress_bar: ``auto`` shows it in a terminal only; ``always`` or ``never``.
    """

    accelerator: Annotated[str, one_of("auto", "cpu", "gpu", "mps")] = "cpu"
    devices: Annotated[int, at_least(1, 1024)] = 1
    strategy: str = "auto"
    precision: Annotated[str, one_of("32-true", "bf16-mixed", "16-mixed")] = "32-true"
    accumulate_batches: Annotated[int, at_least(1)] = 1
    deterministic: bool = False
    channels_last: bool = False
    progress_bar: Annotated[str, one_of("auto", "always", "never")] = "auto"

    def __post_init__(self) -> None:
        check(self, "trainer")
        if self.devices > 1 and self.strategy == "auto":
            raise UserError(f"trainer.devices={self.devices} needs a strategy that launches processes: trainer=ddp")


@dataclass(frozen=True)
class Recipe:
    """All that a training follows.

    Attributes:
        tuning: What is tuned, for how long, on which loss.
        optimizer: Of the trained parameters.
        schedule: Of the learning rate.
        trainer: Where it runs.
        seed: Of dropout and mixing; the order of images and their augmentation belong to the data module.
    """

    tuning: TuningSettings
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    seed: int = 0
