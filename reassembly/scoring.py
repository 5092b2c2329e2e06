"""Exact scores of many candidates on the prefix tree: what two candidates have in common runs once.

Candidates that begin with the same blocks share a path from the root of a tree. It is walked depth-first, so that the
features of one path, for one draw of its adapters, are held at a time; scores are those of networks built and run one
by one, bit for bit. Networks are loaded one at a time, blocks kept as far as memory goes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from reassembly.assembly import Candidate
from reassembly.moments import Home, matched_adapter, run
from reassembly.proxies import Evidence, ProxySettings, find_proxy
from reassembly.proxies.naswot import CodeRecorder
from reassembly.shelf import Shelf
from reassembly.shortlist import shortlist
from zoo.blueprint import AdapterSpec, BlockSpec
from zoo.chain import Chain
from zoo.stitching.adapters import Adapter, closed_form_adapter
from zoo.storage.files import write_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probe:
    """What candidates are scored on; see ``score_candidates``."""

    images_for: Callable[[str], Tensor]
    labels: Tensor
    num_classes: int


@dataclass(frozen=True)
class ScoredCandidate:
    """A candidate and its score by every proxy, averaged over ``num_draws`` draws of its adapters."""

    candidate: Candidate
    scores: Mapping[str, float]
    num_draws: int = 1


def score_candidates(
    candidates: Iterable[Candidate],
    chains: Mapping[str, Chain],
    images_for: Callable[[str], Tensor],
    labels: Tensor,
    num_classes: int,
    settings: ProxySettings | None = None,
    adapter: AdapterSpec | None = None,
    seed: int = 0,
) -> list[ScoredCandidate]:
    """Scores candidates without training and sorts them, best first.

    Args:
        candidates: What to score.
        chains: Of every network they name; left as they are.
        images_for: Name of a network -> the probe images as it takes them, (n, C, H, W), the same images for all.
        labels: (n,) int64, of the probe images.
        num_classes: C.
        settings: Proxies, draws, batch size; ``num_images`` is for the caller, who gives the images.
        adapter: Its kind and, for closed-form scores, its kernel size; random adapters are 1x1, since a random 3x3 only
            blurs.
        seed: Of random adapters and of the ``random`` control.

    Returns:
        The scored candidates, all but for ``settings.max_scored``, in the order of the proxy ``settings.name``; those
        that deserved no second draw (``settings.max_redrawn``) after all others. Ties go to fewer MACs, then fewer
        parameters.
    """
    probe = Probe(images_for, labels, num_classes)
    settings, adapter = settings or ProxySettings(), adapter or AdapterSpec()
    proxy, candidates = find_proxy(settings.name), list(candidates)
    sign = -1 if proxy.higher_is_better else 1

    home = Home(Shelf(chains), probe.images_for, adapter.kind, settings.batch_size)

    def walk(some: Iterable[Candidate], **changes) -> list[ScoredCandidate]:
        tree = PrefixTree(some, chains, probe, replace(settings, **changes), adapter, seed, home)
        return sorted(tree.scores(), key=order)

    def order(entry: ScoredCandidate) -> tuple:
        c = entry.candidate
        return sign * entry.scores[proxy.name], c.macs, c.num_params, c.composition

    def score_paths(paths: Iterable[tuple[BlockSpec, ...]]) -> dict[tuple[BlockSpec, ...], float]:
        scored = walk((Candidate(path, "assembly", 0, 0) for path in paths), also=(), num_draws=1)
        return {entry.candidate.blocks: -sign * entry.scores[proxy.name] for entry in scored}

    if not proxy.needs:
        return walk(candidates)
    if settings.max_scored is not None and settings.max_scored < len(candidates):
        num_candidates, candidates = len(candidates), shortlist(candidates, settings.max_scored, score_paths)
        log.info("scoring the %d most promising of %d candidates", len(candidates), num_candidates)
    limit, several = settings.max_redrawn, settings.adapters == "random" and settings.num_draws > 1
    if limit is None or not several or sum(c.kind == "assembly" for c in candidates) <= limit:
        return walk(candidates)
    once = walk(candidates, num_draws=1)
    assemblies = [entry for entry in once if entry.candidate.kind == "assembly"]
    final = walk(entry.candidate for entry in assemblies[:limit])
    final += [entry for entry in once if entry.candidate.kind != "assembly"]
    return sorted(final, key=order) + assemblies[limit:]


def adapter_seed(before: BlockSpec, block: BlockSpec, stage: int, draw: int, seed: int) -> int:
    """The seed of a random adapter: stable over processes and machines, the same in every candidate that has it."""
    text = f"{seed} {draw} {stage} {before.network} {before.nodes} {block.network} {block.nodes}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def write_candidates_csv(path: str | Path, scored: Iterable[ScoredCandidate], picked: Candidate | None = None) -> None:
    """Writes the table of candidates in the order given, one row each; the picked one is marked with 1."""
    scored = list(scored)
    proxies = list(dict.fromkeys(name for entry in scored for name in entry.scores))
    columns = ["rank", "composition", "kind", "num_blocks", "num_params", "macs", "num_draws", "picked"]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*columns, *(f"score_{name}" for name in proxies)])
    for rank, entry in enumerate(scored, start=1):
        c = entry.candidate
        row = [rank, c.composition, c.kind, len(c.blocks), c.num_params, c.macs, entry.num_draws, int(c == picked)]
        writer.writerow([*row, *(entry.scores.get(name, "") for name in proxies)])
    write_text(path, table.getvalue())


@dataclass(frozen=True)
class Flow:
    """What has come out of a path of blocks, for one draw of its adapters."""

    features: Tensor
    code_kernel: Tensor | None = None


@dataclass
class _Node:
    """A block at its place in the tree; where ``candidate`` is set, it ends here."""

    candidate: Candidate | None = None
    children: dict[BlockSpec, _Node] = field(default_factory=dict)


class PrefixTree:
    """The walk over all candidates; see ``score_candidates``.

    With random adapters what lies behind the first one of a path is walked once for each draw.
    """

    def __init__(
        self,
        candidates: Iterable[Candidate],
        chains: Mapping[str, Chain],
        probe: Probe,
        settings: ProxySettings,
        adapter: AdapterSpec,
        seed: int,
        home: Home | None = None,
    ) -> None:
        self.probe, self.settings, self.adapter, self.seed = probe, settings, adapter, seed
        self.proxies = [find_proxy(name) for name in dict.fromkeys((settings.name, *settings.also))]
        self.needs = frozenset().union(*(proxy.needs for proxy in self.proxies))
        self.root, self.candidates = _Node(), list(candidates)
        for candidate in self.candidates:
            node = self.root
            for block in candidate.blocks:
                node = node.children.setdefault(block, _Node())
            node.candidate = candidate
        self.home = home or Home(Shelf(chains), probe.images_for, adapter.kind, settings.batch_size)
        self.shelf = self.home.shelf
        self.shelf.want(block for candidate in self.candidates for block in candidate.blocks)

    def block(self, block: BlockSpec) -> nn.Module:
        """The module of a block."""
        return self.shelf.block(block)

    def neck(self, last: BlockSpec) -> nn.Module:
        """What pools the features behind a last block."""
        return self.shelf.neck(last)

    def scores(self) -> Iterator[ScoredCandidate]:
        """Yields every candidate with its scores, in the order of the walk."""
        if not self.needs:
            for candidate in self.candidates:
                yield ScoredCandidate(candidate, self.score(candidate, None))
            return
        if "codes" in self.needs:
            self._warn_of_equal_images()
        for block, node in self.root.children.items():
            draws: dict[Candidate, list[dict[str, float]]] = {}
            flow = self.run(self.block(block), Flow(self.probe.images_for(block.network)))
            for candidate, scores in self._visit(node, block, 0, flow, None):
                draws.setdefault(candidate, []).append(scores)
            for candidate, found in draws.items():
                means = {proxy.name: fmean(scores[proxy.name] for scores in found) for proxy in self.proxies}
                yield ScoredCandidate(candidate, means, len(found))

    def _visit(
        self, node: _Node, block: BlockSpec, stage: int, flow: Flow, draw: int | None
    ) -> Iterator[tuple[Candidate, dict[str, float]]]:
        """The scores of the candidates below a node, once for each draw; none is made before the first adapter."""
        if node.candidate is not None:
            yield node.candidate, self.score(node.candidate, flow)
        for following, child in node.children.items():
            draws = [draw]
            if draw is None and not following.continues(block):
                draws = range(self.settings.num_draws if self.settings.adapters == "random" else 1)
            for each in draws:
                behind = self.advance(flow, block, following, stage + 1, each)
                yield from self._visit(child, following, stage + 1, behind, each)

    def advance(self, flow: Flow, before: BlockSpec, block: BlockSpec, stage: int, draw: int | None) -> Flow:
        """The flow behind the next block and, where it does not continue the one before, the adapter between."""
        if not block.continues(before):
            flow = self.run(self.make_adapter(before, block, stage, draw, flow.features), flow)
        return self.run(self.block(block), flow)

    @torch.no_grad()
    def make_adapter(self, before: BlockSpec, block: BlockSpec, stage: int, draw: int, features: Tensor) -> Adapter:
        """The adapter in front of a block of stage ``stage`` (the first is 0), for the features that come in."""
        source, target = self.shelf.signals(before)[1], self.shelf.signals(block)[0]
        kind, batch_size = self.adapter.kind, self.settings.batch_size
        if self.settings.adapters == "random":
            generator = torch.Generator().manual_seed(adapter_seed(before, block, stage, draw, self.seed))
            return matched_adapter(
                source, target, features, self.home.moments(block), kind, generator, batch_size=batch_size
            )
        if not torch.isfinite(features).all():
            return Adapter(source, target, kind=kind).eval()  # nothing to fit; the candidate is scored as the worst
        home, size = self.home.features(block), self.adapter.kernel_size
        return closed_form_adapter(
            source, target, features, home, kind=kind, kernel_size=size, seed=self.seed
        ).adapter.eval()

    @torch.no_grad()
    def run(self, module: nn.Module, flow: Flow) -> Flow:
        """Runs a module in batches; the activation codes of the first batch are added to the path's kernel."""
        recorder = CodeRecorder(flow.code_kernel) if "codes" in self.needs else None
        outputs = run(module, flow.features, self.settings.batch_size, recorder)
        return Flow(outputs, recorder and recorder.kernel)

    @torch.no_grad()
    def score(self, candidate: Candidate, flow: Flow | None) -> dict[str, float]:
        """The scores of a candidate by every proxy; ``flow`` is what comes out of its last block."""
        evidence = Evidence(candidate, self.probe.labels, self.probe.num_classes, self.seed)
        if flow is not None:
            flow = self.run(self.neck(candidate.blocks[-1]), flow)
            if not torch.isfinite(flow.features).all():
                log.warning("%s: its features are not finite; it is scored as the worst", candidate.composition)
                return {proxy.name: -torch.inf if proxy.higher_is_better else torch.inf for proxy in self.proxies}
            evidence = replace(evidence, features=flow.features, code_kernel=flow.code_kernel)
        return {proxy.name: proxy.score(evidence) for proxy in self.proxies}

    def _warn_of_equal_images(self) -> None:
        for block in self.root.children:
            images = self.probe.images_for(block.network)[: self.settings.batch_size]
            if len(torch.unique(images, dim=0)) < len(images):
                log.warning("naswot: among its %d probe images some are equal, which lowers every score", len(images))
                return
