"""affine-opt: the affine map of one pair by gradient descent on mk-LNCC, from coarse to fine. Needs no training.

The numerical counterpart of AVSM's affine network (Shen et al., CVPR 2019, Sec. 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.affine_map import affine_displacement, few_voxels, identity_affine
from RecurrentRegistrationLib.losses.multikernel_lncc import MultiKernelCorrelation
from RecurrentRegistrationLib.losses.similarity import Similarity
from RecurrentRegistrationLib.methods import base
from RecurrentRegistrationLib.methods.base import Card, Method, Pair

CARD = Card(
    name="affine-opt",
    title="Affine optimisation",
    summary="Finds the affine map of this pair by optimisation; no training needed.",
    reference="Shen, Han, Xu, Niethammer: Networks for Joint Affine and Non-parametric Image Registration, CVPR 2019",
    trained=False,
    default_steps=450,
    masks="weights",
    attaches=("affine", "loss", "learning_rate"),
    identity_at_start=False,
    recurrent=True,
)

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


class Compared(NamedTuple):
    """Two images `[1, 1, *S]` of one scale and what counts in them, `[1, 1, *S]` or None for everything."""

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor | None = None
    moving_mask: Tensor | None = None

    def at(self, scale: float) -> Compared:
        """The pair at a fraction of its size, by linear resampling; no axis falls below 16 voxels."""
        shape = [min(n, max(round(n * scale), 16)) for n in self.fixed.shape[2:]]
        with torch.inference_mode(False):  # what is made under inference mode refuses to be differentiated
            return Compared(*(None if image is None else spatial.resize(image, shape) for image in self))

    def loss(self, similarity: Similarity, displacement: Tensor) -> Tensor:
        """Dissimilarity of the fixed and the warped moving image where both masks count."""
        warped = spatial.warp(self.moving, displacement)
        weight = self.fixed_mask
        if self.moving_mask is not None:
            # Beyond the image its border goes on, so that a mask of everything is not a mask.
            seen = spatial.warp(self.moving_mask, displacement.detach(), padding="border")
            weight = seen if weight is None else weight * seen
        return similarity(self.fixed, warped, weight)


def items(pair: Pair) -> list[Compared]:
    """Each item of a batch by itself: their optimisations have nothing in common."""
    with torch.inference_mode(False):
        masks = [None if m is None else (m > 0).to(pair.fixed.dtype) for m in (pair.fixed_mask, pair.moving_mask)]
        images = [pair.fixed.detach().clone(), pair.moving.detach().clone(), *masks]
    return [Compared(*(None if i is None else i[b : b + 1] for i in images)) for b in range(len(pair.fixed))]


def scaled(pair: Pair, scale: float) -> list[Compared]:
    """`items` at a fraction of their size."""
    whole = pair.once("items", lambda: items(pair))
    return pair.once(("scaled", scale), lambda: [item.at(scale) for item in whole])


class Descent(NamedTuple):
    """Where the descent of one pair stands.

    Attributes:
        affine: `[1, d, d + 1]` in [-1, 1] coordinates.
        velocity: of Nesterov's momentum, likewise.
        rate: learning rate.
        best: lowest loss at this scale.
        stale: iterations since it was reached.
        loss: before the last iteration.
    """

    affine: Tensor
    velocity: Tensor
    rate: float = 0.0
    best: float = math.inf
    stale: int = 0
    loss: float = math.inf


@dataclass(frozen=True, eq=False, kw_only=True)
class State(base.State):
    """With the iterations planned at each scale, and one descent for each pair."""

    iterations: tuple[int, ...]
    descents: tuple[Descent, ...]


class AffineOpt(Method):
    """Gradient descent with Nesterov momentum; one step for each iteration; the masks weight the similarity.

    The learning rate is the one of `rates` that gains most in a few iterations at the first scale; it is halved
    whenever the loss has not improved for `patience` iterations. Steps carry the "affine" map `[B, d, d + 1]` in
    [-1, 1] coordinates, the "loss" before the iteration and the "learning_rate", both `[B]`.

    Args:
        dimension: 2 or 3.
        scales: fractions of the image's size, coarse to fine.
        iterations: at each scale, in proportion where another number of steps is asked for.
        similarities: at each scale; None for mk-LNCC with windows of half the image, at the last scale of half and a
            quarter.
        rates: learning rates to choose from.
        momentum: of the descent.
        patience: iterations without improvement before the learning rate is halved.
    """

    card = CARD

    def __init__(
        self,
        dimension: int = 3,
        *,
        scales: Sequence[float] = (0.25, 0.5, 1.0),
        iterations: Sequence[int] = (200, 200, 50),
        similarities: Sequence[Similarity] | None = None,
        rates: Sequence[float] = RATES,
        momentum: float = 0.9,
        patience: int = 20,
    ) -> None:
        super().__init__()
        self.dimension = dimension
        self.scales, self.iterations = tuple(scales), tuple(iterations)
        self.similarities = similarities or default_similarities(len(self.scales))
        self.rates, self.momentum, self.patience = tuple(rates), momentum, patience

    def turns(self, state: State | None = None) -> int:
        """See `Method.turns`."""
        return sum(self.iterations)

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`."""
        start = identity_affine(1, len(pair.shape), pair.fixed)
        descents = (Descent(start, torch.zeros_like(start)),) * len(pair.fixed)
        iterations = shared_out(self.iterations, self.turns() if count is None else count)
        affine = start.repeat(len(pair.fixed), 1, 1)
        return State(field=few_voxels(affine, pair.shape), affine=affine, iterations=iterations, descents=descents)

    def advance(self, pair: Pair, state: State) -> State:
        """One iteration; the displacement lies on a grid of a few voxels."""
        level = level_at(state.index, state.iterations)
        images, descents = scaled(pair, self.scales[level]), state.descents
        if state.index == 0:
            descents = [self._with_rate(*each, level) for each in zip(images, descents, strict=True)]
        elif state.index == sum(state.iterations[:level]):
            descents = [descent._replace(best=math.inf, stale=0) for descent in descents]
        descents = tuple(self._iterate(*each, level) for each in zip(images, descents, strict=True))
        affine = torch.cat([d.affine for d in descents])
        return state.after(
            few_voxels(affine, pair.shape),
            f"affine {state.index + 1}/{max(sum(state.iterations), state.last)}",
            affine=affine,
            descents=descents,
            attached={
                "affine": affine,
                "loss": torch.tensor([d.loss for d in descents]),
                "learning_rate": torch.tensor([d.rate for d in descents]),
            },
        )

    def _with_rate(self, pair: Compared, descent: Descent, level: int, probes: int = 10) -> Descent:
        """The descent with the learning rate whose first few iterations lead to the lowest loss."""

        def reached(rate: float) -> float:
            tried = descent._replace(rate=rate)
            for _ in range(probes):
                tried = self._iterate(pair, tried, level)
            return tried.best

        return descent._replace(rate=min(self.rates, key=reached))

    def _iterate(self, pair: Compared, descent: Descent, level: int) -> Descent:
        """One gradient step."""
        with torch.inference_mode(False), torch.enable_grad():
            affine = descent.affine.clone().requires_grad_()
            loss = pair.loss(self.similarities[level], affine_displacement(affine, pair.fixed.shape[2:]))
            (gradient,) = torch.autograd.grad(loss, affine)
        velocity = self.momentum * descent.velocity + gradient
        moved = descent.affine - descent.rate * (gradient + self.momentum * velocity)
        value, rate, best, stale = loss.item(), descent.rate, descent.best, descent.stale + 1
        if value < best * (1 - 1e-4):
            best, stale = value, 0
        elif stale > self.patience:
            rate, stale = rate / 2, 0
        return Descent(moved, velocity, rate, best, stale, value)


def shared_out(iterations: Sequence[int], count: int) -> tuple[int, ...]:
    """`count` iterations in all, in proportion to those given."""
    ends = [round(count * sum(iterations[: n + 1]) / max(sum(iterations), 1)) for n in range(len(iterations))]
    return tuple(end - start for start, end in zip([0, *ends], ends, strict=False))


def level_at(index: int, iterations: Sequence[int]) -> int:
    """The scale at which an iteration works; beyond what was planned, the last."""
    return sum(index >= sum(iterations[: n + 1]) for n in range(len(iterations) - 1))


def default_similarities(scales: int) -> list[MultiKernelCorrelation]:
    """mk-LNCC with windows of half the image, at the finest scale also of a quarter."""
    coarse = [MultiKernelCorrelation([(1.0, 1 / 2)]) for _ in range(scales - 1)]
    return [*coarse, MultiKernelCorrelation([(0.3, 1 / 4), (0.7, 1 / 2)])]


def create(dimension: int = 3, **options: Any) -> AffineOpt:
    """affine-opt for 2 or 3 dimensions; see the options of `AffineOpt`."""
    return AffineOpt(dimension, **options)
