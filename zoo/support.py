"""What holds for the chains of published architectures: the checks, and the page of the docs."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from zoo.architectures import Architecture
from zoo.chain import Chain, Signal
from zoo.chain.costs import count
from zoo.chain.modes import eval_mode
from zoo.entries import ZooEntry
from zoo.errors import FOREIGN_FAULTS, UserError
from zoo.loading import load_network
from zoo.registry import published_input
from zoo.stitching.adapters import Adapter, adapter_costs

DROP = {"drop_rate": 0.1, "drop_path_rate": 0.1}
AUXILIARY = ("aux", "AuxLogits")
"""How torchvision names its auxiliary classifiers."""

STRANGERS = (Signal("NCHW", 24, (9, 5)), Signal("NHWC", 20, (3, 7)), Signal("NLC", 16, (5, 4), 2))
"""Signals of no network, with odd grids and every layout, to which adapters are tried."""


@dataclass(frozen=True)
class Support:
    """What was found of an architecture.

    Attributes:
        num_nodes: Nodes of the chain, stem and head included; 0 if refused.
        num_blocks: Nodes between stem and head.
        layouts: Of the signals, in their order.
        equal_in_eval: Blocks in a row give the network's output bit for bit.
        equal_in_training: Likewise with dropout and batch statistics, which change alike.
        other_size: ``exact`` at another image size too, ``differs``, or ``fixed`` where the network itself refuses one.
        adapters_fit: Every cut can be reached from, and leads to, signals of every layout with odd grids.
        costs_exact: Nodes add up to what is counted on the whole, and the neck costs what it does by itself.
        seconds: Processor time of slicing.
        refusal: Why it is no chain, else empty.
    """

    num_nodes: int = 0
    num_blocks: int = 0
    layouts: str = ""
    equal_in_eval: bool = False
    equal_in_training: bool = False
    other_size: str = ""
    adapters_fit: bool = False
    costs_exact: bool = False
    seconds: float = 0.0
    refusal: str = ""

    @property
    def holds(self) -> bool:
        """Whether all that is claimed of a chain is true."""
        checks = (self.equal_in_eval, self.equal_in_training, self.adapters_fit, self.costs_exact)
        return all(checks) and self.other_size != "differs"


def examine(architecture: Architecture) -> Support:
    """Build it with random weights, slice it and check everything the table says."""
    network, size = _build(architecture)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    started = time.process_time()
    try:
        chain = Chain.from_network(network, images[:1], name=architecture.model)
    except UserError as error:
        return Support(refusal=str(error), seconds=time.process_time() - started)
    seconds = time.process_time() - started
    return Support(
        num_nodes=len(chain),
        num_blocks=len(chain) - 2,
        layouts=" > ".join(layout for layout, _ in groupby(node.input.layout for node in chain.nodes)),
        equal_in_eval=_is_equal(chain, images),
        equal_in_training=_trains_alike(chain, images),
        other_size=_at_another_size(chain, size),
        adapters_fit=all(_adapters_fit(chain, index, images) for index in range(1, len(chain) - 1)),
        costs_exact=chain.costs == count(network, images[:1]) and _counts_its_neck(chain),
        seconds=seconds,
    )


def _build(architecture: Architecture) -> tuple[nn.Module, int]:
    """The network with as much of dropout and drop path as its builder takes, and the side of its images."""
    spec = published_input(architecture.source, architecture.model, architecture.kwargs)
    for drop in (DROP, {"drop_path_rate": 0.1}, {"drop_rate": 0.1}, {"dropout": 0.1}, {}):
        kwargs = {**drop, **architecture.kwargs}
        entry = ZooEntry(architecture.model, architecture.source, spec, model=architecture.model, kwargs=kwargs)
        try:
            return load_network(entry), architecture.size or spec.height
        except UserError:
            if not drop:
                raise
    raise AssertionError("the last attempt has no drop")


def _run(chain: Chain, x: Tensor) -> Tensor:
    for index in range(len(chain)):
        x = chain.block(index, index + 1)(x)
    return x


def _counts_its_neck(chain: Chain) -> bool:
    found = chain.neck_costs  # asked for first, as a search does
    return found == count(chain.neck(), torch.empty(chain.signal(len(chain) - 1).shape(1)))


@torch.no_grad()
def _is_equal(chain: Chain, images: Tensor) -> bool:
    with eval_mode(chain.network):
        return torch.equal(_run(chain, images), chain.network(images))


@torch.no_grad()
def _trains_alike(chain: Chain, images: Tensor) -> bool:
    """Outputs and batch statistics after one forward in training mode; the network is as before afterwards.

    Of a network with auxiliary classifiers the chain is the main path, so theirs do not count.
    """
    before = copy.deepcopy(chain.network.state_dict())
    chain.network.train()
    outputs, states = [], []
    for forward in (chain.network, lambda x: _run(chain, x)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            output = forward(images)
        outputs.append(output if isinstance(output, Tensor) else output[0])
        states.append(copy.deepcopy(chain.network.state_dict()))
        chain.network.load_state_dict(before)
    chain.network.eval()
    keys = [key for key in before if not key.startswith(AUXILIARY)]
    return torch.equal(*outputs) and all(torch.equal(states[0][key], states[1][key]) for key in keys)


def _at_another_size(chain: Chain, size: int) -> str:
    images = torch.randn(1, 3, size + 64, size + 64, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), eval_mode(chain.network):
            chain.network(images)
    except FOREIGN_FAULTS:
        return "fixed"
    return "exact" if _is_equal(chain, images) else "differs"


@torch.no_grad()
def _adapters_fit(chain: Chain, index: int, images: Tensor) -> bool:
    """Whether the block at ``index`` runs behind an adapter, and another adapter behind it, at the counted cost."""
    stranger = STRANGERS[index % len(STRANGERS)]
    block = chain.block(index, index + 1).eval()
    inward, outward = (
        Adapter(source, target).eval()
        for source, target in ((stranger, chain.signal(index)), (chain.signal(index + 1), stranger))
    )
    x = torch.randn(stranger.shape(len(images)), generator=torch.Generator().manual_seed(0))
    y = block(inward(x))
    fits = y.shape == chain.signal(index + 1).shape(len(images)) and outward(y).shape == x.shape
    return fits and all(
        adapter_costs(a.source, a.target) == count(a, torch.empty(a.source.shape(1))) for a in (inward, outward)
    )


_PAGE = """\
# Supported networks

