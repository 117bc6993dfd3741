"""Instance optimisation: improve the displacement that any method left, or find one from nothing.

The displacement grows by composition. Each iteration takes the similarity's gradient at the warped image, smooths it
(fluid regularity), scales it by Adam's moments, follows the small step and then the old displacement, and smooths the
result (elastic regularity), from coarse to fine grids: the scheme of Avants et al. (Medical Image Analysis 2008)
with the per-voxel adaptive step of Jena et al. (FireANTs, 2024). Small smooth steps that are composed do not fold;
folds left by interpolation are removed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers.label_network import LabelNetwork
from RecurrentRegistrationLib.losses import regularity
from RecurrentRegistrationLib.losses.guidance import Guidance
from RecurrentRegistrationLib.losses.similarity import (
    LocalCorrelation,
    MeanSquaredError,
    MindSSC,
    MutualInformation,
    Similarity,
)
from RecurrentRegistrationLib.methods import base
from RecurrentRegistrationLib.methods.base import Card, Method, Pair

SIMILARITIES = {
    "lncc": partial(LocalCorrelation, epsilon=1e-3),  # contrasts below 3 % of the intensities say little
    "mse": MeanSquaredError,
    "nmi": MutualInformation,
    "mind": MindSSC,
}

# Voxels a side, on average, below which a third level misleads: on brains of 20 and hippocampi of 10 voxels there, the
# correlation of what is left of the anatomy pulled structures apart that the linear map had brought together.
COARSEST = 24

BETAS = (0.9, 0.99)  # Adam's memory of the gradient and of its square
# Gradients of a voxel's share in the mean loss (per voxel of displacement) that are no reason to move. Correlation is
# normalised: well aligned images keep moving back and forth below this one, for nothing.
NEGLIGIBLE, NEGLIGIBLE_CORRELATION = 1e-3, 0.03

CARD = Card(
    name="refine",
    title="Instance optimisation",
    summary="Registers any pair without training, from coarse to fine; also improves what another method left.",
    reference=(
        "Avants et al., Symmetric diffeomorphic image registration with cross-correlation, Medical Image Analysis "
        "2008; Jena et al., FireANTs: adaptive Riemannian optimization for multi-scale diffeomorphic registration, 2024"
    ),
    trained=False,
    default_steps=162,
    masks="weights",
    initial=True,
    guided=True,
    identity_at_start=False,
    bytes_per_voxel=170,
)

FEATURED = replace(CARD, upright=True, bytes_per_voxel=600)  # with learnt features


@dataclass(frozen=True, eq=False, kw_only=True)
class State(base.State):
    """Where the optimisation stands.

    Attributes:
        schedule: scale and iterations of each level.
        position: in the schedule, in iterations; ahead of `index` where a level was left early.
        first: Adam's mean of the gradient.
        second: Adam's mean of its square.
        losses: of the images, before each iteration of the level.
        unlike: of the guide's structures, likewise.
        scheduled: whether the schedule says when it ends; whoever names a number of turns gets it.
    """

    schedule: tuple[tuple[float, int], ...]
    position: int = 0
    first: Tensor
    second: Tensor
    losses: tuple[float, ...] = ()
    unlike: tuple[float, ...] = ()
    scheduled: bool


@dataclass(frozen=True)
class _Level:
    """What one resolution compares: images or their descriptors, and where they count."""

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor | None
    moving_mask: Tensor | None
    fixed_regions: Tensor | None = None
    moving_regions: Tensor | None = None


class Refine(Method):
    """Compositional multi-resolution instance optimisation.

    Args:
        similarity: a name of `SIMILARITIES` or a callable of `losses.similarity`.
        scales: how many times coarser than the working grid each level is; one that leaves less than `COARSEST`
            voxels a side is passed over, the last two apart.
        iterations: of each level.
        step: length of the steps that Adam scales, in voxels of the level.
        gradient_smoothing: standard deviation (voxels) of the Gaussian on the gradient.
        field_smoothing: standard deviation (voxels) of the Gaussian on the displacement after each step.
        damping: gradients below this multiple of their root mean square make shorter steps than `step`, so that noise
            moves little; 0 for Adam's own.
        tolerance: a level is left when ten iterations bring less than this share of its gain; 0 to stay to the end.
        diffusion: weight of the displacement's mean squared gradient.
        folding: weight of the mean of what the Jacobian determinant lies below 0.
        features: options of a `LabelNetwork` with weights, whose regions are brought together, too; None for none.
        feature_weight: weight of the regions' squared distance.
        dimension: of the images, for that network.
    """

    card = CARD

    def __init__(
        self,
        *,
        similarity: str | Similarity = "lncc",
        scales: Sequence[float] = (4, 2, 1),
        iterations: Sequence[int] = (100, 50, 12),
        step: float = 0.5,
        gradient_smoothing: float = 1.0,
        field_smoothing: float = 0.9,
        damping: float = 1.0,
        tolerance: float = 0.02,
        diffusion: float = 0.0,
        folding: float = 0.0,
        features: Mapping[str, Any] | None = None,
        feature_weight: float = 1.0,
        dimension: int = 3,
    ) -> None:
        super().__init__()
        if isinstance(similarity, str) and similarity not in SIMILARITIES:
            raise InputError(f"There is no similarity '{similarity}'; choose one of {', '.join(SIMILARITIES)}.")
        self.similarity = SIMILARITIES[similarity]() if isinstance(similarity, str) else similarity
        self.schedule = tuple(zip(scales, iterations, strict=True))
        self.step, self.gradient_smoothing, self.field_smoothing = step, gradient_smoothing, field_smoothing
        self.tolerance = tolerance
        self.damping, self.diffusion, self.folding = damping, diffusion, folding
        self.features = None if features is None else LabelNetwork(dimension, **features)
        self.feature_weight = feature_weight
        if self.features is not None:
            self.card = FEATURED

    def turns(self, state: State | None = None) -> int:
        """The schedule's iterations; 50 more where they have been made."""
        return 50 if state else sum(iterations for _, iterations in self.schedule)

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """`count` iterations are shared out over the levels."""
        field = spatial.zero_displacement(pair.fixed[..., :1]) if initial is None else initial
        schedule = _shared_out(_telling(self.schedule, pair.shape), count)
        return State(field=field, schedule=schedule, first=field, second=field, scheduled=count is None)

    def resume(self, state: State, count: int | None) -> State:
        """It goes on past the schedule's end at the finest level."""
        return replace(state, scheduled=False, finished=False)

    def taken_up(self, field: Tensor) -> State:
        """The state of a displacement `[B, d, *S]` of any origin: it goes on at the finest level."""
        zero = torch.zeros_like(field)
        return State(field=field, schedule=self.schedule[-1:], first=zero, second=zero, scheduled=False)

    def advance(self, pair: Pair, state: State) -> State:
        """One iteration."""
        (scale, iterations), iteration = _place(state.schedule, state.position)
        level = pair.once(("level", scale), lambda: self._level(pair, scale))
        field, first, second = _entered(state, tuple(level.fixed.shape[2:]))
        guidance = pair.guidance(field.shape[2:])
        field, first, second, (loss, apart) = self._iterate(level, field, first, second, iteration, guidance)
        losses = (*(state.losses if iteration else ()), loss)
        unlike = (*(state.unlike if iteration else ()), apart)
        left = iterations - iteration - 1
        # Pairs of one batch do not end each other's levels.
        converged = _converged(losses, self.tolerance) and (apart == 0 or _converged(unlike, self.tolerance))
        if state.scheduled and len(field) == 1 and converged:
            left, position = 0, state.position + left + 1
        else:
            position = state.position + 1
        return state.after(
            field if left else _finished(field, guidance),
            f"{'full' if scale == 1 else f'1/{scale:g}'} res {iteration + 1}/{iterations}",
            position=position,
            first=first,
            second=second,
            losses=losses,
            unlike=unlike,
            finished=state.scheduled and position >= sum(n for _, n in state.schedule),
        )

    def _level(self, pair: Pair, scale: float) -> _Level:
        masks = [pair.fixed_mask, pair.moving_mask]
        if pair.moving_mask is not None and bool((pair.moving_mask > 0).all()):
            masks[1] = None  # a mask of everything is not a mask
        describe = getattr(self.similarity, "describe", lambda image: image)
        with torch.inference_mode(False), torch.no_grad():
            images = [describe(_coarser(image.clone(), scale)) for image in (pair.fixed, pair.moving)]
            masks = [None if m is None else _coarser(m.to(images[0].dtype), scale) for m in masks]
        regions = [None, None] if self.features is None else [_coarser(r, scale) for r in self._regions(pair)]
        return _Level(*images, *masks, *regions)

    def _regions(self, pair: Pair) -> list[Tensor]:
        """What the network takes each voxel of both images for."""
        network = self.features
        assert network is not None
        with torch.inference_mode(False):
            images = pair.fixed.clone(), pair.moving.clone()
            return pair.once("regions", lambda: [network.describe(image) for image in images])

    def _iterate(
        self,
        level: _Level,
        field: Tensor,
        first: Tensor,
        second: Tensor,
        iteration: int,
        guidance: Guidance | None,
    ) -> tuple[Tensor, Tensor, Tensor, tuple[float, float]]:
        """One composition: the new displacement, Adam's two means, the losses of images and structures before it."""
        with torch.inference_mode(False), torch.enable_grad():
            values = field.clone().requires_grad_()
            loss = self._loss(level, values)
            (gradient,) = torch.autograd.grad(loss, values)
        unlike = 0.0
        if guidance is not None:
            gradient, unlike = guidance.steered(gradient, field)
        gradient = spatial.gaussian_smooth(gradient, self.gradient_smoothing)
        first = torch.lerp(gradient, first, BETAS[0])
        second = torch.lerp(gradient.square(), second, BETAS[1])
        mean, deviation = (
            first / (1 - BETAS[0] ** (iteration + 1)),
            (second / (1 - BETAS[1] ** (iteration + 1))).sqrt_(),
        )
        axes = tuple(range(1, deviation.ndim))
        images_own = 1.0 if guidance is None else guidance.beside(deviation)
        strength = deviation.square().mul(images_own).mean(dim=axes, keepdim=True).sqrt()
        negligible = NEGLIGIBLE_CORRELATION if isinstance(self.similarity, LocalCorrelation) else NEGLIGIBLE
        floor = (self.damping * strength).clamp(min=negligible / deviation[:, 0].numel())
        update = mean.div_(deviation.add_(floor)).mul_(-self.step)
        if guidance is not None:
            update = guidance.pulled(update, field)
        composed = spatial.compose(update, field)
        if self.field_smoothing:
            composed = spatial.gaussian_smooth(composed, self.field_smoothing)
        return composed if guidance is None else guidance.kept(composed, field), first, second, (loss.item(), unlike)

    def _loss(self, level: _Level, values: Tensor) -> Tensor:
        warped = spatial.warp(level.moving, values, padding="border")
        weight = self._weight(level, values)
        loss = self._compare(level.fixed, warped, weight)
        if level.fixed_regions is not None and level.moving_regions is not None:
            regions = spatial.warp(level.moving_regions, values, padding="border")
            apart = MeanSquaredError()(level.fixed_regions, regions, weight) * regions.shape[1]
            loss = loss + self.feature_weight * apart
        if self.diffusion:
            loss = loss + self.diffusion * regularity.diffusion(values)
        if self.folding:
            loss = loss + self.folding * regularity.folding_penalty(values)
        return loss

    @property
    def _compare(self) -> Similarity:
        """Descriptors that were made beforehand are compared by their squared difference."""
        return MeanSquaredError() if hasattr(self.similarity, "describe") else self.similarity

    def _weight(self, level: _Level, values: Tensor) -> Tensor | None:
        if level.moving_mask is None:
            return level.fixed_mask
        warped = spatial.warp(level.moving_mask, values.detach())
        return warped if level.fixed_mask is None else warped * level.fixed_mask


