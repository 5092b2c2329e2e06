"""Gates fitted by gradient descent, so that the module serves its classes where it is grafted.

With m the gates, c their shares of the MACs, M(x; m) the masked source, G the local linear models of the source M(x),
pi the proximities of the neighbours x_k = b_k x, cos the cosine of logits about their mean, and z the logits of the
target with all sources whole at its image:

    min_(a, F_c)  E[pi_k (0.3 |M(x_k; m) - G(b_k)|^2 / Var(G) + 1 - cos(M(x_k; m), G(b_k)))]
                  + E[T^2 KL(z(m, F_c) || z) + CE(z(m, F_c), label)]
                  + 10 r_t relu(c m - keep)  +  0.03 mean m
    m = sigmoid(tau_t a)

The second line is what the module is for: with gates m, and a head F_c that is trained with them, the cloned network is
to say what it says with whole sources. Without samples of the target's classes there is none; in its place the first
line counts on images of no class, too (``strange_images``): a module that is grafted sees images that it was not cloned
for, and where its source rejects them so should it.

The temperature tau_t rises from 1 to 5 and the weight r_t of the cost from 0 to 1 over a first stage, at a share half
way to the largest one asked for, whose gates are not used: they are the worst fitted. The shares go on from there, one
stage each: a stays within [-1, 1] and the optimiser begins anew, else settled gates would not move any more. In the
last two fifths of a stage the gates are cut on the way forward as they will be at its end, for it is hard gates that
remain: soft ones may fit well where their cut is at chance. The learning rate falls to 0 meanwhile, so that the last
steps do not flip gates any more.

Differs from the paper: the second and third line.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cloning.evidence import Graft, SourceEvidence
from cloning.gates import gated, hard_gates, num_gates
from cloning.head import DISTILLATION_TEMPERATURE, NEARLY_SOLVED, class_weights, solve_head
from cloning.measures import centred_cosine
from cloning.neighbourhoods import Neighbourhoods, draw_neighbourhoods, fit_surrogates, surrogate_outputs
from cloning.samples import BATCH_SIZE
from cloning.settings import Share
from zoo.chain.batches import run_in_batches
from zoo.conversion import convert

FINAL_TEMPERATURE = 5.0
MOST_LOGIT = 1.0
BETAS = (0.9, 0.98)
"""Of Adam: a stage is a hundred steps."""

SQUARES_WEIGHT = 0.3
DENSITY_WEIGHT = 10.0
SPARSITY_WEIGHT = 0.03
ROUNDED_FROM = 0.6
INSIDE = 0.4
"""Share of a batch that is of cloned classes where nothing is known of the target."""

LEAST_INSIDE = 0.25
HEAD_LEARNING_RATE = 3e-3


def fitted_scores(evidence: SourceEvidence, generator: torch.Generator) -> list[Tensor]:
    """The gates' logits (n,) of every try, by the module's docstring; ``direct`` takes the source itself for G."""
    network, sites, settings = evidence.network, evidence.sites, evidence.settings
    device = evidence.images.device
    shares = evidence.shares.to(device)
    pool = _Pool(evidence, generator)
    use = None if pool.graft is None else _Use(pool, pool.graft)
    num_steps = settings.num_steps if use is None else 2 * settings.num_steps  # there is a head to be trained along
    logits = (2 + 0.01 * torch.randn(num_gates(sites), generator=generator)).clamp(-MOST_LOGIT, MOST_LOGIT)
    logits = logits.to(device).requires_grad_()
    found = []
    for stage, share in enumerate((Share((1 + evidence.tries[0].keep) / 2), *evidence.tries)):
        optimizer = torch.optim.Adam([logits], lr=settings.learning_rate, betas=BETAS)
        for step in range(num_steps):
            progress = step / max(1, num_steps - 1)
            heat = progress if stage == 0 else 1.0
            index = pool.draw(settings.batch_size, generator)
            optimizer.param_groups[0]["lr"] = settings.learning_rate * min(1.0, (1 - progress) / (1 - ROUNDED_FROM))
            soft = torch.sigmoid((1 + (FINAL_TEMPERATURE - 1) * heat) * logits)
            gates = soft
            if progress >= ROUNDED_FROM:
                hard = hard_gates(
                    logits.detach().cpu(), sites, share.keep, settings.min_per_layer, evidence.shares, above=0
                )
                gates = hard.to(device) + soft - soft.detach()
            with gated(network, sites, gates):
                outputs, features = pool.run(index)
            inside = pool.is_inside[index]
            wanted, proximity = pool.wanted[index], pool.proximity[index]
            alike = centred_cosine(outputs, wanted)
            loss = (
                SQUARES_WEIGHT * module_loss(outputs[inside], wanted[inside], proximity[inside], pool.variance)
                + (proximity * (1 - alike))[inside].mean()
                + DENSITY_WEIGHT * min(1.0, 2 * heat) * F.relu((shares * soft).sum() - share.keep)
                + SPARSITY_WEIGHT * soft.mean()
            )
            if use is not None:
                loss = loss + use.loss(index, features)
            elif not inside.all():
                strange = module_loss(outputs[~inside], wanted[~inside], proximity[~inside], pool.variance)
                loss = loss + SQUARES_WEIGHT * strange + (proximity * (1 - alike))[~inside].mean()
            optimizer.zero_grad()
            loss.backward(inputs=[logits, *(use.head if use is not None else ())])
            optimizer.step()
            if use is not None:
                use.optimizer.step()
            with torch.no_grad():
                logits.clamp_(-MOST_LOGIT, MOST_LOGIT)
        found.append(logits.detach().clone())
    return found[1:]


class _Pool:
    """The neighbours that the steps draw from, N rows, and what the source makes of them.

    Attributes:
        graft: What is known of the network that the module is for, with few samples.
        wanted: (N, C) logits: of the local models on images of cloned classes, of the source on others.
        proximity: (N,).
        is_inside: (N,) whether a row is of a cloned class.
    """

    def __init__(self, evidence: SourceEvidence, generator: torch.Generator) -> None:
        settings, few = evidence.settings, evidence.settings.num_images
        self.graft = None if evidence.graft is None else evidence.graft.with_few(few, generator)
        self._run = evidence.outputs
        if self.graft is not None:
            self._classifier = evidence.network.get_submodule(self.graft.clone.source.classifier)
            images, black = self.graft.samples.images, self.graft.network.target.black
            labels, inside = self.graft.samples.labels, self.graft.is_cloned
            share = max(LEAST_INSIDE, len(self.graft.clone.classes) / len(self.graft.network.classes))
        else:
            others = evidence.others[torch.randperm(len(evidence.others), generator=generator)[:few]]
            others = torch.cat([others, *strange_images(evidence.images, generator)])
            images, black, share = torch.cat([evidence.images, others]), evidence.black, INSIDE
            labels = torch.arange(len(images)).to(images.device) >= len(evidence.images)
            inside = ~labels
        self._images, self._black, self._share = images, black, share
        grid = (min(settings.patch_grid, images.shape[2]), min(settings.patch_grid, images.shape[3]))
        self.around = draw_neighbourhoods(len(images), settings.num_neighbours, grid, generator, images.device)
        rows = torch.arange(len(images) * settings.num_neighbours, device=images.device)
        outputs = run_in_batches(lambda part: self._run(self.images(part)), rows, batch_size=BATCH_SIZE)
        self.wanted = outputs.unflatten(0, self.around.patches.shape[:2])
        if settings.name == "lime":
            near = Neighbourhoods(self.around.patches[inside], grid)
            fitted = surrogate_outputs(near, fit_surrogates(near, self.wanted[inside]))
            self.wanted[inside] = fitted.to(self.wanted)
        self.variance = self.wanted[inside].flatten(0, 1).var(0, unbiased=False).sum().clamp_min(1e-12)
        self.wanted, self.proximity = self.wanted.flatten(0, 1), self.around.proximity.flatten().to(self.wanted)
        self.is_inside, self.labels = (x.repeat_interleave(settings.num_neighbours) for x in (inside, labels))
        weights = class_weights(self.labels.long(), int(self.labels.max()) + 1).cpu()
        self._weights = [weights * side.cpu() for side in (self.is_inside, ~self.is_inside)]

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Rows (n,), with all classes of either side equally often."""
        num_inside = min(max(1, round(self._share * n)), n)
        counts = (num_inside, n - num_inside)
        parts = [
            torch.multinomial(weights, count, replacement=True, generator=generator)
            for weights, count in zip(self._weights, counts, strict=True)
            if count and weights.any()
        ]
        return torch.cat(parts).to(self.wanted.device)

    def neighbours(self, index: Tensor) -> Tensor:
        """Images (n, C, H, W) as they are given: preprocessed for the target if there is one."""
        return self.around.images(self._images, index, self._black)

    def images(self, index: Tensor) -> Tensor:
        """The same, preprocessed for the source."""
        x = self.neighbours(index)
        if self.graft is None:
            return x
        return convert(x, self.graft.network.target.input, self.graft.clone.source.input)

    def run(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """The source's logits (n, C), and with a graft what its classifier reads, (n, d)."""
        if self.graft is None:
            return self._run(self.images(index)), None
        seen: list[Tensor] = []
        handle = self._classifier.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            outputs = self._run(self.images(index))
        finally:
            handle.remove()
        return outputs, seen[-1].to(outputs.dtype)


class _Use:
    """What the cloned network makes of a module: its logits against those with the whole source, and the labels.

    Attributes:
        head: Weight and bias of F_c, trained with the gates.
    """

    def __init__(self, pool: _Pool, graft: Graft) -> None:
        network, num_neighbours = graft.network, pool.around.patches.shape[1]
        rows = torch.arange(len(pool.labels), device=pool.labels.device)
        features = run_in_batches(
            lambda part: network.forward_features(pool.neighbours(part)), rows, batch_size=BATCH_SIZE
        )
        solved = solve_head(
            features[::num_neighbours],
            graft.samples.labels,
            network.head.weight,
            network.head.bias,
            least_gradient=NEARLY_SOLVED,
        )
        own = graft.columns
        self._before, self._after, self._labels = features[:, : own.start], features[:, own.stop :], pool.labels
        self._wanted = F.log_softmax(F.linear(features, *solved) / DISTILLATION_TEMPERATURE, dim=1)
        self.head = [part.clone().requires_grad_() for part in solved]
        self.optimizer = torch.optim.Adam(self.head, lr=HEAD_LEARNING_RATE)

    def loss(self, index: Tensor, features: Tensor) -> Tensor:
        """Of the module's features (n, d) for rows of the pool; the head's gradients of the step before are gone."""
        self.optimizer.zero_grad()
        logits = F.linear(torch.cat([self._before[index], features, self._after[index]], dim=1), *self.head)
        soft = F.log_softmax(logits / DISTILLATION_TEMPERATURE, dim=1)
        distance = F.kl_div(soft, self._wanted[index], log_target=True, reduction="batchmean")
        return DISTILLATION_TEMPERATURE**2 * distance + F.cross_entropy(logits, self._labels[index])


def module_loss(outputs: Tensor, wanted: Tensor, proximity: Tensor, variance: Tensor) -> Tensor:
    """Proximity-weighted squared error of the module's logits (b, C), relative to the variance of what is wanted."""
    return (proximity * (outputs - wanted).square().sum(1)).mean() / variance


def strange_images(images: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Images (n, C, H, W), each the same number, that are made of given ones and are of no class.

    They are not far from what another class may look like: the pieces of an image in disorder, quarters of four images,
    an image upside down, and one mirrored.
    """
    order = torch.stack([torch.randperm(len(images), generator=generator) for _ in range(4)]).to(images.device)
    top, left = (side // 2 for side in images.shape[2:])
    quarters = images[order[0]]
    quarters[..., :top, left:] = images[order[1]][..., :top, left:]
    quarters[..., top:, :left] = images[order[2]][..., top:, :left]
    quarters[..., top:, left:] = images[order[3]][..., top:, left:]
    return [shuffled_pieces(images, generator), quarters, images.flip(2), images.flip(3)]


def shuffled_pieces(images: Tensor, generator: torch.Generator, num_pieces: int = 4) -> Tensor:
    """Images (n, C, H, W) with their 4 x 4 pieces in disorder: of no class, and not far from those they are made of."""
    rows, columns = (min(num_pieces, side) for side in images.shape[2:])
    height, width = images.shape[2] // rows, images.shape[3] // columns
    found = images.clone()
    pieces = images[..., : rows * height, : columns * width]
    pieces = pieces.unflatten(3, (columns, width)).unflatten(2, (rows, height)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    order = torch.rand(len(images), rows * columns, generator=generator).argsort(1).to(images.device)
    pieces = pieces[torch.arange(len(images), device=images.device)[:, None], order].unflatten(1, (rows, columns))
    found[..., : rows * height, : columns * width] = pieces.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return found