Written by `python -m zoo support --output docs/support.md`. Each row is a test: the quick ones in every run, the others
with `pytest -m large`. Chains are derived, for any network; no code reads this table.

{num_sliced} of {num_found} architectures become chains; {num_holding} of them pass every check. {num_short} have fewer
than three nodes between stem and head, too few for three blocks.

- **nodes**: between stem and head. **layouts**: of the signals, in order.
- **eval**, **train**: blocks in a row give the network's output bit for bit; in training mode with dropout and drop
  path at the same seed, batch statistics included.
- **other size**: `exact` with images of 64 pixels more, or `fixed` where the network itself refuses them.
- **adapters**: to and from odd grids in every layout. **costs**: parameters and MACs of the nodes add up to those of
  the network, exactly. **seconds**: processor time of slicing.

| network | nodes | layouts | eval | train | other size | adapters | costs | seconds |
|-|-|-|-|-|-|-|-|-|
{rows}

## Refused

{refused}
"""


def support_page(found: Sequence[tuple[Architecture, Support]]) -> str:
    """The page of the docs, in Markdown: totals, one row for each chain, refusals with their reasons."""
    sliced = [(architecture, support) for architecture, support in found if not support.refusal]
    refused = [f"- `{_title(architecture)}`: {s.refusal}" for architecture, s in found if s.refusal]
    return _PAGE.format(
        num_found=len(found),
        num_sliced=len(sliced),
        num_holding=sum(support.holds for _, support in sliced),
        num_short=sum(support.num_blocks < 3 for _, support in sliced),
        rows="\n".join(_row(*pair) for pair in sliced),
        refused="\n".join(refused) or "None.",
    )


def _title(architecture: Architecture) -> str:
    prefix = "torchvision " if architecture.source == "torchvision" else ""
    return prefix + architecture.name


def _row(architecture: Architecture, support: Support) -> str:
    checks = (support.equal_in_eval, support.equal_in_training, support.adapters_fit, support.costs_exact)
    in_eval, in_training, adapters, costs = ("yes" if ok else "**no**" for ok in checks)
    cells = [_title(architecture), support.num_blocks, support.layouts, in_eval, in_training, support.other_size]
    return f"| {' | '.join(map(str, cells))} | {adapters} | {costs} | {support.seconds:.1f} |"
