"""The settings of tuning, as plain frozen dataclasses of basic types; a wrong value names its override."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from zoo.errors import UserError
from zoo.limits import MAX_INTEGER, above, at_least, check, from_below, one_of, require, shown

MODES = ("full", "freeze", "probe")


@dataclass(frozen=True)
class HeadSettings:
    """How the linear head starts and ends.

    Attributes:
        initialisation: ``ridge`` solves it in closed form on the training features, ``random`` leaves a new head as it
            was drawn, ``auto`` is ``ridge`` for a new head and leaves a learnt one (a bundle's) as it is.
        refit: Whether a head solved anew on the tuned features is a candidate: ``auto`` (while the training images
            are at most ``max_images``), ``always`` or ``never``.
        max_images: The most training images that a closed form takes, in a stratified choice by the seed of the data;
            None takes all. Neither they nor their features need fit in memory together.
    """

    initialisation: Annotated[str, one_of("auto", "ridge", "random")] = "auto"
    refit: Annotated[str, one_of("auto", "always", "never")] = "auto"
    max_images: Annotated[int | None, at_least(2)] = None

    def __post_init__(self) -> None:
        check(self, "tuning.head")


@dataclass(frozen=True)
class EarlyStoppingSettings:
    """When training ends before its last epoch.

    Attributes:
        patience: Epochs in a row without a better validation figure after which training stops; None never stops it.
        monitor: ``val_accuracy``, which has to rise, or ``val_loss``, which has to fall.
        min_delta: What is not better by more than this is not better.
    """

    patience: Annotated[int | None, at_least(1)] = None
    monitor: Annotated[str, one_of("val_accuracy", "val_loss")] = "val_accuracy"
    min_delta: Annotated[float, at_least(0, 1e9)] = 0.0

    def __post_init__(self) -> None:
        check(self, "tuning.early_stopping")


@dataclass(frozen=True)
class CheckpointSettings:
    """What is kept of a training on the way, beside ``best.ckpt`` and ``last.ckpt``.

    Attributes:
        num_kept: Epochs whose weights are kept as ``epoch-NNNN.ckpt``.
        keep: Which ones: the ``best`` by validation accuracy (the earlier of equals), or the ``last``.
        average: Whether the mean of the kept weights is a candidate of the final choice.
        every_num_steps: Write ``last.ckpt`` after so many steps of the optimiser, too, so that a resumed run goes on
            inside the epoch; 0 writes it after every epoch alone.
    """

    num_kept: Annotated[int, at_least(0, 10_000)] = 0
    keep: Annotated[str, one_of("best", "last")] = "best"
    average: bool = False
    every_num_steps: Annotated[int, at_least(0)] = 0

    def __post_init__(self) -> None:
        check(self, "tuning.checkpoints")
        if self.average and self.num_kept < 2:
            raise UserError(
                f"tuning.checkpoints.average=true needs at least two epochs to average, tuning.checkpoints.num_kept="
                f"{self.num_kept}: type tuning.checkpoints.num_kept=5"
            )


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
        max_cache_bytes: The most that outputs of the frozen stages, or else the images for closed forms, and their
            features take in memory; what is larger is computed or read anew each time. No result depends on it.
        guard: Keep the best on validation of start, tuned and refitted, so that tuning never ends below its start.
        label_smoothing: Share of the target spread over all classes.
        mixup_alpha: Parameter of the Beta distribution of Mixup; 0 switches it off.
        cutmix_alpha: The same for CutMix; where both are on, each batch draws one of them.
        ema_decay: Decay per step of the exponential moving average of the trained weights, which is then what is
            validated and kept; 0 switches it off.
        early_stopping: When training ends before its last epoch.
        checkpoints: What is kept of it on the way.
        head: How the head starts and ends.
        teacher: A network of the zoo by name, or a run or bundle by path, whose outputs the network is to follow.
        teacher_temperature: Divides the logits of both in that loss.
        teacher_weight: Its share of the loss; labels have the rest.
        warmup: What adapters learn before anything else: ``none``, or ``feature_matching``: the features of the tail's
            own network on the same images, without labels.
        warmup_epochs: Passes over the training images for it.
        warmup_learning_rate: Of it, at the start of a cosine, for AdamW.
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
    early_stopping: EarlyStoppingSettings = field(default_factory=EarlyStoppingSettings)
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    teacher: str | None = None
    teacher_temperature: Annotated[float, above(0, 1000)] = 2.0
    teacher_weight: Annotated[float, above(0, 1)] = 0.5
    warmup: Annotated[str, one_of("none", "feature_matching")] = "none"
    warmup_epochs: Annotated[int, at_least(1)] = 5
    warmup_learning_rate: Annotated[float, above(0, 1000)] = 1e-3

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
    """The optimiser of the trained parameters, and how the parameters are grouped (``tuning.parameter_groups``).

    Attributes:
        name: ``adamw`` or ``sgd`` (Nesterov).
        learning_rate: Of adapters and head, at the peak of the schedule.
        block_scale: The rate of pre-trained blocks, relative to that of adapters and head; None takes what the loss
            allows, see ``for_loss``.
        layer_decay: By this the rate of a pre-trained block shrinks with each node between it and the head of its own
            network; 1 gives all nodes the same, None goes by the loss.
        weight_decay: Decoupled for ``adamw``; norms, biases, tokens and tables of positions are not decayed.
        momentum: For ``sgd``.
        betas: For ``adamw``: decay of the running means of gradient and squared gradient.
        fused: One kernel for all parameters of a group: faster on a GPU, the same up to rounding.
        gradient_clip_norm: Largest norm of the gradient; 0 switches clipping off.
        _target_: Dotted name of another optimiser, of torch, timm or your own: called with groups of parameters,
            ``lr``, ``weight_decay`` and ``kwargs``. It takes the place of ``name``.
        kwargs: Further arguments of ``_target_``.
    """

    name: Annotated[str, one_of("adamw", "sgd")] = "adamw"
    learning_rate: Annotated[float, above(0, 1000)] = 3e-3
    block_scale: Annotated[float, at_least(0, 1000)] | None = None
    layer_decay: Annotated[float, above(0, 1)] | None = None
    weight_decay: Annotated[float, at_least(0, 1000)] = 0.02
    momentum: Annotated[float, from_below(0, 1)] = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    fused: bool = False
    gradient_clip_norm: Annotated[float, at_least(0, 1e9)] = 0.0
    _target_: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self, "optimizer")
        object.__setattr__(self, "betas", tuple(self.betas))
        if len(self.betas) != 2:
            raise UserError(
                f"optimizer.betas={list(self.betas)}: allowed are two numbers; type optimizer.betas=[0.9,0.999]"
            )
        for beta in self.betas:
            require("optimizer.betas", beta, from_below(0, 1), default="[0.9,0.999]")
        if self.kwargs and self._target_ is None:
            raise UserError(
                f"optimizer.kwargs={shown(self.kwargs)} are for optimizer._target_=..., and optimizer.name={self.name} "
                "has keys of its own: leave them out"
            )
        used = {} if self._target_ else {"sgd": {"momentum", "fused"}, "adamw": {"betas", "fused"}}[self.name]
        for key in ("momentum", "betas", "fused"):
            value, default = getattr(self, key), OptimizerSettings.__dataclass_fields__[key].default
            if key not in used and value != default:
                which = f"_target_={self._target_}" if self._target_ else f"name={self.name}"
                advice = f"type optimizer.kwargs={{{key}: ...}}" if self._target_ else "leave it out"
                raise UserError(f"optimizer.{key}={shown(value)} has no effect with optimizer.{which}: {advice}")

    def for_loss(self, loss: str) -> OptimizerSettings:
        """The same settings with the rates of blocks that a loss allows, where none are given.

        With ``loo`` the head is solved at every step and follows whatever the blocks do: they take the full rate. With
        ``cross_entropy`` a head that was solved falls out of step with blocks that move fast, and an ImageNet network
        is lost in one epoch (measured: ``benchmarks/results/tuning.md``).
        """
        scale, decay = (1.0, 1.0) if loss == "loo" else CROSS_ENTROPY_RATES
        return replace(
            self,
            block_scale=scale if self.block_scale is None else self.block_scale,
            layer_decay=decay if self.layer_decay is None else self.layer_decay,
        )


CROSS_ENTROPY_RATES = (0.5, 0.75)
"""``block_scale`` and ``layer_decay`` by default with cross-entropy: chosen on validation, see ``for_loss``."""


@dataclass(frozen=True)
class ScheduleSettings:
    """The learning rate over the steps.

    Attributes:
        name: ``cosine`` to ``final_fraction`` of the peak, or ``constant``.
        warmup_fraction: Share of all steps over which the rate rises linearly.
        final_fraction: Share of the peak at the last step of ``cosine``.
        _target_: Dotted name of another schedule, of torch, timm, transformers or your own: called with an optimiser
            and ``kwargs``, and stepped after every step of the optimiser. What it calls the number of all steps
            (``T_max``, ``total_steps``, ``t_initial``, ...) is filled in where ``kwargs`` leave it out. It takes the
            place of ``name`` and follows on the warm-up.
        kwargs: Further arguments of ``_target_``.
    """

    name: Annotated[str, one_of("cosine", "constant")] = "cosine"
    warmup_fraction: Annotated[float, at_least(0, 1)] = 0.2
    final_fraction: Annotated[float, at_least(0, 1)] = 0.0
    _target_: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self, "schedule")
        if self.kwargs and self._target_ is None:
            raise UserError(
                f"schedule.kwargs={shown(self.kwargs)} are for schedule._target_=..., and schedule.name={self.name} "
                "has keys of its own: leave them out"
            )


_DDP = ("ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
_OTHER_SHARDING = ("fsdp", "deepspeed", "model_parallel")
_NOT_IN_SHARDS = {
    "precision": ("16-mixed", "bf16-mixed"),
    "channels_last": (True, False),
    "sync_batchnorm": (True, False),
    "compile": (True, False),
}
"""Key: what ``fsdp2`` does not take, and what to type instead."""


@dataclass(frozen=True)
class TrainerSettings:
    """Where the computation runs; names and values as Lightning's ``Trainer`` takes them.

    Attributes:
        accelerator: ``cpu``, ``gpu``, ``mps`` or ``auto`` (what the machine has).
        devices: Number of devices (processes on a CPU), each with its share of every batch; ``auto`` is all GPUs of
            the machine, and a list names them by their indices.
        strategy: ``auto`` (one device), Lightning's ``ddp`` and its variants by parameters that no loss reaches, or
            ``fsdp2``: weights, gradients and the optimiser's state in shards over all processes (``tuning.sharding``).
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed`` (GPU). Weights stay in 32 bits in all of them: what is
            frozen stays as it is, bit for bit. Therefore the ``true`` precisions of 16 bits are refused.
        accumulate_batches: Batches whose images make one step, as one batch of all of them would; at the end of an
            epoch those that are left. Schedules and averages count steps.
        deterministic: Refuse algorithms whose result varies from run to run.
        channels_last: Keep kernels with their channels last in memory, which is faster for convolutions on a GPU.
        log_every_num_steps: Steps after which the log says how training goes, beside the end of every epoch; 0 leaves
            it at that. Only these steps wait for the device.
        progress_bar: ``auto`` shows it in a terminal only; ``always`` or ``never``.
        num_nodes: Machines, each with ``devices``; ``torchrun`` or SLURM starts the command on all of them.
        sync_batchnorm: Statistics of normalisations that are trained are those of the whole batch of all devices.
        benchmark: Let cuDNN try its algorithms for the sizes at hand.
        tf32: Products of 32 bits on a GPU's tensor cores, with the mantissa of TF32.
        compile: Let ``torch.compile`` make kernels for what is trained; the first steps take as long as that.
        activation_checkpointing: Keep of every node of a network its input alone and compute the node anew on the way
            back: less memory for about a third more time, and the same numbers.
        extra: Whatever else Lightning's ``Trainer`` takes.
    """

    accelerator: Annotated[str, one_of("auto", "cpu", "gpu", "mps")] = "cpu"
    devices: Any = 1
    strategy: Annotated[str, one_of("auto", "ddp", *_DDP, "fsdp2")] = "auto"
    precision: Annotated[str, one_of("32-true", "bf16-mixed", "16-mixed")] = "32-true"
    accumulate_batches: Annotated[int, at_least(1)] = 1
    deterministic: bool = False
    channels_last: bool = False
    log_every_num_steps: Annotated[int, at_least(0)] = 50
    progress_bar: Annotated[str, one_of("auto", "always", "never")] = "auto"
    num_nodes: Annotated[int, at_least(1, 4096)] = 1
    sync_batchnorm: bool = False
    benchmark: bool = False
    tf32: bool = False
    compile: bool = False
    activation_checkpointing: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.precision in ("bf16-true", "16-true"):
            takes_half = self.accelerator == "gpu" and self.strategy != "fsdp2"
            typed = "16-mixed" if takes_half and self.precision == "16-true" else "bf16-mixed"
            raise UserError(
                f"trainer.precision={self.precision} would round the frozen weights, which stay as they are bit for "
                f"bit: type trainer.precision={typed}"
            )
        if self.strategy != "fsdp2" and self.strategy.startswith(_OTHER_SHARDING):
            raise UserError(f"trainer.strategy={shown(self.strategy)}: what shards weights here is trainer=fsdp2")
        check(self, "trainer")
        if self.strategy == "fsdp2":
            for name, (refused, allowed) in _NOT_IN_SHARDS.items():
                if getattr(self, name) == refused:
                    raise UserError(
                        f"trainer.{name}={shown(refused)} is not for trainer.strategy=fsdp2: type "
                        f"trainer.{name}={shown(allowed)}, or trainer=ddp"
                    )
        self._check_devices()
        if self.num_nodes > 1 and self.strategy == "auto":
            raise UserError(
                f"trainer.num_nodes={self.num_nodes} needs many processes: type trainer=ddp or trainer=fsdp2"
            )
        if self.num_devices != 1 and self.strategy == "auto":
            raise UserError(f"trainer.devices={self.devices} needs many processes: type trainer=ddp or trainer=fsdp2")

    @property
    def num_devices(self) -> int | None:
        """Devices of a machine; None for ``auto``, where the machine says it."""
        if self.devices == "auto":
            return None
        return self.devices if isinstance(self.devices, int) else len(self.devices)

    @property
    def is_shared(self) -> bool:
        """Whether several processes may train together."""
        return self.num_devices != 1 or self.num_nodes > 1

    def _check_devices(self) -> None:
        if self.devices == "auto":
            return
        if not isinstance(self.devices, (list, tuple)):
            require("trainer.devices", self.devices, at_least(1, 1024), is_whole=True, default=1)
            return
        are_indices = all(type(index) is int and 0 <= index < 1024 for index in self.devices)
        if not self.devices or not are_indices or len(set(self.devices)) < len(self.devices):
            raise UserError(
                f"trainer.devices={shown(self.devices)}: allowed are a number, auto, or indices of GPUs, each once; "
                "type trainer.devices=[0,1]"
            )


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