def _telling(schedule: tuple[tuple[float, int], ...], shape: tuple[int, ...]) -> tuple[tuple[float, int], ...]:
    """The levels that still show enough of an image of a `shape` to be told by, the last two in any case."""
    sides = [n for n in shape if n > 1]
    side = math.prod(sides) ** (1 / max(len(sides), 1))
    return (*(level for level in schedule[:-2] if side / level[0] >= COARSEST), *schedule[-2:])


def _shared_out(schedule: tuple[tuple[float, int], ...], count: int | None) -> tuple[tuple[float, int], ...]:
    """The schedule with `count` iterations in all, levels in proportion, the finest ones kept."""
    if count is None:
        return schedule
    total = sum(n for _, n in schedule)
    shares, left = [], count
    for scale, iterations in schedule[:-1]:
        share = min(round(count * iterations / total), left)
        shares.append((scale, share))
        left -= share
    return tuple((s, n) for s, n in [*shares, (schedule[-1][0], left)] if n > 0)


def _place(schedule: tuple[tuple[float, int], ...], position: int) -> tuple[tuple[float, int], int]:
    """Level (scale, iterations) and iteration within it; past the end, the last level goes on."""
    for level in schedule[:-1]:
        if position < level[1]:
            return level, position
        position -= level[1]
    scale, iterations = schedule[-1]
    return (scale, max(iterations, position + 1) if position >= iterations else iterations), position


