"""Who receives and who gives: the target with the most wanted classes, and an exact minimum cover of the rest.

Source: Partial Network Cloning (arXiv 2303.10597), steps 1 and 2 of its framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from cloning.settings import TaskSettings
from zoo.errors import UserError, require_each
from zoo.registry import Zoo
from zoo.storage.records import neighbours


@dataclass(frozen=True)
class NetworkProfile:
    """What selection knows of a network.

    Attributes:
        name: Its name in the zoo.
        classes: Names of its outputs.
        accuracy: On its own task, in percent; 0 where nobody measured it.
        num_params: Its parameters, for the last tie.
    """

    name: str
    classes: tuple[str, ...]
    accuracy: float = 0.0
    num_params: int = 0


@dataclass(frozen=True)
class Source:
    """A network that gives, and the classes it gives."""

    network: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """The target with the classes it keeps, and the sources; together they hold every wanted class exactly once."""

    target: str
    kept: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def cloned(self) -> tuple[str, ...]:
        """The classes of all sources."""
        return tuple(name for source in self.sources for name in source.classes)


def select(
    candidates: Sequence[NetworkProfile],
    classes: Sequence[str],
    *,
    cloned: Sequence[str] = (),
    target: str | None = None,
    sources: Sequence[str] = (),
) -> Selection:
    """Chooses the target and the fewest sources.

    The target knows the most of ``classes``. Among those that tie, the one needing the fewest sources wins, then the
    one with the fewest superfluous classes, the higher accuracy, the fewer parameters; ties between sets of sources are
    broken likewise. A class that several chosen sources know goes to the most accurate of them.

    Args:
        candidates: The zoo.
        classes: The wanted classes; all but those that the target knows are cloned.
        cloned: If given, ``classes`` are those wanted of the target and these the ones wanted of the sources.
        target: Fixes the target.
        sources: Restricts the sources to these networks; all may be used if empty.

    Raises:
        UserError: Lists that are empty, repeat or overlap; a name or class nobody knows; a source that is the target;
            a target that already knows everything or nothing.
    """
    by_name = {candidate.name: candidate for candidate in candidates}
    _check(by_name, classes, cloned, target, sources)
    givers = [by_name[name] for name in sources] if sources else list(candidates)
    if cloned:
        receivers = [c for c in ([by_name[target]] if target else candidates) if set(classes) <= set(c.classes)]
        if not receivers:
            able = next((c.name for c in candidates if set(classes) <= set(c.classes)), None)
            other = f"type task.target={able}" if able else "leave task.cloned out"
            who = "no single network knows" if target is None else f"the target {target} does not know"
            raise UserError(f"task.classes={_list(classes)} are to be kept beside task.cloned: {who} them all; {other}")
    else:
        overlap = {c.name: len(set(classes) & set(c.classes)) for c in candidates if target in (None, c.name)}
        most = max(overlap.values())
        if most == 0:
            raise UserError(
                f"the target {target} knows none of task.classes={_list(classes)}: type task.target=null, which takes "
                "the network that knows the most of them, or add classes that it is to keep"
            )
        receivers = [by_name[name] for name, size in overlap.items() if size == most]

    found, refusals = [], []
    for receiver in receivers:
        missing = tuple(cloned) or tuple(name for name in classes if name not in receiver.classes)
        if not missing:
            refusals.append(
                f"task.classes={_list(classes)}: {receiver.name!r} knows them all and nothing is to be cloned; "
                f"take it as it is (train.py method=baseline method.network={receiver.name}), or name in task.classes "
                "what a task.target=... keeps and in task.cloned what it is to get"
            )
            continue
        others = [giver for giver in givers if giver.name != receiver.name]
        cover = minimum_cover(others, missing)
        if cover is None:
            lost = [name for name in missing if not any(name in giver.classes for giver in others)]
            refusals.append(
                f"classes {_list(lost)} are known to no source for target {receiver.name!r}; "
                f"sources allowed: {', '.join(giver.name for giver in others) or 'none'} (task.sources)"
            )
            continue
        found.append((receiver, missing, cover))
    if not found:
        raise UserError(refusals[0])

    def rank(option: tuple[NetworkProfile, tuple[str, ...], tuple[NetworkProfile, ...]]) -> tuple[int, ...]:
        receiver, _, cover = option
        return len(cover), len(set(receiver.classes) - set(classes)), -_points(receiver), receiver.num_params

    receiver, missing, cover = min(found, key=rank)
    return Selection(receiver.name, tuple(name for name in classes if name in receiver.classes), assign(cover, missing))


def select_from(zoo: Zoo, task: TaskSettings, num_params: Callable[[str], int]) -> Selection:
    """The same, from a zoo; ``num_params`` counts the parameters of one of its networks.

    Raises:
        UserError: As ``select``, or a network that knows a wanted class cannot be used.
    """
    allowed = {task.target, *task.sources} if task.target and task.sources else set(zoo)
    wanted = {*task.classes, *task.cloned}
    knowing = [name for name, entry in zoo.items() if name in allowed and wanted & set(entry.classes)]
    candidates = [
        NetworkProfile(name, entry.classes, entry.accuracy.given if entry.accuracy else 0.0)
        for name, entry in zoo.items()
    ]
    choose_from = partial(select, classes=task.classes, cloned=task.cloned, target=task.target, sources=task.sources)
    choose_from(candidates)  # what cannot be is told before any network is built
    require_each(knowing, num_params, "networks cannot be used")
    return choose_from([replace(c, num_params=num_params(c.name)) if c.name in knowing else c for c in candidates])


def minimum_cover(candidates: Sequence[NetworkProfile], wanted: Sequence[str]) -> tuple[NetworkProfile, ...] | None:
    """The fewest candidates that know all ``wanted`` classes, exactly; ``None`` if there is no cover.

    Ties: fewer superfluous classes (summed over the chosen), higher summed accuracy, fewer parameters, zoo order.
    Dynamic programming over the sets of classes still uncovered, branching on the one that the fewest candidates know.
    """
    wanted_set = set(wanted)
    useful = [c for c in candidates if wanted_set & set(c.classes)]
    bits = {name: 1 << i for i, name in enumerate(wanted)}
    covers = [sum(bits[name] for name in set(c.classes) & wanted_set) for c in useful]
    costs = [(1, len(set(c.classes) - wanted_set), -_points(c), c.num_params) for c in useful]
    knowers = {bit: [i for i, cover in enumerate(covers) if cover & bit] for bit in bits.values()}
    if not all(knowers.values()):
        return None

    @cache
    def best(uncovered: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The least cost of covering the rest, and the candidates that reach it."""
        if not uncovered:
            return (0, 0, 0, 0), ()
        branch = min((bit for bit in knowers if bit & uncovered), key=lambda bit: len(knowers[bit]))
        options = []
        for i in knowers[branch]:
            cost, others = best(uncovered & ~covers[i])
            total = tuple(mine + theirs for mine, theirs in zip(costs[i], cost, strict=True))
            options.append((total, tuple(sorted((i, *others)))))
        return min(options)

    return tuple(useful[i] for i in best(sum(bits.values()))[1])


