"""Whether this machine has what a configuration asks of it: devices, processes, a compiler."""

from __future__ import annotations

import importlib.util
import os
import shutil

from launch.schema import Config
from tuning.settings import TrainerSettings
from zoo.errors import UserError


def check_machine(config: Config) -> None:
    """Refuses a device, precision or strategy of ``trainer`` that this machine or the installed Lightning lacks.

    Raises:
        UserError: It, and what to type.
    """
    if config.trainer.extra:
        from tuning.trainer import check_extra  # with Lightning

        check_extra(config.trainer)
    if config.trainer.compile:
        _check_compiler(config)
    if _runs_everywhere(config.trainer):
        return
    import pytorch_lightning as pl
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    from tuning.trainer import check_nodes, lightning_strategy, quiet

    trainer = config.trainer
    check_nodes(trainer)
    if trainer.strategy == "fsdp2" and config.method.name == "cloning":
        raise UserError(
            "trainer.strategy=fsdp2: method=cloning tunes adapters and a head beside networks that run under hooks, "
            "which are not sharded: type trainer=ddp"
        )
    available = _count_devices()
    kind = trainer.accelerator
    if kind == "auto":
        kind = "gpu" if available["gpu"] else "mps" if available["mps"] else "cpu"
    if not available[kind]:
        raise UserError(f"trainer.accelerator={kind}: torch finds no such device on this machine; type trainer=cpu")
    num_devices, named = trainer.num_devices or 1, trainer.devices if isinstance(trainer.devices, list) else []
    if kind != "cpu" and max([num_devices, *(index + 1 for index in named)]) > available[kind]:
        raise UserError(
            f"trainer.devices={trainer.devices}: this machine has {available[kind]} of trainer.accelerator={kind}; "
            f"type trainer.devices={[*range(available[kind])] if named else available[kind]}"
        )
    if kind == "cpu" and named:
        raise UserError(
            f"trainer.devices={trainer.devices} names GPUs, and trainer.accelerator=cpu has processes: type "
            f"trainer.devices={len(named)}"
        )
    if kind == "cpu" and num_devices > (most := max(available["cpu"], 16)):
        raise UserError(
            f"trainer.devices={trainer.devices}: allowed are at most {most} processes on this machine's "
            f"{available['cpu']} processors; type trainer.devices={available['cpu']}"
        )
    if kind == "cpu" and trainer.precision == "16-mixed":
        raise UserError(
            "trainer.precision=16-mixed needs a GPU; type trainer.precision=bf16-mixed or trainer.precision=32-true"
        )
    if kind != "gpu" and trainer.sync_batchnorm:
        raise UserError(
            "trainer.sync_batchnorm=true needs a GPU, for PyTorch has no other; type trainer.sync_batchnorm=false"
        )
    try:
        with quiet():
            pl.Trainer(
                accelerator=trainer.accelerator,
                devices=trainer.devices,
                strategy=lightning_strategy(trainer),
                precision=trainer.precision,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
    except (MisconfigurationException, ImportError, ValueError, RuntimeError) as error:
        raise UserError(
            f"trainer.strategy={trainer.strategy} with trainer.accelerator={kind} and trainer.precision="
            f"{trainer.precision} cannot be used here: {str(error).rstrip('.')}; type trainer=cpu, gpu or ddp"
        ) from error


def _check_compiler(config: Config) -> None:
    """Refuses compilation of what cannot be compiled, or without what it needs."""
    if config.method.name == "cloning":
        raise UserError(
            "trainer.compile=true: method=cloning runs frozen networks under hooks, which no compiler takes: leave it "
            "out"
        )
    compilers = [name for name in (os.environ.get("CXX"), "g++", "c++", "clang++") if name and shutil.which(name)]
    if not compilers:
        raise UserError("trainer.compile=true needs a C++ compiler on the PATH (g++, clang++): leave it out")
    if config.trainer.accelerator == "gpu" and importlib.util.find_spec("triton") is None:
        raise UserError("trainer.compile=true needs the package triton for a GPU: leave it out")


def _runs_everywhere(trainer: TrainerSettings) -> bool:
    """Whether every machine can do it: one process on the processor. Lightning, which takes seconds, is not asked."""
    is_simple = trainer.accelerator == "cpu" and trainer.devices == 1 and trainer.strategy == "auto"
    return is_simple and trainer.precision in ("32-true", "bf16-mixed") and not trainer.sync_batchnorm


def _count_devices() -> dict[str, int]:
    import torch

    return {
        "cpu": os.cpu_count() or 1,
        "gpu": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
