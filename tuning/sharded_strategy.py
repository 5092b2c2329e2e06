"""``trainer.strategy=fsdp2``: Lightning's strategy of many processes for modules that shard themselves."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.strategies.strategy import Strategy
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import Optimizer

from tuning.checkpoints import contents_of, could_not_write, read_checkpoint
from tuning.distributed import broadcast
from tuning.sharded_files import SHARDS, barrier, read_tensors, remove, write_tensors


class ShardedStrategy(ModelParallelStrategy):
    """Every parameter in shards over all processes, by the module's ``configure_model``.

    Differs from Lightning's own: the processes connect before there is a module, one dimension holds all of them, and
    a checkpoint takes the place of the one before it whole.
    """

    def setup_environment(self) -> None:
        """Connects the processes."""
        self._setup_distributed()
        if self._device_mesh is None:
            self._device_mesh = init_device_mesh(self.root_device.type, (self.world_size,))

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Each process has a share of its own."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    @property
    def lightning_restore_optimizer(self) -> bool:
        """As everywhere."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """In shards."""
        return Strategy.lightning_module_state_dict(self)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """In shards."""
        return Strategy.optimizer_state(self, optimizer)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """From what ``load_checkpoint`` gave."""
        Strategy.load_model_state_dict(self, checkpoint, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """From what ``load_checkpoint`` gave."""
        Strategy.load_optimizer_state_dict(self, checkpoint)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Each process writes its part into a new folder, and the main one the file that names it.

        Raises:
            UserError: No space, or no permission; the checkpoint that was there stays.
        """
        path, token = broadcast((Path(filepath), secrets.token_hex(4)))
        folder = path.with_name(f"{path.name}.{SHARDS}-{token}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            outline = write_tensors(contents_of(checkpoint, path), folder)
        except OSError as error:
            raise could_not_write(path, error) from error
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(outline, path)
            remove(path, but=folder.name)
        barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """A checkpoint's tensors as this process has them."""
        path = Path(broadcast(checkpoint_path))
        return read_tensors(read_checkpoint(path), path, self.device_mesh)
