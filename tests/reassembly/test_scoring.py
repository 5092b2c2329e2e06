"""The prefix tree against networks that are assembled and run one by one."""

from __future__ import annotations

import csv
import logging
import math

import pytest
import timm
import torch
from torch import nn

from reassembly.assembly import Candidate, cost_table, joined, partition_blocks, single_network_candidates
from reassembly.block_cache import BlockCache
from reassembly.candidates import Question, list_admitted
from reassembly.home_features import HomeFeatures
from reassembly.network import MeanPool, assemble, assembled_costs, ending_costs, seam_costs
from reassembly.prefix_tree import PathOutput, PrefixTree, ScoringData, adapter_seed, walked_blocks
from reassembly.proxies import PROXIES, Evidence, Proxy
from reassembly.proxies.naswot import CodeRecorder
from reassembly.proxies.ridge import ridge_score
from reassembly.report import write_candidates_csv
from reassembly.scoring import Scorer, score_candidates
from reassembly.settings import Budget, ProxySettings
from reassembly.stitch import stitch
from tuning.ridge import calibrate, fit_ridge
from zoo.blueprint import AdapterSpec, BlockSpec, HeadSpec, ReassemblyBlueprint
from zoo.chain import Chain
from zoo.chain.costs import Costs, count
from zoo.chain.signals import pool
from zoo.digests import digest
from zoo.stitching.adapters import adapter_costs

NUM_IMAGES, NUM_CLASSES, STAGES = 20, 3, 3
SIZES = {"plain": (3, 14, 10), "vit": (1, 16, 16), "resnet": (2, 21, 15)}


def plain_network() -> nn.Module:
    layers = []
    for before, after in ((3, 6), (6, 8), (8, 8), (8, 12)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4))


@pytest.fixture(scope="module")
def chains() -> dict[str, Chain]:
    torch.manual_seed(0)
    networks = {
        "plain": plain_network(),
        "vit": timm.create_model(
            "vit_tiny_patch16_224", img_size=16, patch_size=4, in_chans=1, embed_dim=12, depth=4, num_heads=2
        ),
        "resnet": timm.create_model(
            "resnet18", in_chans=2, block_args={}, stem_width=8, layers=(1, 1, 1, 1), channels=(8, 8, 16, 16)
        ),
    }
    return {
        name: Chain.from_network(network.eval(), torch.zeros(1, *SIZES[name]), name=name)
        for name, network in networks.items()
    }


@pytest.fixture(scope="module")
def data() -> ScoringData:
    generator = torch.Generator().manual_seed(1)
    images = {name: torch.randn(NUM_IMAGES, *size, generator=generator) for name, size in SIZES.items()}
    return ScoringData(images.__getitem__, torch.arange(NUM_IMAGES) % NUM_CLASSES, NUM_CLASSES)


def score(candidates, chains, data, settings, adapter=None, seed=0):
    return score_candidates(candidates, chains, data, settings, adapter, seed)


