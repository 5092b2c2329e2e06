"""What a proxy sees of a candidate, and what it must say of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from reassembly.assembly import Candidate


@dataclass(frozen=True)
class Evidence:
    """One untuned candidate on the probe images, for one draw of its random adapters.

    Attributes:
        candidate: Its blocks and costs.
        labels: (n,) int64.
        num_classes: C.
        seed: Of the search.
        features: (n, d) float32, pooled as the head would get them; only for proxies that need ``features``.
        cut_features: (n, D) float32, pooled behind every block, the last ones as ``features``; only for proxies
            ``on_all_cuts``.
        code_kernel: (b, b) float64, how many activation units agree between two images of the first batch, summed over
            the path; only for proxies that need ``codes``.
        outputs: (n, Z) float32, what the network's own classifier gives; only for proxies that need ``outputs``, and
            only of whole networks.
    """

    candidate: Candidate
    labels: Tensor
    num_classes: int
    seed: int
    features: Tensor | None = None
    code_kernel: Tensor | None = None
    outputs: Tensor | None = None
    cut_features: Tensor | None = None


@dataclass(frozen=True)
class Proxy:
    """A score of untuned candidates that is to rank them as tuning would.

    Attributes:
        name: Of the column in the table of candidates.
        score: Pure function of the evidence; scores are averaged over the draws of the adapters.
        cost: What one score costs, in one line.
        label: What the score is, as the label of an axis; a share in [0, 1] ends with ``, %``.
        is_control: It knows nothing of the task: a yardstick in tables, never told as a result.
        higher_is_better: Which end of the scores is picked.
        needs: Of ``features``, ``codes`` and ``outputs``; what nobody needs is not computed. Who needs outputs scores
            whole networks only.
        on_all_cuts: It looks at the features behind every block, and is scored behind 1x1 adapters in closed form,
            whatever adapters the others are scored behind: random ones tell it nothing.
        leaves_one_out: It answers for an image by the others of its class, of which there have to be some.
    """

    name: str
    score: Callable[[Evidence], float]
    cost: str
    higher_is_better: bool = True
    needs: frozenset[Literal["features", "codes", "outputs"]] = field(default_factory=frozenset)
    label: str = ""
    is_control: bool = False
    on_all_cuts: bool = False
    leaves_one_out: bool = False
