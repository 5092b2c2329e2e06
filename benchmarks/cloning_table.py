"""The rows of ``benchmarks.cloning``, kept as JSON, and their table."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.storage.files import read_json, write_json, write_text
from zoo.storage.records import to_plain

Strengths = dict[str, float]
Key = tuple[str, int, str, int]

NAMES = {
    "cloning": "**partial network cloning**",
    "cloning_none": "control: all gates open",
    "cloning_random": "control: as many gates at random",
    "cloning_statistics": "**cloning, statistics of all owners**",
    "full_cloning": "PNC-F (everything tuned)",
    "concatenated": "whole networks side by side, head solved",
    "ensemble_softmax": "ensemble, softmax",
    "ensemble_logits": "ensemble, logits",
    "ensemble_calibrated": "ensemble, calibrated",
    "ranpac": "RanPAC",
    "lwf_sources": "LwF, sources distilled too",
    "ewc_sources": "EWC, sources distilled",
    "fine_tune_sources": "fine-tuning, sources distilled",
    "lwf": "LwF",
    "ewc": "EWC",
    "fine_tune": "fine-tuning",
    "joint": "joint training (upper bound)",
}
AUGMENTED = "_augmented"
HEADING = """# Cloning against its rivals

`python -m benchmarks.cloning{option}`: test accuracy in percent averaged over classes, mean and standard deviation over
the seeds. All ways have the same images and epochs, and {copies}; cloning runs with its other defaults,
the strengths of the other ways are the best of three on the validation split, for every seed.

- Difference: cloning minus that way over the seeds that both have, with the 95 % interval of paired differences.
- Added: what runs beside the target's own network. Bytes: what travels to someone who has the zoo. Seconds: wall time
  on one thread of a shared machine, of one run with its searches.
- *Statistics* and RanPAC have sums over all training images of the target's classes, joint training has all images, a
  calibrated ensemble two numbers a network that are fitted on validation images. Exemplars play no part in them: they
  stand in the tables without exemplars alone.
- Gates, shares and the rules of choice were made on validation images of the embedded zoo, seeds 3 to 6, and the gates
  of the strict mode on those of the first scenario, seeds 2 to 4; weight and penalty of the teacher of F_c on those of
  the embedded zoo, seeds 3 to 8, and of five other scenarios, seeds 5 to 7; how features are selected on those of the
  embedded zoo and of both scenarios of one source and two families, seeds 3 to 6. No test image played a part.
- PNC-F is of clones that were found before modules handed on selected features, with three sources from before F_c read
  the target at cuts and had a teacher, too. Rows of three sources were run on two machines."""

_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Row:
    """One way in one scenario with one seed; accuracies in [0, 1] on the test split.

    Attributes:
        strengths: Of the try that was chosen.
        composition: Of cloning: who gives what at which position.
        tried: Mean validation accuracy of every try.
        num_bytes: Learnt values that travel to someone who has the zoo, in float32, the bits of the gates, and sums.
        seconds: Of the try that was chosen, from its images to its weights.
        added_macs: MACs an image beside the target's own network.
        added_params: Parameters that run, likewise.
    """

    scenario: str
    exemplars: int
    method: str
    seed: int
    strengths: Strengths
    composition: str
    tried: tuple[float, ...]
    original: float
    cloned: float
    mean: float
    num_bytes: int
    seconds: float
    added_macs: int | None = None
    added_params: int | None = None

    @property
    def key(self) -> Key:
        """One row a way, scenario, number of exemplars and seed."""
        return self.scenario, self.exemplars, self.method, self.seed


def read_rows(path: Path) -> dict[Key, Row]:
    """The rows of earlier runs."""
    file = path.with_suffix(".json")
    rows = [Row(**{**row, "tried": tuple(row["tried"])}) for row in read_json(file)["rows"]] if file.exists() else []
    return {row.key: row for row in rows}


def write_rows(path: Path, rows: Mapping[Key, Row], methods: Sequence[str]) -> None:
    """The rows as JSON, and their tables."""
    write_json(path.with_suffix(".json"), {"rows": to_plain(list(rows.values()))})
    said = {"option": "", "copies": "no distorted copies (`correction.num_copies=0`)"}
    if path.name.endswith(AUGMENTED):
        said = {"option": " --augmentation affine", "copies": "the same four distorted copies of each image"}
    write_text(path.with_suffix(".md"), "\n".join([HEADING.format(**said), *table(list(rows.values()), methods), ""]))


def table(rows: Sequence[Row], methods: Sequence[str]) -> Iterator[str]:
    """Markdown, one table per scenario and number of exemplars."""
    for scenario, exemplars in dict.fromkeys((row.scenario, row.exemplars) for row in rows):
        here = [row for row in rows if (row.scenario, row.exemplars) == (scenario, exemplars)]
        own = {row.seed: row.mean for row in here if row.method == "cloning"}
        yield from ("", f"## {scenario}, {exemplars or 'no'} exemplars", "")
        yield "| | original | cloned | mean | difference | seeds | added MACs | added parameters | bytes | seconds |"
        yield "|---" * 10 + "|"
        for method in methods:
            of = [row for row in here if row.method == method]
            of = [row for row in of if row.added_macs is not None] or of
            if not of:
                continue
            cells = [_percent([getattr(row, key) for row in of]) for key in ("original", "cloned", "mean")]
            others = [row for row in of if row.seed in own and row.added_macs is not None and method != "cloning"]
            pairs = [100 * (own[row.seed] - row.mean) for row in others]
            added = [_mean([getattr(row, key) for row in of]) for key in ("added_macs", "added_params", "num_bytes")]
            seconds = statistics.fmean(row.seconds for row in of)
            cells += [_interval(pairs), str(len(of)), *added, f"{seconds:.1f}"]
            yield f"| {NAMES[method]} | {' | '.join(cells)} |"


def _interval(pairs: Sequence[float]) -> str:
    """Mean and half the width of the 95 % interval of paired differences."""
    if len(pairs) < 2:
        return f"{pairs[0]:+.1f}" if pairs else ""
    half = _T95[min(len(pairs) - 2, len(_T95) - 1)] * statistics.stdev(pairs) / len(pairs) ** 0.5
    return f"{statistics.fmean(pairs):+.1f} ± {half:.1f}"


def _mean(values: Sequence[int | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):,.0f}" if known else "-"


def _percent(values: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.pstdev(values):.1f}"


def line(row: Row) -> str:
    """Of the log."""
    tried = ", ".join(f"{100 * value:.1f}" for value in row.tried)
    figures = " / ".join(f"{100 * value:.1f}" for value in (row.original, row.cloned, row.mean))
    chosen = row.composition or row.strengths or ""
    return f"{row.scenario} k={row.exemplars} seed {row.seed} {row.method}: {figures} {chosen} of {tried}"