def even_cuts(chain: Chain) -> tuple[int, ...]:
    end = len(chain) - 1
    return (0, *(1 + (end - 1) * k // STAGES for k in range(1, STAGES)), end)


@pytest.fixture(scope="module")
def question(chains) -> Question:
    def head(block: BlockSpec) -> Costs:
        chain = chains[block.network]
        if block.nodes[1] == len(chain) - 1:
            return chain.neck_costs + Costs((chain.neck_dim + 1) * NUM_CLASSES, chain.neck_dim * NUM_CLASSES)
        width = chain.signal(block.nodes[1]).channels
        return Costs((width + 1) * NUM_CLASSES, width * NUM_CLASSES)

    table = cost_table(
        partition_blocks({name: even_cuts(chain) for name, chain in chains.items()}),
        lambda block: chains[block.network].block_costs(*block.nodes),
        lambda a, b: adapter_costs(chains[a.network].signal(a.nodes[1]), chains[b.network].signal(b.nodes[0])),
        head,
    )
    return Question(table, Budget(), ())


@pytest.fixture(scope="module")
def candidates(question) -> list[Candidate]:
    return list_admitted(question, None).candidates


def blueprint_of(candidate: Candidate, chains, adapter: AdapterSpec) -> ReassemblyBlueprint:
    pairs = zip(candidate.blocks, candidate.blocks[1:], strict=False)
    adapters = tuple(AdapterSpec(kind="none") if b.continues(a) else adapter for a, b in pairs)
    networks = {block.network: digest(chains[block.network].network) for block in candidate.blocks}
    return ReassemblyBlueprint(candidate.blocks, adapters, HeadSpec(num_classes=NUM_CLASSES), networks)


def in_series(stages, x):
    """Runs stages one after the other; what runs between them is contiguous, as everywhere."""
    for stage in stages:
        x = stage(x).contiguous()
    return x


def features_one_by_one(candidate, chains, data, settings, adapter, draw, seed=0):
    """Features of a network that is assembled alone, adapters set from front to back, run whole; and its codes."""
    spec = AdapterSpec(adapter.kind, 1, "random")
    network = assemble(blueprint_of(candidate, chains, spec), chains)
    network.blocks.to(memory_format=torch.channels_last)
    x = data.images_for(candidate.blocks[0].network)
    home = HomeFeatures(BlockCache(chains), data.images_for, adapter.kind, settings.batch_size)
    tree = PrefixTree([], data, home, settings, adapter, seed)
    for k in range(len(network.adapters)):
        before, block = candidate.blocks[k : k + 2]
        if not block.continues(before):
            stages = network.stages()[: 2 * k + 1]
            with torch.no_grad():
                come_in = torch.cat([in_series(stages, batch) for batch in x.split(settings.batch_size)])
            network.adapters[k] = tree.make_adapter(before, block, k + 1, draw, come_in)
    batches, codes = x.split(settings.batch_size), CodeRecorder()
    with torch.no_grad():
        with codes:
            outputs = [in_series(network.stages(), batches[0])]
        outputs += [in_series(network.stages(), batch) for batch in batches[1:]]
    return torch.cat(outputs), codes.kernel


CASES = [
    ("random", AdapterSpec()),
    ("random", AdapterSpec(kind="paper", kernel_size=1)),
    ("closed_form", AdapterSpec()),
]


@pytest.mark.parametrize(("adapters", "adapter"), CASES)
def test_tree_features_and_codes_equal_those_of_whole_networks(
    chains, data, candidates, adapters, adapter, monkeypatch
):
    seen: dict[tuple, list] = {}

    def remember(evidence):
        seen.setdefault(evidence.candidate.blocks, []).append((evidence.features, evidence.code_kernel))
        return 0.0

    spy = Proxy("spy", remember, "nothing", needs=frozenset({"features", "codes"}))
    monkeypatch.setitem(PROXIES, "spy", spy)
    settings = ProxySettings(name="spy", num_draws=2, max_redrawn=None, adapters=adapters, batch_size=8)
    score(candidates, chains, data, settings, adapter)
    assert len(seen) == len(candidates) == 3 + 9 + 27
    for candidate in candidates[::3]:
        single = candidate.kind != "assembly" or adapters == "closed_form"
        draws = seen[candidate.blocks]
        assert len(draws) == (1 if single else 2)
        for draw, (features, codes) in enumerate(draws):
            expected, kernel = features_one_by_one(candidate, chains, data, settings, adapter, draw)
            assert torch.equal(features, expected)
            assert torch.equal(codes, kernel)
        if not single:
            assert not torch.equal(draws[0][0], draws[1][0])


def test_scores_are_the_mean_over_draws_of_each_network_scored_alone(chains, data, candidates):
    names = ("ridge", "logme", "naswot", "params", "macs")
    settings = ProxySettings(also=names, num_draws=2, max_redrawn=None, batch_size=20)
    scored = {entry.candidate: entry.scores for entry in score(candidates, chains, data, settings, seed=3)}
    for candidate in candidates[::5]:
        draws = []
        for draw in range(2):
            found = features_one_by_one(candidate, chains, data, settings, AdapterSpec(), draw, seed=3)
            evidence = Evidence(candidate, data.labels, NUM_CLASSES, 3, *found)
            draws.append([PROXIES[name].score(evidence) for name in names])
        expected = {name: sum(values) / 2 for name, values in zip(names, zip(*draws, strict=True), strict=True)}
        assert scored[candidate] == expected


def test_costs_of_candidates_equal_the_count_of_the_assembled_networks(chains, candidates):
    for candidate in candidates[::3]:
        blueprint = blueprint_of(candidate, chains, AdapterSpec("linear", 1, "random"))
        network = assemble(blueprint, chains)
        whole = count(network, torch.zeros(1, *SIZES[candidate.blocks[0].network]))
        assert Costs(candidate.num_params, candidate.macs) == whole == assembled_costs(blueprint, chains)


def test_a_shared_prefix_runs_once_and_networks_keep_their_modes(chains, data, candidates, monkeypatch):
    runs = []
    original = PrefixTree.apply
    monkeypatch.setattr(
        PrefixTree, "apply", lambda self, module, output: runs.append(module) or original(self, module, output)
    )
    chains["plain"].network.train()
    before = {name: (digest(c.network), [m.training for m in c.network.modules()]) for name, c in chains.items()}
    score(candidates, chains, data, ProxySettings(num_draws=2, max_redrawn=None))
    after = {name: (digest(c.network), [m.training for m in c.network.modules()]) for name, c in chains.items()}
    chains["plain"].network.eval()
    assert after == before
    nodes = sum(len(chain) - 1 for chain in chains.values())  # whole and truncated networks share one run of each
    blocks = 3 + (3 + 6 * 2) + (6 + 18) * 2  # one output before the first adapter of a path, two behind it
    adapters = 6 * 2 + (6 + 12) * 2
    necks = 9 + 6 * 2 + (6 + 18) * 2  # of whole and truncated networks and of assemblies
    assert len(runs) == nodes + blocks + adapters + necks


def test_only_the_best_by_the_first_draw_are_drawn_again(chains, data, candidates):
    once = score(candidates, chains, data, ProxySettings(num_draws=1))
    every = {entry.candidate: entry for entry in score(candidates, chains, data, ProxySettings(max_redrawn=None))}
    best = [entry.candidate for entry in once if entry.candidate.kind == "assembly"][:4]
    scored = score(candidates, chains, data, ProxySettings(max_redrawn=4))
    first, rest = scored[: 4 + 9], scored[4 + 9 :]
    assert [entry for entry in first if entry.candidate.kind == "assembly"] == sorted(
        (every[candidate] for candidate in best), key=lambda entry: -entry.scores["ridge"]
    )
    assert {entry.num_draws for entry in first if entry.candidate.kind == "assembly"} == {3}
    assert [entry.scores["ridge"] for entry in first] == sorted((e.scores["ridge"] for e in first), reverse=True)
    assert rest == [entry for entry in once if entry.candidate.kind == "assembly"][4:]


def test_scores_are_the_same_again_and_change_with_the_seed(chains, data, candidates):
    some = candidates[:12]
    settings = ProxySettings(also=("logme", "random"), num_draws=1)
    first = score(some, chains, data, settings)
    assert score(list(reversed(some)), chains, data, settings) == first
    other = {entry.candidate: entry.scores for entry in score(some, chains, data, settings, seed=1)}
    for entry in first:
        same = entry.scores["logme"] == other[entry.candidate]["logme"]
        assert same == (entry.candidate.kind != "assembly")
        assert entry.scores["random"] != other[entry.candidate]["random"]


def test_adapter_seeds_are_stable_and_differ_in_every_ingredient():
    a, b = BlockSpec("a", (0, 3)), BlockSpec("b", (3, 5))
    assert adapter_seed(a, b, 1, 0, 0) == 1087928324434679
    others = [(b, a, 1, 0, 0), (a, b, 2, 0, 0), (a, b, 1, 1, 0), (a, b, 1, 0, 1), (a, BlockSpec("b", (3, 6)), 1, 0, 0)]
    assert len({adapter_seed(*key) for key in [(a, b, 1, 0, 0), *others]}) == 6


def test_candidates_are_sorted_best_first_with_ties_to_the_cheaper(chains, data, candidates):
    scored = score(candidates, chains, data, ProxySettings(name="macs"))
    assert [entry.candidate.macs for entry in scored] == sorted((c.macs for c in candidates), reverse=True)
    scored = score(candidates[:5], chains, data, ProxySettings(num_draws=1))
    assert [entry.scores["ridge"] for entry in scored] == sorted((e.scores["ridge"] for e in scored), reverse=True)


def test_controls_need_no_forward_pass(chains, candidates):
    def no_images(name):
        raise AssertionError("a control asked for images")

    data = ScoringData(no_images, torch.zeros(4), NUM_CLASSES)
    assert len(score(candidates, chains, data, ProxySettings(name="params", also=("macs", "random")))) == 39


def test_a_candidate_with_features_that_are_not_finite_is_last(chains, data, candidates, monkeypatch, caplog):
    broken = candidates[1]
    original = PrefixTree.apply

    def apply(self, module, output):
        out = original(self, module, output)
        bad = module is self.blocks.neck(end) and output.features.shape == broken_shape
        return PathOutput(out.features * math.nan) if bad else out

    end = walked_blocks(broken)[-1]
    broken_shape = chains[end.network].signal(end.nodes[1]).shape(NUM_IMAGES)
    monkeypatch.setattr(PrefixTree, "apply", apply)
    with caplog.at_level(logging.WARNING):
        scored = score(candidates[:3], chains, data, ProxySettings())
    assert scored[-1].candidate == broken
    assert scored[-1].scores["ridge"] == -math.inf
    assert "not finite" in caplog.text


def test_a_score_that_is_nan_is_the_worst(chains, data, candidates, monkeypatch, caplog):
    broken = candidates[1]
    costs = Proxy("costs", lambda e: math.nan if e.candidate == broken else e.candidate.macs, "nothing", False)
    monkeypatch.setitem(PROXIES, "costs", costs)
    scored = score(candidates[:5], chains, data, ProxySettings(name="costs"))
    assert [entry.candidate for entry in scored] == sorted(
        candidates[:5], key=lambda c: (c == broken, c.macs, c.num_params, c.composition)
    )
    assert scored[-1].scores["costs"] == math.inf
    assert f"{broken.composition}: its score by costs is NaN" in caplog.text


def test_equal_probe_images_are_warned_of(chains, data, candidates, caplog):
    twins = ScoringData(lambda name: data.images_for(name)[[0, 1, 1, 2]], torch.tensor([0, 1, 1, 2]), NUM_CLASSES)
    with caplog.at_level(logging.WARNING):
        scored = score(candidates[:3], chains, twins, ProxySettings(name="naswot"))
    assert "some are equal" in caplog.text
    assert all(math.isfinite(entry.scores["naswot"]) for entry in scored)


def test_the_table_of_candidates_is_written_as_csv(chains, data, candidates, tmp_path):
    scored = score(candidates[:4], chains, data, ProxySettings(also=("logme",)))
    write_candidates_csv(tmp_path / "candidates.csv", scored, picked=scored[1].candidate)
    with (tmp_path / "candidates.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [
        "rank",
        "composition",
        "kind",
        "num_blocks",
        "num_params",
        "macs",
        "num_draws",
        "picked",
        "predicted",
        "score_ridge",
        "score_logme",
    ]
    assert list(rows[0]) == names
    assert [row["picked"] for row in rows] == ["0", "1", "0", "0"]
    assert [float(row["score_ridge"]) for row in rows] == [entry.scores["ridge"] for entry in scored]
    assert rows[0]["composition"] == scored[0].candidate.composition


def test_ridge_on_all_cuts_scores_networks_in_closed_form_built_one_by_one(chains, data, candidates):
    settings = ProxySettings(name="ridge_cuts", also=("ridge", "params"), num_draws=2, max_redrawn=None)
    scored = {entry.candidate: entry for entry in score(candidates, chains, data, settings, AdapterSpec(kernel_size=3))}
    plain = {
        e.candidate: e.scores for e in score(candidates, chains, data, ProxySettings(num_draws=2, max_redrawn=None))
    }
    assert set(scored) == set(candidates)
    assert list(scored) == sorted(scored, key=lambda c: (-scored[c].scores["ridge_cuts"], c.macs, c.num_params))
    for candidate in candidates[::5]:
        spec = AdapterSpec("linear", 1, "closed_form")
        network = stitch(assemble(blueprint_of(candidate, chains, spec), chains), chains, data.images_for)
        x, pooled = data.images_for(candidate.blocks[0].network), []
        with torch.no_grad():
            for k, block in enumerate(candidate.blocks):
                x = network.blocks[k](x if k == 0 else network.adapters[k - 1](x))
                last = k == len(candidate.blocks) - 1
                pooled.append(network.neck(x) if last else pool(x, chains[block.network].signal(block.nodes[1])))
        fit = fit_ridge(torch.cat(pooled, 1), data.labels, NUM_CLASSES)
        (left_out,) = fit.leave_one_out(torch.cat(pooled, 1), data.labels)
        loss = nn.functional.cross_entropy(calibrate(left_out, data.labels) * left_out, data.labels)
        assert scored[candidate].scores["ridge_cuts"] == pytest.approx(-float(loss), rel=1e-4)
        assert scored[candidate].scores["ridge"] == plain[candidate]["ridge"]  # whatever leads


def test_paths_of_several_blocks_are_scored_with_the_cuts_of_their_networks(chains, data, candidates):
    cuts = {name: even_cuts(chain) for name, chain in chains.items()}
    whole = [c for c in candidates if c.kind == "network"]
    scorer = Scorer(chains, data, ProxySettings(name="ridge_cuts"))
    found = scorer.path_scores([joined(c.blocks) for c in whole], cuts)
    exact = {e.candidate: e.scores["ridge_cuts"] for e in scorer.scores(whole)}
    assert [found[joined(c.blocks)] for c in whole] == [exact[c] for c in whole]
    assert scorer.path_scores([joined(c.blocks) for c in whole]) != found


def test_truncations_at_every_node_run_their_network_once_and_score_as_built(chains, data, question, monkeypatch):
    def ending(block):
        return ending_costs(block, chains[block.network], NUM_CLASSES)

    def run_costs(block):
        return chains[block.network].block_costs(*block.nodes)

    def own_costs(before, block):
        return seam_costs(before, AdapterSpec("linear", 3, "identity"), block, chains)

    others = list(single_network_candidates(question.table, run_costs, ending, own_costs))
    ends = {(c.blocks[0].network, c.blocks[-1].nodes[1]) for c in [*question.unmixed(), *others]}
    assert ends == {(name, cut) for name, chain in chains.items() for cut in range(1, len(chain))}
    runs = []
    original = PrefixTree.apply
    monkeypatch.setattr(PrefixTree, "apply", lambda self, *given: runs.append(given[0]) or original(self, *given))
    settings = ProxySettings(also=("params",))
    scored = {entry.candidate: entry for entry in score([*question.unmixed(), *others], chains, data, settings)}
    assert sum(not isinstance(module, MeanPool) for module in runs) == len(ends) + len(chains)  # nodes and own necks
    for candidate in others:
        pieces = candidate.pieces
        specs = (AdapterSpec("linear", 3, "identity"),) * (len(pieces) - 1)
        names = {block.network: digest(chains[block.network].network) for block in pieces}
        network = assemble(ReassemblyBlueprint(pieces, specs, HeadSpec(num_classes=NUM_CLASSES), names), chains)
        costs = count(network, torch.zeros(1, *SIZES[pieces[0].network]))
        assert (costs.num_params, costs.macs) == (candidate.num_params, candidate.macs)
        assert candidate.is_adapted == (len(pieces) > 1)
        network.blocks.to(memory_format=torch.channels_last)
        with torch.no_grad():
            features = in_series(network.stages(), data.images_for(pieces[0].network))
        scores = scored[candidate].scores
        assert scores["ridge"] == pytest.approx(ridge_score(features, data.labels, NUM_CLASSES), abs=1e-9)
        assert scores["params"] == candidate.num_params
