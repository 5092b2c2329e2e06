"""What a network must offer to be tuned: stages in series, a linear head, and which parts a mode trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from tuning.freezing import keep_frozen_in_eval, set_trainable, trainable_submodules
from tuning.settings import MODES
from zoo.chain.origins import Origin
from zoo.errors import UserError

NORM_STATS = ("frozen", "adaptive")


class TunableNetwork(nn.Module, ABC):
    """A network that ends in pooled features and a linear head.

    A subclass sets ``head`` and implements ``stages``; where Freeze-Tuning trains more than the head (adapters), it
    also overrides ``trainable_modules``. Call ``freeze`` before an optimiser or DDP sees the network.

    Attributes:
        head: The last layer, (N, d) -> (N, C).
        class_names: Of its outputs, in order; None where only their number is known.
    """

    head: nn.Linear
    class_names: Sequence[str] | None = None
    _mode: str = "full"
    _norm_stats: str = "adaptive"

    @property
    def head_inputs(self) -> str:
        """What the head is to read: ``last`` (what ``stages`` give), ``all_cuts``, or ``auto``: to be decided."""
        return "last"

    def read(self, inputs: str, head: nn.Linear | None = None) -> None:
        """Lets the head read ``last`` or ``all_cuts``; without one given it is new, all zero."""
        raise NotImplementedError(f"{type(self).__name__} has no cuts to read")

    @abstractmethod
    def stages(self) -> Sequence[nn.Module]:
        """The modules that run one after the other from the images to the pooled features (N, d), without the head."""

    def trainable_modules(self, mode: str) -> Sequence[nn.Module]:
        """The modules a mode trains: all in ``full``, the head in ``probe`` and, if not overridden, in ``freeze``."""
        return [self] if mode == "full" else [self.head]

    def adapters_alone(self) -> list[nn.Module]:
        """What Freeze-Tuning trains besides the head; empty where blocks follow each other as in one network."""
        return [module for module in self.trainable_modules("freeze") if module is not self.head]

    def origins(self) -> Mapping[str, Origin]:
        """Where the pre-trained parameters stood in their own networks, by name, as far as that is known."""
        return {}

    def forward_features(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to the pooled features (N, d) that feed the head."""
        for stage in self.stages():
            x = stage(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to logits (N, num_classes)."""
        return self.head(self.forward_features(x))

    def freeze(self, mode: str, *, norm_stats: str = "adaptive") -> None:
        """Freezes all that the mode does not train, for ever: no gradient, statistics and dropout in eval.

        Args:
            mode: ``full``, ``freeze`` or ``probe``.
            norm_stats: Whether BatchNorm layers inside the trained part update their statistics (``adaptive``) or
                keep them (``frozen``).

        Raises:
            UserError: Unknown mode or rule.
        """
        if mode not in MODES:
            raise UserError(f"tuning.mode={mode} is unknown; allowed are {', '.join(MODES)}")
        if norm_stats not in NORM_STATS:
            raise UserError(f"norm_stats={norm_stats} is unknown; allowed are {', '.join(NORM_STATS)}")
        self._mode, self._norm_stats = mode, norm_stats
        set_trainable(self, self.trainable_modules(mode))
        self.train(self.training)

    def train(self, mode: bool = True) -> TunableNetwork:
        """Sets training mode on what is trained and eval mode on what is frozen."""
        super().train(mode)
        if mode:
            keep_frozen_in_eval(self, self.trainable_modules(self._mode), norm_stats=self._norm_stats)
        return self

    def trained_state(self) -> dict[str, Tensor]:
        """The parameters and buffers that tuning may change, under their names in ``state_dict``; not copied."""
        trained = trainable_submodules(self.trainable_modules(self._mode))
        owned = {id(t) for m in trained for t in (*m.parameters(recurse=False), *m.buffers(recurse=False))}
        return {name: tensor for name, tensor in self.state_dict(keep_vars=True).items() if id(tensor) in owned}

    def frozen_prefix(self, mode: str) -> tuple[nn.Sequential, nn.Sequential]:
        """Splits ``stages`` into the leading ones that ``mode`` leaves frozen and the rest.

        The outputs of the prefix never change during tuning, so they can be computed once:
        ``rest(prefix(x))`` equals ``forward_features(x)``. Both share their modules with the network.
        """
        trained = trainable_submodules(self.trainable_modules(mode))
        parameters = {parameter for module in trained for parameter in module.parameters(recurse=False)}
        stages = list(self.stages())
        length = 0
        while length < len(stages) and (
            trained.isdisjoint(stages[length].modules()) and parameters.isdisjoint(stages[length].parameters())
        ):
            length += 1
        return nn.Sequential(*stages[:length]), nn.Sequential(*stages[length:])
