"""What the server counts, in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Histogram:
    """Counts of values up to some bounds, their number and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total, self.sum = bounds, [0] * len(bounds), 0, 0.0

    def add(self, value: float) -> None:
        self.total += 1
        self.sum += value
        for k, bound in enumerate(self.bounds):
            self.counts[k] += value <= bound

    def lines(self, name: str) -> Iterator[str]:
        yield f"# TYPE {name} histogram"
        for bound, count in zip(self.bounds, self.counts, strict=True):
            yield f'{name}_bucket{{le="{bound}"}} {count}'
        yield f'{name}_bucket{{le="+Inf"}} {self.total}'
        yield f"{name}_sum {self.sum}"
        yield f"{name}_count {self.total}"


class Metrics:
    """Counters since the start.

    Attributes:
        requests: By status.
        images: Answered.
        changes: Clones added, replaced, removed, refused.
        seconds: From a request's arrival to its answer, of predictions.
        batch_sizes: Images that ran at once.
    """

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        self.changes: Counter[str] = Counter()
        self.images = 0
        self.seconds, self.batch_sizes = Histogram(SECONDS), Histogram(BATCH_SIZES)

    def text(self, gauges: Mapping[str, float]) -> str:
        """All of it, and values of the moment by name."""
        lines = ["# TYPE huozi_requests_total counter"]
        lines += [f'huozi_requests_total{{status="{s}"}} {n}' for s, n in sorted(self.requests.items())]
        lines += ["# TYPE huozi_changes_total counter"]
        lines += [f'huozi_changes_total{{kind="{kind}"}} {n}' for kind, n in sorted(self.changes.items())]
        lines += ["# TYPE huozi_images_total counter", f"huozi_images_total {self.images}"]
        lines += [*self.seconds.lines("huozi_prediction_seconds"), *self.batch_sizes.lines("huozi_batch_images")]
        for name, value in gauges.items():
            lines += [f"# TYPE huozi_{name} gauge", f"huozi_{name} {value}"]
        return "\n".join([*lines, ""])
