"""The cloned network: a target with masked sources grafted onto it.

    z(x) = F_c [ f_t(x) ; m(x) ; f_1 ; ... ; f_P ],   f_p = tail_p(A_p(target features at R_p)),
    f_p = source_p(x) at R_p = 0

f are the features that the networks' own classifiers read, of a source those that the clone hands on, m the mean
features at some cuts of the target. Target and sources stay outside the module registry: the network's parameters are
its adapters A_p and its head F_c.

Differs from the paper: there is no m there. What the target computes on its way costs nothing to read, and says of the
classes that come what its last features, made for its own alone, have dropped (docs/cloning.md has the figures).
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from cloning.clone import Clone, num_means, num_positions, source_position
from cloning.frozen import FrozenNetwork
from cloning.stages import Grafts, Trunk
from tuning.network import TunableNetwork
from zoo.chain.origins import Origin
from zoo.errors import UserError
from zoo.interface import Reading
from zoo.stitching.adapters import Adapter


class ClonedNetwork(TunableNetwork):
    """A target with clones; surgery (``with_clone``, ``without``) returns another network.

    Args:
        target: The network that receives.
        classes: Names of the outputs, in order: of classes that the target or a clone has, each has one owner.
        clones: What is grafted.
        adapters: One per clone, ``None`` at position 0.
        head_cuts: Cuts of the target's chain, in order, whose mean features the head reads beside its last ones.

    Raises:
        UserError: A class without an owner or with two, a source that is the target, a position or a cut outside the
            chain.

    Attributes:
        reading: How images are read for it where it was tuned; as the target's entry says until that is known.
    """

    def __init__(
        self,
        target: FrozenNetwork,
        classes: Sequence[str],
        clones: Sequence[Clone] = (),
        adapters: Sequence[Adapter | None] = (),
        head_cuts: Sequence[int] = (),
    ) -> None:
        super().__init__()
        _check(target, classes, clones, head_cuts)
        self.head_cuts = tuple(head_cuts)
        self.target, self.classes, self.clones = target, tuple(classes), tuple(clones)
        self.class_names, self.reading = self.classes, Reading(target.input)
        self.adapters = nn.ModuleList([nn.Identity() if adapter is None else adapter for adapter in adapters])
        self.copies = nn.ModuleList()
        weight, bias = self.initial_head()
        self.head = skip_init(nn.Linear, *reversed(weight.shape), dtype=weight.dtype)
        self.set_head(weight, bias)
        self.freeze("freeze")
        self.eval()

    def stages(self) -> Sequence[nn.Module]:
        """The trunk, whose outputs can be computed once unless all is tuned, and the grafts."""
        trunk = Trunk(self.target, self.clones, self.copies, self.head_cuts)
        return trunk, Grafts(self.target, self.clones, self.adapters, self.copies, self.num_target_features)

    @property
    def num_target_features(self) -> int:
        """How many of the features that the head reads are the target's; they come first."""
        return self.target.num_features + num_means(self.target, self.head_cuts)

    @property
    def cloned_classes(self) -> tuple[str, ...]:
        """Names of the classes that come from the sources, in the order of the outputs."""
        owned = {name for clone in self.clones for name in clone.classes}
        return tuple(name for name in self.classes if name in owned)

    @property
    def kept_classes(self) -> tuple[str, ...]:
        """Names of the target's own classes, in the order of the outputs."""
        cloned = set(self.cloned_classes)
        return tuple(name for name in self.classes if name not in cloned)

    def trainable_modules(self, mode: str) -> Sequence[nn.Module]:
        """Adapters and head; in ``full`` also the copies of the networks (``thawed``), in ``probe`` the head alone."""
        if mode == "probe":
            return [self.head]
        return [self] if mode == "full" else [*self.adapters, self.head]

    def origins(self) -> dict[str, Origin]:
        """Of the parameters of the copies that ``full`` tunes, each in the chain of its own network."""
        networks = (self.target, *(clone.source for clone in self.clones))
        return {
            f"copies.{k}.{name}": network.chain.origins[name]
            for k, (module, network) in enumerate(zip(self.copies, networks, strict=False))
            for name, _ in module.named_parameters()
        }

    @property
    def owners(self) -> Tensor:
        """(C,) of int64: by class, 0 if it is the target's, or the number of the clone that gives it, from 1."""
        given = {name: number for number, clone in enumerate(self.clones, start=1) for name in clone.classes}
        return torch.tensor([given.get(name, 0) for name in self.classes])

    def initial_head(self) -> tuple[Tensor, Tensor]:
        """The closed-form F_c: (C, d) and (C,), block by block.

        Rows of the target's classes are as they were, zero on the clones' features. The row of a cloned class is the
        source's minus the mean of all the source's rows, zero elsewhere: the source's other classes then act as
        rejection. A source of one output has no other: its row is taken as it is.
        """
        columns = self.columns()
        weight = self.target.weight.new_zeros(len(self.classes), columns[list(columns)[-1]].stop)
        bias = self.target.weight.new_zeros(len(self.classes))
        for name in self.kept_classes:
            row, output = self.classes.index(name), self.target.classes.index(name)
            weight[row, columns[id(self.target)]] = self.target.weight[output]
            bias[row] = self.target.bias[output]
        for clone in self.clones:
            source = clone.source
            rest = (source.weight.mean(0), source.bias.mean()) if len(source.classes) > 1 else (0.0, 0.0)
            for name in clone.classes:
                row, output = self.classes.index(name), source.classes.index(name)
                weight[row, columns[id(clone)]] = clone.select((source.weight[output] - rest[0])[None])[0]
                bias[row] = source.bias[output] - rest[1]
        return weight, bias

    @torch.no_grad()
    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Writes F_c, (C, d) and (C,), in the dtype and on the device that it has."""
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)

    def with_clone(self, clone: Clone, adapter: Adapter | None = None) -> ClonedNetwork:
        """The network with one more clone; what it has learnt so far stays, the new classes come last."""
        adapters = [*copy.deepcopy(self._own_adapters()), adapter]
        classes, clones = (*self.classes, *clone.classes), (*self.clones, clone)
        other = ClonedNetwork(self.target, classes, clones, adapters, self.head_cuts)
        return self._hand_over(other)

    def without(self, source: str) -> ClonedNetwork:
        """The network without the clones of a source: their classes go, the rest stays as learnt.

        Without its last clone it gives the target's own logits again.

        Raises:
            UserError: No clone comes from that source, or no class would be left.
        """
        names = {clone.source.name for clone in self.clones}
        if source not in names:
            raise UserError(told_missing(source, self.target.name, sorted(names)))
        kept = [i for i, clone in enumerate(self.clones) if clone.source.name != source]
        lost = {name for clone in self.clones if clone.source.name == source for name in clone.classes}
        adapters = copy.deepcopy(self._own_adapters())
        other = ClonedNetwork(
            self.target,
            [name for name in self.classes if name not in lost],
            [self.clones[i] for i in kept],
            [adapters[i] for i in kept],
            self.head_cuts if kept else (),
        )
        return self._hand_over(other) if kept else other

    def with_whole_sources(self) -> ClonedNetwork:
        """The network in closed form with all of every source at the image, all as they are in the zoo."""
        clones = [
            Clone(clone.source.origin or clone.source, clone.classes, torch.ones_like(clone.gates), 0)
            for clone in self.clones
        ]
        target = self.target.origin or self.target
        return ClonedNetwork(target, self.classes, clones, [None] * len(clones), self.head_cuts)

    def thawed(self) -> ClonedNetwork:
        """The network on copies of target and sources that ``full`` tuning may change (PNC-F)."""
        other = copy.deepcopy(self)
        other.target = self.target.thawed()
        sources = [clone.source.thawed() for clone in self.clones]
        other.clones = tuple(replace(clone, source=s) for s, clone in zip(sources, self.clones, strict=True))
        starts = [0, *(source_position(self.target, clone.source, clone.position) for clone in self.clones)]
        chains = [network.chain for network in (other.target, *sources)]
        other.copies = nn.ModuleList([c.block(i, len(c)) for c, i in zip(chains, starts, strict=True)])
        return other

    def standalone(self) -> ClonedNetwork:
        """A copy that has all that runs among its modules: the target and the slim modules, as they are."""
        if len(self.copies):
            return copy.deepcopy(self)
        other = self.thawed()
        starts = [source_position(self.target, clone.source, clone.position) for clone in self.clones]
        other.clones = copy.deepcopy(self.clones)
        slims = [clone.slim(start).network for clone, start in zip(other.clones, starts, strict=True)]
        other.copies = nn.ModuleList([other.copies[0], *slims])
        return other

    def networks(self) -> tuple[FrozenNetwork, ...]:
        """Target and sources, each once."""
        return tuple(dict.fromkeys((self.target, *(clone.source for clone in self.clones))))

    def _own_adapters(self) -> list[Adapter | None]:
        return [adapter if isinstance(adapter, Adapter) else None for adapter in self.adapters]

    def columns(self) -> dict[Hashable, slice]:
        """Columns of the head by what gives them: the target by its ``id``, its cuts by ``(id, cut)``, every clone."""
        widths: dict[Hashable, int] = {id(self.target): self.target.num_features}
        widths |= {(id(self.target), cut): self.target.chain.signal(cut).channels for cut in self.head_cuts}
        widths |= {id(clone): clone.num_features for clone in self.clones}
        ends = list(itertools.accumulate(widths.values()))
        return {owner: slice(end - width, end) for (owner, width), end in zip(widths.items(), ends, strict=True)}

    @torch.no_grad()
    def _hand_over(self, other: ClonedNetwork) -> ClonedNetwork:
        """Writes what this head has learnt into the rows and columns that the other one shares with it."""
        other.reading = self.reading
        mine, others = self.columns(), other.columns()
        for name in set(self.classes) & set(other.classes):
            row, other_row = self.classes.index(name), other.classes.index(name)
            other.head.bias[other_row] = self.head.bias[row]
            for owner in set(mine) & set(others):
                other.head.weight[other_row, others[owner]] = self.head.weight[row, mine[owner]]
        return other


def told_missing(source: str, target: str, there: Sequence[str]) -> str:
    """Why the clones of a source cannot be taken off a target with those of others, or with none."""
    if not there:
        return f"{target} has no clones: there is nothing of {source!r} to take off"
    return f"{target} has no clone of {source!r} to take off, but of {', '.join(there)}"


def _check(target: FrozenNetwork, classes: Sequence[str], clones: Sequence[Clone], head_cuts: Sequence[int]) -> None:
    if list(head_cuts) != sorted(set(head_cuts)) or not set(head_cuts) <= set(range(1, num_positions(target))):
        raise UserError(
            f"head_cuts {list(head_cuts)} are not of {target.name!r}: expected different ones in order, of 1 (the "
            f"output of the stem) to {num_positions(target) - 1} (the input of the head)"
        )
    owned = [name for clone in clones for name in clone.classes]
    known = {*owned, *target.classes}
    for clone in clones:
        if clone.source.name == target.name:
            raise UserError(f"task.sources={clone.source.name} is the target; a network cannot give to itself")
        if not 0 <= clone.position < num_positions(target):
            raise UserError(
                f"insertion.position={clone.position} is outside of {target.name!r}; "
                f"allowed: 0 (the input image) to {num_positions(target) - 1} (the input of the head)"
            )
        unknown = [name for name in clone.classes if name not in clone.source.classes]
        if unknown or not clone.classes:
            raise UserError(f"{clone.source.name!r} cannot give the classes {', '.join(unknown) or '(none named)'}")
    for names, reason in (
        ([name for name, count in Counter(owned).items() if count > 1], "have two owners"),
        ([name for name, count in Counter(classes).items() if count > 1], "are named twice"),
        ([name for name in classes if name not in known], "have no owner"),
        ([name for name in owned if name not in set(classes)], "are cloned but not wanted"),
    ):
        if names:
            raise UserError(f"classes {', '.join(dict.fromkeys(names))} {reason}; give each class to one network")
