"""Elastic weight consolidation: fine-tuning whose weights are held where the old classes need them.

Source: Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks (arXiv 1612.00796), equation 3:
loss = cross-entropy + strength / 2 * sum_i F_i (theta_i - theta*_i)^2, with F the diagonal Fisher information of the
target, its labels drawn from the target's own predictions.

The Fisher information is read off the target's own training images even where no exemplar is given, as if it had
travelled with the target: an advantage for this rival. The rows of new classes are free.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from cloning.rivals.distillation import taught_by_sources
from cloning.rivals.problem import CloningProblem
from cloning.rivals.training import ExpandedNetwork, RivalSettings, train

MAX_IMAGES = 256
_CHUNK = 32


def ewc(problem: CloningProblem, settings: RivalSettings, *, seed: int, with_sources: bool = False) -> nn.Module:
    """Fine-tunes on the correction samples under the penalty of strength ``settings.strength``.

    ``with_sources`` also distils the classes of the sources.
    """
    others = taught_by_sources(problem, settings) if with_sources else None
    network = ExpandedNetwork(problem, seed=seed)
    start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    information = fisher(network, problem.kept_outputs, original_images(problem, seed=seed), seed=seed)

    def penalty(batch: Tensor, logits: Tensor) -> Tensor:
        moved = [
            (information[name] * (value - start[name]).square()).sum() for name, value in network.named_parameters()
        ]
        own = settings.strength / 2 * torch.stack(moved).sum()
        return own if others is None else own + others(batch, logits)

    return train(network, problem.correction, settings, seed=seed, penalty=penalty)


def original_images(problem: CloningProblem, *, seed: int) -> Tensor:
    """At most ``MAX_IMAGES`` training images of the target's classes, drawn at random."""
    images = problem.complete.of(problem.kept_outputs).images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[:MAX_IMAGES]]


def fisher(network: nn.Module, outputs: list[int], images: Tensor, *, seed: int) -> dict[str, Tensor]:
    """Diagonal Fisher information: the mean squared gradient of log p(y | x), y drawn from p.

    Args:
        network: From images to logits.
        outputs: Those that p is the softmax of.
        images: (n, C, H, W).
        seed: Of the labels.

    Returns:
        By name of the parameter, of its shape.
    """
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    generator = torch.Generator().manual_seed(seed)

    def log_likelihood(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(network, values, (image[None],))[:, outputs]
        return -F.cross_entropy(logits, label[None])

    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for part in images.split(_CHUNK):
        with torch.no_grad():
            labels = torch.multinomial(network(part)[:, outputs].softmax(1), 1, generator=generator)[:, 0]
        gradients = vmap(grad(log_likelihood), in_dims=(None, 0, 0))(parameters, part, labels)
        for name, values in gradients.items():
            total[name] += values.square().sum(0)
    return {name: value / len(images) for name, value in total.items()}
