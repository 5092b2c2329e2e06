"""Representation similarity of network nodes on the same probe images, one pure function per measure.

Every measure takes the pooled features of M nodes, a sequence of ``(n, d_m)`` float32 tensors on the same n probe
images, and returns the ``(M, M)`` float64 matrix of their similarities. A node whose features do not vary with the
image (a dead node) has similarity 0 to every node, itself included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from reassembly.similarity.checks import NodeError
from zoo.errors import UserError
from zoo.lazy import Registry

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SIMILARITIES", "similarity_matrix"]

SIMILARITIES: Registry[Callable[..., Tensor]] = Registry(
    linear_cka="reassembly.similarity.cka:linear_cka",
    rbf_cka="reassembly.similarity.cka:rbf_cka",
    regression="reassembly.similarity.subspace:linear_regression",
    svcca="reassembly.similarity.subspace:svcca",
    probe_kl="reassembly.similarity.probe:probe_kl",
)


def similarity_matrix(
    features: Sequence[Tensor], measure: str = "linear_cka", *, names: Sequence[str] | None = None, **settings
) -> Tensor:
    """Similarity of all pairs of M nodes by the measure of that name.

    Args:
        features: M tensors ``(n, d_m)`` on the same n probe images.
        measure: A key of ``SIMILARITIES``.
        names: Of the M nodes, for messages.
        **settings: Keyword arguments of that measure.

    Returns:
        ``(M, M)`` float64 on the CPU; row = block's node, column = centre's node (``regression`` and
        ``probe_kl`` are asymmetric).

    Raises:
        UserError: Unknown measure, features that are not finite, or too few probe images for the measure.
    """
    if measure not in SIMILARITIES:
        raise UserError(f"unknown similarity {measure!r}: choose similarity.measure={' | '.join(SIMILARITIES)}")
    try:
        return SIMILARITIES[measure](features, **settings)
    except NodeError as error:
        raise (NodeError(error.index, error.fault, names[error.index]) if names else error) from None