def assign(cover: Iterable[NetworkProfile], classes: Sequence[str]) -> tuple[Source, ...]:
    """Gives each class to the most accurate network of the cover that knows it."""
    cover = list(cover)
    owner = {name: max((c for c in cover if name in c.classes), key=_points).name for name in classes}
    sources = (Source(c.name, tuple(name for name in classes if owner[name] == c.name)) for c in cover)
    return tuple(source for source in sources if source.classes)


def _check(
    by_name: dict[str, NetworkProfile],
    classes: Sequence[str],
    cloned: Sequence[str],
    target: str | None,
    sources: Sequence[str],
) -> None:
    known = dict.fromkeys(name for candidate in by_name.values() for name in candidate.classes)
    if not classes:
        raise UserError(f"task.classes=[] is empty: name the wanted ones; the zoo knows {_list(known)}")
    for key, names in (("classes", classes), ("cloned", cloned), ("sources", sources)):
        repeated = sorted({name for name in names if list(names).count(name) > 1})
        if repeated:
            raise UserError(f"task.{key}={_list(names)} gives {', '.join(repeated)} more than once")
    both = [name for name in classes if name in cloned]
    if both:
        raise UserError(f"task.classes and task.cloned overlap in {', '.join(both)}; leave each class in one of them")
    for key, names in (("target", [target] if target else []), ("sources", sources)):
        for name in names:
            if name not in by_name:
                raise UserError(f"task.{key}: the zoo has no network {name!r}: {neighbours(name, by_name)}")
    if target in sources:
        raise UserError(f"task.sources={_list(sources)} holds the target {target}; a network cannot give to itself")
    for key, names in (("classes", classes), ("cloned", cloned)):
        if unknown := [name for name in names if name not in known]:
            raise UserError(
                f"task.{key}={_list(unknown)}: unknown to every network of the zoo; it knows {_list(known)}"
            )


def _points(candidate: NetworkProfile) -> int:
    """Accuracy in thousandths of a percent: sums of whole numbers compare exactly."""
    return round(candidate.accuracy * 1000)


def _list(names: Iterable[str], limit: int = 20) -> str:
    names = list(names)
    return "[" + ",".join(names[:limit]) + (f",... ({len(names)} in all)" if len(names) > limit else "") + "]"
