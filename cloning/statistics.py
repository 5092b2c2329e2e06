"""Cloning without images: the owners of the networks ship sums over their images, and F_c is solved from these.

    h = P f,   G = sum (h - m)(h - m)',   C_c = sum over the images of class c of h,   n_c = their number

f are the features that F_c reads, P a fixed random projection, drawn from a seed alone: for every block of f (of one
network, or of one cut of the target) as many orthonormal rows as ``projection`` says, and no more than the block is
wide, where nothing is lost; m is the mean of the owner's h, so that G loses no digits where features hardly vary
(sum h h' is G + n m m'). An owner runs target and modules on images that stay with it and ships G, C and n. Sums of
several owners add, and are taken off again: they are kept owner by owner and added in one order, so that what is solved
when one has come and gone is what was solved before, bit for bit.

F_c is the ridge regression of the one-hot classes on h (``zoo.ridge``), every class of the same weight on average of
its owner's, folded back to f: W_f = W_h P. The penalty is chosen by generalised cross-validation, which the sums allow:
an owner of few images gets a stronger one. So the cloned network stays what it is, and nothing more runs in it.

Sources: RanPAC (McDonnell et al., NeurIPS 2023, arXiv 2307.02251) for class-incremental learning from G and C behind a
random projection.

Differs from the paper: the projection is linear, and its width the features' own where these are few. What the paper's
nonlinearity adds to one frozen network is added here by the modules (docs/cloning.md has the figures).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cloning.fitting import network_features
from cloning.gates import pack_gates
from cloning.network import ClonedNetwork
from cloning.samples import BATCH_SIZE, Samples
from cloning.settings import CorrectionSettings
from tuning.ridge import calibrate
from zoo.digests import digest
from zoo.errors import UserError
from zoo.ridge import Moments, to_float64

SEED = 0
"""Of the projections; the same for all, so that sums of different owners are sums over the same h."""

RIDGES = tuple(10.0 ** (exponent / 2) for exponent in range(-8, 3))
"""Penalties that are tried where none is given."""

NUM_DRAWS = 200
"""Scores drawn for every class when the logits are calibrated."""


@dataclass(frozen=True)
class Block:
    """The part of f that one network gives.

    Attributes:
        digest: Of what makes it: the network's weights, the projection to three digits; of a module also gates,
            selected features, position and adapter.
        columns: Of F_c.
        projection: float64 (width, columns), of orthonormal rows.
    """

    digest: str
    columns: slice
    projection: Tensor


@dataclass(frozen=True)
class Sums:
    """What one owner ships.

    Attributes:
        owner: Its name.
        classes: That it has images of.
        blocks: Digest and width of the blocks of h, in order.
        counts: float64 (classes,), n.
        by_class: float64 (classes, width), C.
        second: float64 (width, width), G, about the owner's mean.
    """

    owner: str
    classes: tuple[str, ...]
    blocks: tuple[tuple[str, int], ...]
    counts: Tensor
    by_class: Tensor
    second: Tensor

    @property
    def within(self) -> Tensor:
        """Of G what the images of each class vary about their own mean, (width, width)."""
        between = self.by_class / self.counts[:, None] - self.by_class.sum(0) / self.counts.sum()
        return self.second - between.T @ (self.counts[:, None] * between)

    @property
    def num_bytes(self) -> int:
        """That travel: G once, as it is symmetric."""
        width = len(self.second)
        return 8 * (width * (width + 1) // 2 + self.by_class.numel() + self.counts.numel())

    def of(self, blocks: Sequence[Block]) -> Sums:
        """The sums over some of the blocks, in their order.

        Raises:
            UserError: A block that the owner had not.
        """
        starts, start = {}, 0
        for name, width in self.blocks:
            starts[name], start = range(start, start + width), start + width
        missing = [block for block in blocks if len(starts.get(block.digest, ())) != len(block.projection)]
        if missing:
            raise UserError(
                f"statistics of {self.owner!r} are not of this network's features: have them summed anew with the "
                "clones that are there now"
            )
        kept = torch.tensor([k for block in blocks for k in starts[block.digest]])
        described = tuple((block.digest, len(block.projection)) for block in blocks)
        return replace(self, blocks=described, by_class=self.by_class[:, kept], second=self.second[kept][:, kept])


@dataclass(frozen=True)
class Statistics:
    """The sums of all owners, in the order of their names; ``with_sums`` and ``without`` give another one."""

    sums: tuple[Sums, ...] = ()

    def with_sums(self, sums: Sums) -> Statistics:
        """With those of one more owner.

        Raises:
            UserError: That owner's are there already, or the same ones of another owner.
        """
        if sums.owner in self.owners:
            raise UserError(f"statistics of {sums.owner!r} are there already: take them off first")
        for other in self.sums:
            if other.blocks == sums.blocks and torch.equal(other.second, sums.second):
                raise UserError(
                    f"statistics of {sums.owner!r} are those of {other.owner!r} again: images count once, leave one out"
                )
        return Statistics(tuple(sorted([*self.sums, sums], key=lambda one: one.owner)))

    def without(self, owner: str) -> Statistics:
        """Without those of an owner.

        Raises:
            UserError: There are none.
        """
        if owner not in self.owners:
            raise UserError(f"no statistics of {owner!r}; there are those of {', '.join(self.owners) or 'nobody'}")
        return Statistics(tuple(sums for sums in self.sums if sums.owner != owner))

    @property
    def owners(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(sums.owner for sums in self.sums)

    @property
    def num_bytes(self) -> int:
        """Of all that travels."""
        return sum(sums.num_bytes for sums in self.sums)


def blocks_of(network: ClonedNetwork, projection: int) -> tuple[Block, ...]:
    """The blocks of what F_c reads: the target's last features, those of its cuts, those of every clone.

    Args:
        network: Whose adapters are final: another adapter makes other features.
        projection: The most rows of a block's projection.
    """
    CorrectionSettings("statistics", exemplars=0, projection=projection)  # refuses what cannot be
    columns, target = network.columns(), network.target
    found = [_block(target.digest(), columns[id(target)], projection)]
    for cut in network.head_cuts:
        found.append(_block(_named(target.digest(), "cut", str(cut)), columns[id(target), cut], projection))
    for clone, adapter in zip(network.clones, network.adapters, strict=True):
        made_by = [target.digest(), clone.source.digest(), str(clone.position), pack_gates(clone.gates).hex()]
        made_by += [digest({"selected": clone.selected})] if clone.selected is not None else []
        found.append(_block(_named(*made_by, digest(adapter)), columns[id(clone)], projection))
    return tuple(found)


def _named(*made_by: str) -> str:
    return f"sha256:{hashlib.sha256(' '.join(made_by).encode()).hexdigest()}"


def _block(name: str, columns: slice, projection: int) -> Block:
    num_features = columns.stop - columns.start
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randn(num_features, min(num_features, projection), dtype=torch.float64, generator=generator)
    rows = torch.linalg.qr(drawn).Q.T.contiguous()
    return Block(_named(name, digest({"rows": (rows * 1000).round()})), columns, rows)  # another library's last digits


def owner_sums(network: ClonedNetwork, samples: Iterable[Samples], owner: str, *, projection: int) -> Sums:
    """What an owner ships for its images.

    Args:
        network: The cloned network, its adapters final, where it computes; its head plays no part.
        samples: The owner's images, labelled by the network's classes; part by part, as distorted copies of them are.
        owner: Its name.
        projection: As in ``blocks_of``.

    Raises:
        UserError: No images, images or labels that are not of this network, or features that are not finite.
    """
    blocks = blocks_of(network, projection)
    width, device = sum(len(block.projection) for block in blocks), to_float64(network.head.weight[:0]).device
    moments, counts = Moments.zeros(width, 0, device), torch.zeros(len(network.classes), dtype=torch.float64)
    by_class = torch.zeros(len(network.classes), width, dtype=torch.float64, device=device)
    for images, labels in _checked_batches(network, samples, owner):
        features = to_float64(network_features(network, images))
        if not features.isfinite().all():
            raise UserError(f"features of {owner!r}'s images are not finite; check the weights of target and sources")
        h = torch.cat([features[:, block.columns] @ block.projection.to(device).T for block in blocks], dim=1)
        moments.add(h, h[:, :0])
        by_class.index_add_(0, labels.to(device), h)
        counts += torch.bincount(labels.cpu(), minlength=len(counts))
    if not counts.any():
        raise UserError(f"{owner!r} has no images to make statistics of; raise correction.fraction")
    by_class, second = by_class.cpu(), moments.xx.cpu()  # for they travel
    there = counts.nonzero().flatten()
    described = tuple((block.digest, len(block.projection)) for block in blocks)
    names = tuple(network.classes[k] for k in there.tolist())
    return Sums(owner, names, described, counts[there], by_class[there], (second + second.T) / 2)


def _checked_batches(network: ClonedNetwork, samples: Iterable[Samples], owner: str) -> Iterator[tuple[Tensor, Tensor]]:
    for part in samples:
        if len(part.labels):
            _require_of(network, part, owner)
            there = part.to(network.head.weight.device)
            yield from zip(there.images.split(BATCH_SIZE), there.labels.split(BATCH_SIZE), strict=True)


def _require_of(network: ClonedNetwork, samples: Samples, owner: str) -> None:
    if samples.images.ndim != 4 or samples.images.shape[1] != network.target.input.channels:
        raise UserError(
            f"{owner!r} has images of shape {list(samples.images.shape)}: {network.target.name!r} takes "
            f"(n, {network.target.input.channels}, H, W)"
        )
    lowest, highest = int(samples.labels.min()), int(samples.labels.max())
    if lowest < 0 or highest >= len(network.classes):
        raise UserError(
            f"{owner!r} has labels from {lowest} to {highest}: those of the network's {len(network.classes)} classes "
            f"are 0 to {len(network.classes) - 1}"
        )


@torch.no_grad()
def solve_from_statistics(
    network: ClonedNetwork, statistics: Statistics, *, projection: int, ridge: float | None = None
) -> float:
    """Solves F_c from the owners' sums, in place.

    Args:
        network: Its adapters are those that the sums were made with.
        statistics: Of all classes of the network; classes that it has not count for nothing.
        projection: As the sums were made.
        ridge: Penalty, relative to the variances of h; ``None``: that of ``RIDGES`` with the least generalised
            cross-validation (``zoo.ridge``), which grows the fewer images the owners have.

    Returns:
        The ridge.

    Raises:
        UserError: A class without sums, sums over other features, or such that no head can be solved.
    """
    CorrectionSettings("statistics", exemplars=0, ridge=ridge)  # refuses what cannot be
    known = {name for sums in statistics.sums for name in sums.classes}
    missing = [name for name in network.classes if name not in known]
    if missing:
        raise UserError(f"no statistics of the classes {', '.join(missing)}: have their owners' sums added")
    blocks = blocks_of(network, projection)
    there = [sums.of(blocks) for sums in statistics.sums]
    total = Moments.zeros(sum(len(block.projection) for block in blocks), len(network.classes))
    for sums in there:
        total = total + _moments(sums, network.classes)
    if ridge is None:
        num_rows = total.count**2 / float(sum(len(sums.classes) ** 2 / sums.counts.sum() for sums in there))
        ridge = min(RIDGES, key=lambda ridge: total.generalised_error(ridge, num_rows))
    ((weight, bias),) = total.solve([ridge])
    factor = _calibration(there, network.classes, weight, bias)
    rows = torch.cat(
        [part.T @ block.projection for part, block in zip(_split(weight, blocks), blocks, strict=True)], dim=1
    )
    head = [(factor * part).to(network.head.weight) for part in (rows, bias)]
    if not (head[0].any() and all(part.isfinite().all() for part in head)):
        told = ", ".join(statistics.owners)
        raise UserError(f"no head can be solved from the statistics of {told}: too large, or all alike; sum them anew")
    network.set_head(*head)
    return ridge


def _split(weight: Tensor, blocks: Sequence[Block]) -> tuple[Tensor, ...]:
    return weight.split([len(block.projection) for block in blocks])


def _moments(sums: Sums, classes: Sequence[str]) -> Moments:
    """As ``zoo.ridge`` has them, of rows (h, one-hot class), each of weight (classes of the owner) / (its images)."""
    shared = [k for k, name in enumerate(sums.classes) if name in classes]
    counts, by_class = sums.counts[shared], sums.by_class[shared]
    if len(shared) < len(sums.classes):
        raise UserError(
            f"statistics of {sums.owner!r} are of {', '.join(sums.classes)}, which this network has not all: have them "
            "summed anew for its classes"
        )
    count, mean = counts.sum(), by_class.sum(0) / counts.sum()
    scale = float(len(shared) / count)
    moments = Moments.zeros(len(mean), len(classes))
    rows = [list(classes).index(sums.classes[k]) for k in shared]
    moments.count = len(shared)
    moments.x, moments.xx = mean, scale * sums.second
    moments.y[rows] = counts / count
    moments.xy[:, rows] = scale * (by_class - counts[:, None] * mean).T
    moments.yy[rows] = scale * (counts - counts.square() / count)
    return moments


def _calibration(sums: Sequence[Sums], classes: Sequence[str], weight: Tensor, bias: Tensor) -> float:
    """The factor that turns scores of the regression into logits, without images.

    Scores of a class are taken for normal, with the mean and the common covariance that the sums say, and drawn.
    """
    counts, by_class = weight.new_zeros(len(classes)), weight.new_zeros(len(classes), len(weight))
    within = torch.zeros_like(sums[0].second)
    for one in sums:
        rows = torch.tensor([list(classes).index(name) for name in one.classes])
        counts.index_add_(0, rows, one.counts)
        by_class.index_add_(0, rows, one.by_class)
        within += one.within
    means = by_class / counts[:, None]
    values, vectors = torch.linalg.eigh(weight.T @ (within / counts.sum()) @ weight)
    root = vectors * values.clamp_min(0).sqrt()
    generator = torch.Generator().manual_seed(SEED)
    labels = torch.arange(len(classes)).repeat_interleave(NUM_DRAWS)
    noise = torch.randn(len(labels), len(classes), dtype=torch.float64, generator=generator) @ root.T
    return calibrate((means @ weight + bias)[labels] + noise, labels)
