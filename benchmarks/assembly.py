"""Scoring all compositions of the embedded zoo: the prefix tree against rebuilding and against swapping blocks.

``python -m benchmarks.assembly`` (a few minutes on one core). Three ways to the same scores, bit for bit:

- rebuild: for every candidate load its networks, copy its blocks into a new network, run it (as the published code);
- swap: keep all blocks, run every candidate from its images;
- tree: what candidates begin with in common runs once.

The first two are timed on a sample, candidate by candidate in turn; the tree on all. Then the exact enumeration of 30
networks under a budget. The table is written to ``benchmarks/results/assembly.json`` and ``.md``.
"""

from __future__ import annotations

import statistics
from itertools import pairwise, product

import numpy as np
import torch

from benchmarks.common import embedded_zoo, publish, timed
from reassembly.assembly import Candidate, partition_blocks
from reassembly.block_cache import BlockCache
from reassembly.enumeration import PathCosts, feasible_paths
from reassembly.home_features import HomeFeatures
from reassembly.network import assemble
from reassembly.prefix_tree import PathOutput, PrefixTree, ScoringData
from reassembly.settings import ProxySettings
from zoo.arguments import Parser, positive, run
from zoo.blueprint import AdapterSpec, HeadSpec, ReassemblyBlueprint
from zoo.digests import digest
from zoo.loading import load_chain, load_network

NUM_CLASSES = 10


def even_cuts(num_nodes: int, num_blocks: int) -> tuple[int, ...]:
    """Cuts of a chain into blocks of about equal length."""
    end = num_nodes - 1
    return (0, *(1 + (end - 1) * k // num_blocks for k in range(1, num_blocks)), end)


def swap(tree: PrefixTree, candidate: Candidate) -> float:
    """Scores one candidate alone with the tree's blocks."""
    output = tree.first(candidate.blocks[0])
    for stage, (before, block) in enumerate(pairwise(candidate.blocks), start=1):
        output = tree.advance(output, before, block, stage, 0)
    return tree.score(candidate, output)["ridge"]


def rebuild(tree: PrefixTree, candidate: Candidate, zoo, digests) -> float:
    """Scores one candidate as a new network, its weights read anew."""
    names = dict.fromkeys(block.network for block in candidate.blocks)
    for name in names:
        load_network(zoo[name])
    none, random = AdapterSpec(kind="none", kernel_size=1), AdapterSpec("linear", 1, "random")
    adapters = tuple(none if block.continues(before) else random for before, block in pairwise(candidate.blocks))
    head = HeadSpec(num_classes=NUM_CLASSES)
    blueprint = ReassemblyBlueprint(candidate.blocks, adapters, head, {name: digests[name] for name in names})
    network = assemble(blueprint, tree.blocks.chains, check_digests=False)
    network.blocks.to(memory_format=torch.channels_last)
    output = tree.apply(network.blocks[0], PathOutput(tree.data.images_for(candidate.blocks[0].network)))
    for stage, (before, block) in enumerate(pairwise(candidate.blocks), start=1):
        if not block.continues(before):
            network.adapters[stage - 1] = tree.make_adapter(before, block, stage, 0, output.features)
        output = tree.apply(network.blocks[stage], tree.apply(network.adapters[stage - 1], output))
    return tree.score(candidate, output)["ridge"]


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--blocks", type=positive, default=3)
    parser.add_argument("--images", type=positive, default=100)
    parser.add_argument("--sample", type=positive, default=40, help="candidates on which rebuild and swap are timed")
    parser.add_argument("--repeats", type=positive, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    zoo = embedded_zoo()
    chains = {name: load_chain(entry) for name, entry in zoo.items()}
    digests = {name: digest(chain.network) for name, chain in chains.items()}
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(arguments.images, *chains["resnet_digits"].signal(0).shape(1)[1:], generator=generator)
    data = ScoringData(lambda name: images, torch.arange(arguments.images) % NUM_CLASSES, NUM_CLASSES)
    rows = partition_blocks({name: even_cuts(len(chain), arguments.blocks) for name, chain in chains.items()})
    candidates = [
        Candidate(blocks, "assembly", 0, 0) for m in range(1, arguments.blocks + 1) for blocks in product(*rows[:m])
    ]
    sample = candidates[:: max(1, len(candidates) // arguments.sample)]
    settings = ProxySettings(num_draws=1)

    ratios: dict[str, list[float]] = {"rebuild": [], "swap": []}
    for _ in range(arguments.repeats):
        home = HomeFeatures(BlockCache(chains), data.images_for, AdapterSpec().kind, settings.batch_size)
        tree = PrefixTree(candidates, data, home, settings, AdapterSpec(), seed=0)
        seconds, scored = timed(lambda tree=tree: list(tree.scores()))
        scores = {entry.candidate: entry.scores["ridge"] for entry in scored}
        per_candidate = seconds / len(candidates)
        spent = {"rebuild": 0.0, "swap": 0.0}
        for candidate in sample:
            for name, alone, more in (("rebuild", rebuild, (zoo, digests)), ("swap", swap, ())):
                seconds, score = timed(alone, tree, candidate, *more)
                spent[name] += seconds
                assert score == scores[candidate], "all ways give the same score"
        for name, total in spent.items():
            ratios[name].append(total / len(sample) / per_candidate)
    rows = [{"way": "tree", "ms a candidate": 1e3 * per_candidate, "times slower than the tree": 1.0}]
    for name, values in ratios.items():
        slower = statistics.median(values)
        rows.append({"way": name, "ms a candidate": 1e3 * slower * per_candidate, "times slower than the tree": slower})
    reading = (
        f"{len(candidates)} candidates of {len(zoo)} networks, {arguments.images} images, one draw, one thread; the "
        f"tree scores {1 / per_candidate:.0f} a second, bit-equal to the other ways, timed on {len(sample)} of them."
    )
    print(publish("assembly", reading, rows))
    enumeration()


def enumeration(networks: int = 30, stages: int = 4) -> None:
    """Times the exact enumeration of all paths of a large zoo inside limits that about half of them fit."""
    rng = np.random.default_rng(0)
    unary, tail = rng.integers(1, 10**7, (2, 2, stages, networks))
    pairwise_costs = rng.integers(1, 10**6, (2, stages - 1, networks, networks))
    costs = PathCosts(unary, pairwise_costs, tail)
    high = np.full(2, int(unary.mean() * stages + pairwise_costs.mean() * (stages - 1) + tail.mean()))
    for name, limit in (("half", high), ("tight", high // 3)):
        lengths = range(1, stages + 1)
        paths = (part for m in lengths for part in feasible_paths(costs, np.zeros(2, int), limit, m))
        seconds, fit = timed(lambda paths=paths: sum(map(len, paths)))
        total = sum(networks**m for m in lengths)
        print(f"  {name} budget: {fit:,} of {total:,} compositions fit, {seconds:.2f} s")


if __name__ == "__main__":
    run(main)
