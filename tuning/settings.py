"""The settings of tuning, as plain frozen dataclasses of basic types; a wrong value names its override."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tuning.network import MODES
from zoo.errors import UserError


def _among(key: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"{key}={value} is unknown; allowed are {', '.join(allowed)}")


def _within(key: str, value: float, low: float, high: float = float("inf"), *, low_open: bool = False) -> None:
    if not (low < value if low_open else low <= value) or not value <= high:
        bound = f"{'above' if low_open else 'at least'} {low:g}" + (
            "" if high == float("inf") else f", at most {high:g}"
        )
        raise UserError(f"{key}={value} is out of range; allowed: {bound}")


@dataclass(frozen=True)
class HeadSettings:
    """How the linear head starts and ends.

    Attributes:
        initialisation: ``ridge`` solves it in closed form on the training features, ``random`` keeps the given one.
        refit: Whether a head solved anew on the tuned features is a candidate: ``auto`` (while the training images
            are at most ``max_images`` and fit in ``tuning.max_cache_bytes``), ``always`` or ``never``.
        max_images: The most training images that a closed form takes, the first ones where there are more.
    """

    initialisation: str = "ridge"
    refit: str = "auto"
    max_images: int = 50_000

    def __post_init__(self) -> None:
        _among("tuning.head.initialisation", self.initialisation, ("ridge", "random"))
        _among("tuning.head.refit", self.refit, ("auto", "always", "never"))
        _within("tuning.head.max_images", self.max_images, 2)


@dataclass(frozen=True)
class TuningSettings:
    """What is tuned, for how long, on which loss.

    Attributes:
        mode: ``full`` trains everything, ``freeze`` the adapters and the head, ``probe`` solves the head alone.
        loss: ``cross_entropy``, ``loo`` (the head is solved, never trained; for small data), or ``auto``: ``loo`` up
            to 2,000 training images, where nothing speaks against it.
        num_epochs: Passes over the training images; 0 leaves the closed-form head.
        norm_stats: BatchNorm statistics of the trained part: ``frozen``, ``adaptive``, or ``auto``: tune with each
            and keep the better on validation.
        cache_prefix: Compute the outputs of the frozen leading stages once: ``auto`` (no augmentation, fits in
            memory), ``always`` or ``never``.
        max_cache_bytes: The size above which ``auto`` does not cache; also the most that images for closed forms take.
        guard: Keep the best on validation of start, tuned and refitted, so that tuning never ends below its start.
        label_smoothing: Share of the target spread over all classes.
        mixup_alpha: Parameter of the Beta distribution of Mixup; 0 switches it off.
        cutmix_alpha: The same for CutMix; where both are on, each batch draws one of them.
        ema_decay: Decay per step of the exponential moving average of the weights; 0 switches it off.
        head: How the head starts and ends.
    """

    mode: str = "freeze"
    loss: str = "auto"
    num_epochs: int = 10
    norm_stats: str = "auto"
    cache_prefix: str = "auto"
    max_cache_bytes: int = 2 << 30
    guard: bool = True
    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    ema_decay: float = 0.0
    head: HeadSettings = field(default_factory=HeadSettings)

    def __post_init__(self) -> None:
        _among("tuning.mode", self.mode, MODES)
        _among("tuning.loss", self.loss, ("auto", "cross_entropy", "loo"))
        _among("tuning.norm_stats", self.norm_stats, ("auto", "frozen", "adaptive"))
        _among("tuning.cache_prefix", self.cache_prefix, ("auto", "always", "never"))
        _within("tuning.num_epochs", self.num_epochs, 0)
        _within("tuning.max_cache_bytes", self.max_cache_bytes, 0)
        _within("tuning.label_smoothing", self.label_smoothing, 0, 1)
        _within("tuning.mixup_alpha", self.mixup_alpha, 0)
        _within("tuning.cutmix_alpha", self.cutmix_alpha, 0)
        _within("tuning.ema_decay", self.ema_decay, 0, 1)
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

    name: str = "adamw"
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    momentum: float = 0.9
    gradient_clip_norm: float = 0.0

    def __post_init__(self) -> None:
        _among("optimizer.name", self.name, ("adamw", "sgd"))
        _within("optimizer.learning_rate", self.learning_rate, 0, low_open=True)
        _within("optimizer.weight_decay", self.weight_decay, 0)
        _within("optimizer.momentum", self.momentum, 0, 1)
        _within("optimizer.gradient_clip_norm", self.gradient_clip_norm, 0)


@dataclass(frozen=True)
class ScheduleSettings:
    """The learning rate over the steps.

    Attributes:
        name: ``cosine`` to ``final_fraction`` of the peak, or ``constant``.
        warmup_fraction: Share of all steps over which the rate rises linearly.
        final_fraction: Share of the peak at the last step.
    """

    name: str = "cosine"
    warmup_fraction: float = 0.2
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        _among("schedule.name", self.name, ("cosine", "constant"))
        _within("schedule.warmup_fraction", self.warmup_fraction, 0, 1)
        _within("schedule.final_fraction", self.final_fraction, 0, 1)


@dataclass(frozen=True)
class TrainerSettings:
    """Where the computation runs; names and values as Lightning's ``Trainer`` takes them.

    Attributes:
        accelerator: ``cpu``, ``gpu``, ``mps`` or ``auto``.
        devices: Number of devices (processes on a CPU), each with its share of every batch.
        strategy: ``auto``, ``ddp``, ...
        precision: ``32-true``, ``bf16-mixed``, ``16-mixed``, ...
        accumulate_batches: Batches whose gradients are added up for one step.
        deterministic: Refuse algorithms whose result varies from run to run.
        channels_last: Keep kernels with their channels last in memory, which is faster for convolutions on a GPU.
        progress_bar: ``auto`` shows it in a terminal only; ``always`` or ``never``.
    """

    accelerator: str = "cpu"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    accumulate_batches: int = 1
    deterministic: bool = False
    channels_last: bool = False
    progress_bar: str = "auto"

    def __post_init__(self) -> None:
        _within("trainer.devices", self.devices, 1)
        _within("trainer.accumulate_batches", self.accumulate_batches, 1)
        _among("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu", "mps"))
        _among("trainer.progress_bar", self.progress_bar, ("auto", "always", "never"))
        if self.devices > 1 and self.strategy == "auto":
            raise UserError(f"trainer.devices={self.devices} needs a strategy that launches processes: trainer=ddp")
