"""Which seams are worth a score, by the similarity of nodes alone: no block is run for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from reassembly.features import NetworkFeatures, feature_indices
from reassembly.settings import SearchSettings
from reassembly.similarity.probe import divergences
from zoo.blueprint import BlockSpec

Shortlist = Mapping[tuple[int, str], frozenset[str]]
"""By stage and network of the block before a seam: the networks of the blocks behind that are scored."""


def seam_shortlist(
    blocks: Sequence[Sequence[BlockSpec]],
    networks: Sequence[NetworkFeatures],
    similarity: Tensor,
    settings: SearchSettings,
) -> Shortlist | None:
    """For every block the few of the next stage whose home gives them what is most like what it gives.

    By ``probe_kl`` a seam is as good as KL(from, to) / KL(to, its next) is small, ``to`` being the node in front of the
    block at home and ``next`` the block's first own node: leaving the answers as they are counts for more where the
    block itself changes them little. By other measures, as s(from, to) is large.

    Args:
        blocks: K rows of N references.
        networks: In the order in which the similarity has their nodes.
        similarity: ``(M, M)``.
        settings: How many blocks behind every block, beside its own network's (``proxy.max_seams_per_block``; None
            makes no list), and which measure it is.
    """
    most, measure = settings.proxy.max_seams_per_block, settings.similarity.measure
    if most is None:
        return None
    rows = dict(zip((n.description.name for n in networks), feature_indices(networks), strict=True))
    found: dict[tuple[int, str], frozenset[str]] = {}
    for stage in range(len(blocks) - 1):
        before = [rows[block.network][block.nodes[1] - 1] for block in blocks[stage]]
        at_home = [rows[block.network][block.nodes[0] - 1] for block in blocks[stage + 1]]
        values = similarity[before][:, at_home]
        if measure == "probe_kl":
            inside = [rows[block.network][block.nodes[0]] for block in blocks[stage + 1]]
            own = divergences(similarity[at_home, inside]).clamp_min(1e-6)
            values = -divergences(values) / own
        names = [block.network for block in blocks[stage + 1]]
        values = values.nan_to_num(-torch.inf).masked_fill(torch.eye(len(names), dtype=torch.bool), -torch.inf)
        order = values.argsort(dim=1, descending=True, stable=True)[:, : min(most, len(names) - 1)]
        for name, row in zip(names, order.tolist(), strict=True):
            found[stage, name] = frozenset(names[i] for i in row)
    return found
