"""The walk over many candidates in which what two of them have in common runs once.

Candidates that begin with the same blocks share a path from the root of a tree. Those of one network, wherever they
end, share one path of single nodes: one run of the network serves all of them. The tree is walked depth-first, so that
the features of one path, for one draw of its adapters, are held at a time; scores are those of networks built and run
one by one, bit for bit.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor, nn

from reassembly.assembly import Candidate, ScoredCandidate
from reassembly.home_features import HomeFeatures
from reassembly.matched_adapter import matched_adapter
from reassembly.network import MeanPool
from reassembly.probe_images import ProbeImages
from reassembly.proxies import Evidence, find_proxy
from reassembly.proxies.naswot import CodeRecorder
from reassembly.settings import ProxySettings
from zoo.blueprint import AdapterSpec, BlockSpec
from zoo.chain.batches import run_in_batches
from zoo.progress import progress
from zoo.registry import Zoo
from zoo.stitching.adapters import Adapter, closed_form_adapter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoringData:
    """What candidates are scored on.

    Attributes:
        images_for: Name of a network -> the probe images as it takes them, (n, C, H, W), the same images for all.
        labels: (n,) int64, of the probe images.
        num_classes: How many there are.
        not_loaded: By name of a network, beginnings of the names of parameters that its weights leave out.
        precision: Of the passes, see ``run_in_batches``.
    """

    images_for: Callable[[str], Tensor]
    labels: Tensor
    num_classes: int
    not_loaded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    precision: torch.dtype | None = None

    @classmethod
    def of(cls, zoo: Zoo, images: ProbeImages, num_images: int, precision: torch.dtype | None = None) -> ScoringData:
        """At most so many of the probe images, for the networks of a zoo."""
        first = next(iter(zoo.values())).input
        return cls(
            lambda name: images.labelled(zoo[name].input, num_images)[0],
            images.labelled(first, num_images)[1],
            images.data.num_classes,
            {name: tuple(entry.weights.skip) for name, entry in zoo.items() if entry.weights is not None},
            precision,
        )


@dataclass(frozen=True)
class PathOutput:
    """What has come out of a path of blocks, for one draw of its adapters.

    Attributes:
        features: (n, ...).
        code_kernel: See ``Evidence``.
        pooled: Behind every block so far, by network and end, (n, d) each; only for proxies ``on_all_cuts``.
    """

    features: Tensor
    code_kernel: Tensor | None = None
    pooled: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)


@dataclass
class _Node:
    """A block at its place in the tree, and the candidates that end here, all of the same function."""

    candidates: list[Candidate] = field(default_factory=list)
    children: dict[BlockSpec, _Node] = field(default_factory=dict)


class PrefixTree:
    """The walk over all candidates.

    With random adapters what lies behind the first one of a path is walked once for each draw.

    Args:
        candidates: What to score.
        data: What to score them on.
        home: What their blocks receive at home, and the blocks themselves.
        settings: Proxies, draws, batch size.
        adapter: Its kind and, for closed-form scores, its kernel size.
        seed: Of random adapters and of the ``random`` control.
        known: The scores of the first draw of all candidates, none of which is of one piece; it is not walked again.
    """

    def __init__(
        self,
        candidates: Iterable[Candidate],
        data: ScoringData,
        home: HomeFeatures,
        settings: ProxySettings,
        adapter: AdapterSpec,
        seed: int,
        known: Mapping[Candidate, Mapping[str, float]] | None = None,
    ) -> None:
        self.known = known or {}
        num_draws = settings.num_draws if settings.adapters == "random" else 1
        self.draws = range(1 if known else 0, num_draws)
        self.data, self.home, self.settings, self.adapter, self.seed = data, home, settings, adapter, seed
        self.proxies = [find_proxy(name) for name in dict.fromkeys((settings.name, *settings.also))]
        self.needs = frozenset().union(*(proxy.needs for proxy in self.proxies))
        self.has_cuts = any(proxy.on_all_cuts for proxy in self.proxies)
        self.root, self.candidates = _Node(), list(candidates)
        for candidate in self.candidates:
            node = self.root
            for block in walked_blocks(candidate):
                node = node.children.setdefault(block, _Node())
            node.candidates.append(candidate)
        self.blocks = home.blocks
        assemblies = (candidate for candidate in self.candidates if not is_of_one_piece(candidate))
        self.blocks.want(block for candidate in assemblies for block in candidate.blocks)

    def scores(self) -> Iterator[ScoredCandidate]:
        """Yields every candidate with its scores, in the order of the walk."""
        if not self.needs:
            for candidate in self.candidates:
                yield ScoredCandidate(candidate, self.score(candidate, None))
            return
        if "codes" in self.needs:
            self._warn_of_equal_images()
        total = sum(1 if is_of_one_piece(candidate) else len(self.draws) for candidate in self.candidates)
        with progress("scores of candidates", total) as advance:
            for block, node in self.root.children.items():
                draws: dict[Candidate, list[dict[str, float]]] = {}
                output = self.first(block)
                for candidate, scores in self._visit(node, block, 0, output, None):
                    draws.setdefault(candidate, []).append(scores)
                    advance()
                for candidate, found in draws.items():
                    found = [self.known[candidate], *found] if self.known else found
                    means = {name: fmean(scores[name] for scores in found) for name in found[0]}
                    yield ScoredCandidate(candidate, means, len(found))

    def _visit(
        self, node: _Node, block: BlockSpec, stage: int, output: PathOutput, draw: int | None
    ) -> Iterator[tuple[Candidate, dict[str, float]]]:
        """The scores of the candidates below a node, once for each draw; none is made before the first adapter."""
        scores: dict[str, float] = {}
        for candidate in node.candidates:  # what only looks at costs tells them apart
            scores = {**scores, **self.score(candidate, output if not scores else None)}
            yield candidate, scores
        for following, child in node.children.items():
            draws = [draw]
            if draw is None and not following.continues(block):
                draws = self.draws
            for each in draws:
                behind = self.advance(output, block, following, stage + 1, each)
                yield from self._visit(child, following, stage + 1, behind, each)

    def first(self, block: BlockSpec) -> PathOutput:
        """The output of a path's first block."""
        return self.apply(self.blocks.block(block), PathOutput(self.data.images_for(block.network)))

    def advance(self, output: PathOutput, before: BlockSpec, block: BlockSpec, stage: int, draw: int | None):
        """The output behind the next block and, where it does not continue the one before, the adapter between."""
        if self.has_cuts:
            pooled = run_in_batches(
                MeanPool(self.blocks.signals(before)[1]), output.features, batch_size=self.settings.batch_size
            )
            output = replace(output, pooled={**output.pooled, (before.network, before.nodes[1]): pooled})
        if not block.continues(before):
            output = self.apply(self.make_adapter(before, block, stage, draw, output.features), output)
        return self.apply(self.blocks.block(block), output)

    @torch.no_grad()
    def make_adapter(self, before: BlockSpec, block: BlockSpec, stage: int, draw: int, features: Tensor) -> Adapter:
        """The adapter in front of a block of stage ``stage`` (the first is 0), for the features that come in."""
        source, target = self.blocks.signals(before)[1], self.blocks.signals(block)[0]
        kind, batch_size = self.adapter.kind, self.settings.batch_size
        if self.settings.adapters == "random":
            generator = torch.Generator().manual_seed(adapter_seed(before, block, stage, draw, self.seed))
            return matched_adapter(
                source, target, features, self.home.statistics(block), kind, generator, batch_size=batch_size
            )
        if not torch.isfinite(features).all():
            return Adapter(source, target, kind=kind).eval()  # nothing to fit; the candidate is scored as the worst
        home, size = self.home.features(block), self.adapter.kernel_size
        return closed_form_adapter(
            source, target, features, home, kind=kind, kernel_size=size, seed=self.seed
        ).adapter.eval()

    def apply(self, module: nn.Module, output: PathOutput) -> PathOutput:
        """Runs a module in batches; the activation codes of the first batch are added to the path's kernel."""
        inputs, batch_size = output.features, self.settings.batch_size
        run = partial(run_in_batches, batch_size=batch_size, precision=self.data.precision)
        if "codes" not in self.needs:
            return replace(output, features=run(module, inputs))
        first, rest = inputs[:batch_size], inputs[batch_size:]
        with CodeRecorder(output.code_kernel) as recorder:
            features = [run(module, first)]
        if len(rest):
            features.append(run(module, rest))
        return replace(output, features=torch.cat(features), code_kernel=recorder.kernel)

    @torch.no_grad()
    def score(self, candidate: Candidate, output: PathOutput | None) -> dict[str, float]:
        """The scores of a candidate by every proxy; ``output`` is what comes out of its last block.

        Without an output only those that need nothing. A candidate whose features are not finite gets the worst scores
        there are, and so does a score that is NaN. What is no whole network has no score by a proxy that needs outputs.
        """
        has_outputs = output is not None and "outputs" in self.needs and self._is_whole(candidate)
        proxies = [
            proxy
            for proxy in self.proxies
            if (has_outputs or "outputs" not in proxy.needs) and (output is not None or not proxy.needs)
        ]
        worst = {proxy.name: -math.inf if proxy.higher_is_better else math.inf for proxy in proxies}
        evidence = Evidence(candidate, self.data.labels, self.data.num_classes, self.seed)
        if output is not None:
            last = walked_blocks(candidate)[-1]
            if has_outputs:
                evidence = replace(evidence, outputs=self._outputs(last.network, output))
            output = self.apply(self.blocks.neck(last), output)
            if self.has_cuts:
                inner = [output.pooled[block.network, block.nodes[1]] for block in candidate.blocks[:-1]]
                evidence = replace(evidence, cut_features=torch.cat([*inner, output.features], 1))
            behind = output.features if evidence.cut_features is None else evidence.cut_features
            if not torch.isfinite(behind).all():
                log.warning("%s: its features are not finite; it is scored as the worst", candidate.composition)
                return worst
            evidence = replace(evidence, features=output.features, code_kernel=output.code_kernel)
        scores = {proxy.name: proxy.score(evidence) for proxy in proxies}
        for name in [name for name, score in scores.items() if math.isnan(score)]:
            log.warning("%s: its score by %s is NaN; it is scored as the worst", candidate.composition, name)
            scores[name] = worst[name]
        return scores

    def _is_whole(self, candidate: Candidate) -> bool:
        """Whether it is a network of the zoo up to its own classifier."""
        last = walked_blocks(candidate)[-1]
        return is_of_one_piece(candidate) and not isinstance(self.blocks.neck(last), MeanPool)

    def _outputs(self, network: str, output: PathOutput) -> Tensor | None:
        """What a network's own classifier gives, (n, Z); None where it has none that was learnt."""
        chain = self.blocks.chains[network]
        classifier = chain.block(len(chain) - 1, len(chain))
        skipped = self.data.not_loaded.get(network, ())
        if any(name.startswith(skipped) for name, _ in classifier.named_parameters()) and skipped:
            log.warning("%s has no classifier that was learnt: its weights leave out %s", network, ", ".join(skipped))
            return None
        outputs = run_in_batches(
            classifier, output.features, batch_size=self.settings.batch_size, precision=self.data.precision
        )
        if outputs.ndim == 2 and outputs.shape[1] > 1 and torch.isfinite(outputs).all():
            return outputs
        log.warning("%s has no classifier: its outputs are of shape %s", network, tuple(outputs.shape))
        return None

    def _warn_of_equal_images(self) -> None:
        for block in self.root.children:
            images = self.data.images_for(block.network)[: self.settings.batch_size]
            if len(torch.unique(images, dim=0)) < len(images):
                log.warning("naswot: among its %d probe images some are equal, which lowers every score", len(images))
                return


def walked_blocks(candidate: Candidate) -> tuple[BlockSpec, ...]:
    """The path of a candidate in the tree: its blocks or, of one network, its nodes."""
    if not is_of_one_piece(candidate):
        return candidate.blocks
    name, end = candidate.blocks[-1].network, candidate.blocks[-1].nodes[1]
    return tuple(BlockSpec(name, (node, node + 1)) for node in range(candidate.blocks[0].nodes[0], end))


def is_of_one_piece(candidate: Candidate) -> bool:
    """Whether its blocks continue one another, so that nothing is to be adapted."""
    return all(block.continues(before) for before, block in pairwise(candidate.blocks))


def adapter_seed(before: BlockSpec, block: BlockSpec, stage: int, draw: int, seed: int) -> int:
    """The seed of a random adapter: stable over processes and machines, the same in every candidate that has it."""
    text = f"{seed} {draw} {stage} {before.network} {before.nodes} {block.network} {block.nodes}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
