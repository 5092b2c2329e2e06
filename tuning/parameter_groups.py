"""Parameter groups: what learns at which rate and with which decay.

New parts (adapters and head) learn at the full rate. A pre-trained parameter of node i of its own chain of L nodes, of
which node L - 1 is the head, learns at

    learning_rate * block_scale * layer_decay ** (L - 1 - i)

so that the last block before the head is decayed once and the stem L - 1 times, wherever a block now stands: what a
filter has learnt goes by its depth in its own network. For a whole network with ``block_scale=1`` these are the rates
of BEiT (arXiv 2106.08254, its ``optim_factory.py``) and, where its layers are nodes, of timm's
``param_groups_layer_decay``, but for the norm before the head, which timm counts with the last block.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from tuning.network import TunableNetwork
from tuning.settings import OptimizerSettings
from zoo.chain.origins import Origin

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a rate and a decay.

    Attributes:
        name: ``head``, ``adapters``, or the network that the parameters come from, with the index of the node in its
            chain where the rate depends on that; ``no decay`` behind it.
        parameters: Each once.
        learning_rate: At the peak of the schedule.
        weight_decay: 0 for norms, biases, tokens and tables of positions.
    """

    name: str
    learning_rate: float
    weight_decay: float
    parameters: list[nn.Parameter] = field(default_factory=list)

    @property
    def num_parameters(self) -> int:
        """How many numbers are learnt."""
        return sum(parameter.numel() for parameter in self.parameters)

    def record(self) -> dict[str, str | int | float]:
        """What a table shows of it."""
        return {
            "name": self.name,
            "num_parameters": self.num_parameters,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
        }


def parameter_groups(network: TunableNetwork, settings: OptimizerSettings) -> list[ParameterGroup]:
    """The trained parameters of a network, each in exactly one group; blocks in their order, then adapters and head.

    A parameter that is used in several places belongs to the first of them: the lowest of the rates.

    Args:
        network: Frozen as its mode demands.
        settings: With rates for blocks (``OptimizerSettings.for_loss``).
    """
    if settings.block_scale is None or settings.layer_decay is None:
        raise ValueError("block_scale and layer_decay go by the loss: take settings.for_loss(loss)")
    new = {id(p) for module in network.trainable_modules("freeze") for p in module.parameters()}
    head = {id(p) for p in network.head.parameters()}
    origins = network.origins()
    groups: dict[tuple[str, float, float], ParameterGroup] = {}
    for name, parameter in network.named_parameters():  # what is tied comes once, under its first name
        if not parameter.requires_grad:
            continue
        origin, rate = origins.get(name), settings.learning_rate
        if id(parameter) in new:
            part = "head" if id(parameter) in head else "adapters"
        else:
            part, rate = _pretrained_rate(origin, settings)
        is_decayed = settings.weight_decay > 0 and not _is_undecayed(network, name, parameter, origin)
        decay = settings.weight_decay if is_decayed else 0.0
        label = part if is_decayed or not settings.weight_decay else f"{part}, no decay"
        groups.setdefault((part, rate, decay), ParameterGroup(label, rate, decay)).parameters.append(parameter)
    rank = {"adapters": 1, "head": 2}
    return [groups[key] for key in sorted(groups, key=lambda key: rank.get(key[0], 0))]


def table(groups: Sequence[ParameterGroup]) -> list[str]:
    """The lines of a table: name, parameters, rate, decay."""
    rows = [("parameter group", "parameters", "rate", "decay")]
    rows += [(g.name, f"{g.num_parameters:,}", f"{g.learning_rate:.3g}", f"{g.weight_decay:.3g}") for g in groups]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in (1, 2, 3))])
        for row in rows
    ]


def _pretrained_rate(origin: Origin | None, settings: OptimizerSettings) -> tuple[str, float]:
    rate = settings.learning_rate * settings.block_scale
    if origin is None:
        return "blocks", rate
    if settings.layer_decay == 1:
        return origin.network, rate
    return f"{origin.network}[{origin.node}]", rate * settings.layer_decay**origin.depth_from_end


def _is_undecayed(network: nn.Module, name: str, parameter: nn.Parameter, origin: Origin | None) -> bool:
    """Whether weight decay leaves a parameter out: norms, biases, scales, tokens, and positions in whatever form.

    As timm does it: vectors, and what the network's own ``no_weight_decay()`` lists. Networks of torchvision and
    transformers have no such list, and some norms, scales and tokens are no vectors: these go by their names.
    """
    if parameter.ndim <= 1 or (origin is not None and origin.is_undecayed):
        return True
    owner = network.get_submodule(name.rpartition(".")[0])
    if isinstance(owner, (nn.Linear, nn.modules.conv._ConvNd)) and parameter is owner.weight:
        return False
    is_norm = "norm" in type(owner).__name__.lower()
    is_scale = sum(size > 1 for size in parameter.shape) <= 1
    return is_norm or is_scale or _TOKEN_OR_POSITION.search(name) is not None


_TOKEN_OR_POSITION = re.compile(
    r"(^|\.)(((cls|class|dist|distillation|reg|register|mask|prefix)_?tokens?|prefix)$"
    r"|\w*pos(ition(al)?)?_?(emb|bias|enc)|\w*rel(ative)?_pos|attention_bias)"
)
