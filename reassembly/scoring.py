"""Exact scores of many candidates on the prefix tree: what two candidates have in common runs once.

Candidates that begin with the same blocks share a path from the root of a tree. It is walked depth-first, so that the
features of one path are held at a time; scores are those of networks built and run one by one, bit for bit.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from reassembly.assembly import Candidate
from reassembly.moments import Home, matched_adapter
from reassembly.network import MeanPool
from reassembly.proxies import Evidence, ProxySettings, find_proxy
from reassembly.proxies.naswot import CodeRecorder
from reassembly.shortlist import shortlist
from zoo.adapters import Adapter, closed_form_adapter
from zoo.blueprint import AdapterSpec, BlockSpec
from zoo.chain import Chain
from zoo.files import write_text
from zoo.modes import eval_mode

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

    def walk(some: Iterable[Candidate], **changes) -> list[ScoredCandidate]:
        tree = PrefixTree(some, chains, probe, replace(settings, **changes), adapter, seed)
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

    With random adapters a path holds one flow for each draw from its first adapter on, and a single one before it.
    """

    def __init__(
        self,
        candidates: Iterable[Candidate],
        chains: Mapping[str, Chain],
        probe: Probe,
        settings: ProxySettings,
        adapter: AdapterSpec,
        seed: int,
    ) -> None:
        self.chains, self.probe, self.settings, self.adapter, self.seed = chains, probe, settings, adapter, seed
        self.proxies = [find_proxy(name) for name in dict.fromkeys((settings.name, *settings.also))]
        self.needs = frozenset().union(*(proxy.needs for proxy in self.proxies))
        self.home = Home(chains, probe.images_for, adapter.kind, settings.batch_size)
        self.block = cache(lambda block: chains[block.network].block(*block.nodes).eval())
        self.neck = cache(lambda last: self._neck(last).eval())
        self.root, self.networks = _Node(), set()
        for candidate in candidates:
            node = self.root
            for block in candidate.blocks:
                node = node.children.setdefault(block, _Node())
                self.networks.add(block.network)
            node.candidate = candidate

    def scores(self) -> Iterator[ScoredCandidate]:
        """Yields every candidate with its scores, in the order of the walk; the networks are in eval mode meanwhile."""
        if not self.needs:
            yield from self._walk(lambda block: [])
            return
        if "codes" in self.needs:
            self._warn_of_equal_images()
        with ExitStack() as modes:
            for name in self.networks:
                modes.enter_context(eval_mode(self.chains[name].network))
            yield from self._walk(
                lambda block: [self.run(self.block(block), Flow(self.probe.images_for(block.network)))]
            )

    def _walk(self, begin: Callable[[BlockSpec], list[Flow]]) -> Iterator[ScoredCandidate]:
        for block, node in self.root.children.items():
            yield from self._visit(node, block, 0, begin(block))

    def _visit(self, node: _Node, block: BlockSpec, stage: int, flows: list[Flow]) -> Iterator[ScoredCandidate]:
        if node.candidate is not None:
            yield ScoredCandidate(node.candidate, self.score(node.candidate, flows), max(1, len(flows)))
        for following, child in node.children.items():
            yield from self._visit(child, following, stage + 1, self.advance(flows, block, following, stage + 1))

    def advance(self, flows: list[Flow], before: BlockSpec, block: BlockSpec, stage: int) -> list[Flow]:
        """The flows behind the next block and, where it does not continue the one before, the adapter between."""
        if block.continues(before):
            return [self.run(self.block(block), flow) for flow in flows]
        num_draws = self.settings.num_draws if self.settings.adapters == "random" else 1
        flows = flows * num_draws if len(flows) == 1 else flows
        adapters = [self.make_adapter(before, block, stage, draw, flow.features) for draw, flow in enumerate(flows)]
        return [
            self.run(self.block(block), self.run(adapter, flow)) for adapter, flow in zip(adapters, flows, strict=True)
        ]

    @torch.no_grad()
    def make_adapter(self, before: BlockSpec, block: BlockSpec, stage: int, draw: int, features: Tensor) -> Adapter:
        """The adapter in front of a block of stage ``stage`` (the first is 0), for the features that come in."""
        source = self.chains[before.network].signal(before.nodes[1])
        target = self.chains[block.network].signal(block.nodes[0])
        kind = self.adapter.kind
        if self.settings.adapters == "random":
            generator = torch.Generator().manual_seed(adapter_seed(before, block, stage, draw, self.seed))
            return matched_adapter(source, target, features, self.home.moments(block), kind, generator)
        if not torch.isfinite(features).all():
            return Adapter(source, target, kind=kind).eval()  # nothing to fit; the candidate is scored as the worst
        home, size = self.home.features(block), self.adapter.kernel_size
        return closed_form_adapter(
            source, target, features, home, kind=kind, kernel_size=size, seed=self.seed
        ).adapter.eval()

    @torch.no_grad()
    def run(self, module: nn.Module, flow: Flow) -> Flow:
        """Runs a module in batches; the activation codes of the first batch are added to the path's kernel."""
        first, *rest = flow.features.split(self.settings.batch_size)
        recorder = CodeRecorder(flow.code_kernel) if "codes" in self.needs else None
        with recorder or nullcontext():
            outputs = [module(first)]
        outputs += [module(batch) for batch in rest]
        return Flow(torch.cat(outputs), recorder and recorder.kernel)

    @torch.no_grad()
    def score(self, candidate: Candidate, flows: list[Flow]) -> dict[str, float]:
        """The mean score over the flows behind a candidate's last block, by every proxy."""
        evidence = Evidence(candidate, self.probe.labels, self.probe.num_classes, self.seed)
        if not flows:
            return {proxy.name: proxy.score(evidence) for proxy in self.proxies}
        flows = [self.run(self.neck(candidate.blocks[-1]), flow) for flow in flows]
        if not all(torch.isfinite(flow.features).all() for flow in flows):
            log.warning("%s: its features are not finite; it is scored as the worst", candidate.composition)
            return {proxy.name: -torch.inf if proxy.higher_is_better else torch.inf for proxy in self.proxies}
        draws = [replace(evidence, features=flow.features, code_kernel=flow.code_kernel) for flow in flows]
        return {proxy.name: fmean(map(proxy.score, draws)) for proxy in self.proxies}

    def _neck(self, last: BlockSpec) -> nn.Module:
        chain = self.chains[last.network]
        return chain.neck() if last.nodes[1] == len(chain) - 1 else MeanPool(chain.signal(last.nodes[1]))

    def _warn_of_equal_images(self) -> None:
        for block in self.root.children:
            images = self.probe.images_for(block.network)[: self.settings.batch_size]
            if len(torch.unique(images, dim=0)) < len(images):
                log.warning("naswot: among its %d probe images some are equal, which lowers every score", len(images))
                return