def _converged(losses: Sequence[float], tolerance: float) -> bool:
    """Whether the last ten iterations brought less than `tolerance` of what the level has brought so far."""
    return tolerance > 0 and len(losses) > 20 and losses[-11] - losses[-1] < tolerance * (losses[0] - losses[-1])


def _entered(state: State, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Displacement and moments on a level's grid; the moments start anew where the grid changes."""
    if tuple(state.first.shape[2:]) == shape and state.position:
        return state.field, state.first, state.second
    field = spatial.resize_displacement(state.field, shape)
    return field, torch.zeros_like(field), torch.zeros_like(field)


def _coarser(image: Tensor, scale: float) -> Tensor:
    """The image smoothed and resampled to a `scale`-th of its size, 8 voxels at least where it has them."""
    if scale == 1:
        return image
    shape = [max(round((n - 1) / scale) + 1, min(n, 8)) for n in image.shape[2:]]
    return spatial.resize(spatial.gaussian_smooth(image, scale / 2), shape)


def _finished(field: Tensor, guidance: Guidance | None) -> Tensor:
    """A level's displacement without folds, and with what guides it."""
    field = spatial.remove_folding(field)
    return field if guidance is None else guidance.settled(field)


def create(dimension: int = 3, **options) -> Refine:
    """Instance optimisation for 2 or 3 dimensions; see the options of `Refine`."""
    return Refine(dimension=dimension, **options)
