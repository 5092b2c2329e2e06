"""What the log says of a choice: what was inserted where and why, and what is left to learn."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cloning.choice import Combination, PositionResult
from cloning.clone import Clone
from cloning.settings import CorrectionSettings, InsertionSettings
from datamodules.correction import CorrectionData

log = logging.getLogger(__name__)


def tell_data(data: CorrectionData) -> None:
    """Says which images play no part, and warns of those that the correction or the validation split lacks."""
    if data.left_out:
        names = ", ".join(data.left_out)
        log.info("%s: images of %s are left out: the network has no output for them", data.name, names)
    if data.lacking:
        more = f"; so with {len(data.lacking) - 1} more classes" if data.lacking[1:] else ""
        log.warning("%s: %s: what there is, at least one, is taken%s", data.name, data.lacking[0], more)
    if missing := data.missing("val"):
        log.warning(
            "%s: the validation split has no image of the classes %s: they play no part in what is chosen, and in the "
            "accuracies there; type a larger dataset.num_validation",
            *(data.name, ", ".join(missing)),
        )


def tell_insertion(
    clone: Clone,
    row: PositionResult,
    tried: Sequence[PositionResult],
    settings: InsertionSettings,
    *,
    is_bound: bool,
    is_together: bool,
) -> None:
    """Says what was inserted where, why there, and what is known afterwards."""
    place = "at the image (position 0)" if row.position == 0 else f"at position {row.position} of the target"
    least = min(other.loss for other in tried)
    if is_together:
        why = "for what it makes with the others; "
        why += f"alone its loss is {row.loss:.4f} (least of {len(tried)} tries: {least:.4f})"
    elif settings.name == "fixed":
        why = f"as insertion.position says, loss {row.loss:.4f}"
    elif row.loss <= least:
        why = f"the least loss of {len(tried)} tries, {row.loss:.4f}"
    elif is_bound:
        why = f"what the budget of all clones leaves, loss {row.loss:.4f} (least of {len(tried)} tries: {least:.4f})"
    else:
        why = f"the cheapest of {len(tried)} tries whose loss, {row.loss:.4f}, is near the least, {least:.4f}"
        why += ", and local" if row.is_local and row.sim_other is not None else ""
    known = [
        f"{100 * accuracy:.1f} % on the {whose} classes"
        for accuracy, whose in ((row.val_original, "target's"), (row.val_cloned, "cloned"))
        if accuracy is not None
    ]
    whole = clone.source.chain.costs
    kept = "whole" if clone.gates.all() else f"{row.share}, {int(clone.gates.sum()):,} of {len(clone.gates):,} units"
    if clone.selected is not None:
        kept += f", {clone.num_features:,} of {clone.source.num_features:,} features"
    other = "" if row.sim_other is None else f", other classes {row.sim_other:.2f}"
    log.info(
        "inserted %s (%s; %s) %s: %s; adds %s MACs (%.0f %% of its own), %s parameters; "
        "alike its source: cloned classes %.2f%s; validation accuracy %s",
        *(clone.source.name, ", ".join(clone.classes), kept, place, why),
        *(f"{row.added_macs:,}", 100 * row.added_macs / max(1, whole.macs), f"{row.added_params:,}"),
        *(row.sim_cloned, other, ", ".join(known) or "not measured"),
    )


def tell_added(
    clones: Sequence[Clone],
    chosen: Sequence[PositionResult],
    together: Sequence[Combination],
    correction: CorrectionSettings,
    head_cuts: Sequence[int],
) -> None:
    """Says what all clones add and reach together, what the head reads, and what is left to learn."""
    macs, whole = sum(row.added_macs for row in chosen), sum(clone.source.chain.costs.macs for clone in clones)
    num_adapters = sum(row.position > 0 for row in chosen)
    learnt = "the head is solved, nothing is trained" if not num_adapters else "trained, and the head with them"
    if correction.name == "statistics":
        learnt = "the head is solved from the owners' sums, which the losses above do not know; nothing is trained"
    elif not correction.exemplars:
        learnt = "closed form, two numbers a network fitted on validation images, nothing else is learnt"
    reached = next((found for found in together if found.rows == tuple(chosen)), None)
    if reached is not None:
        log.info(
            "chosen of %d combinations: together validation loss %.4f, accuracy %.1f %% (mean of "
            "original and cloned classes)",
            *(len(together), reached.loss, 100 * reached.accuracy),
        )
    log.info(
        "the clones add %s MACs, %.0f %% of the whole sources'; %s adapter%s: %s%s",
        *(f"{macs:,}", 100 * macs / max(1, whole), num_adapters or "no", "" if num_adapters == 1 else "s", learnt),
        f"; it reads the target at {len(head_cuts)} cuts, too" if head_cuts else "",
    )
