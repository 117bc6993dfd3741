"""The terms of every loss, by name: functions of a `Judged` step that give a scalar, lower is better.

A term whose ingredient a step or a batch does not have (an affine map, labels …) gives None and does not count.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from monai.losses.dice import DiceLoss
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.losses import regularity, symmetry
from RecurrentRegistrationLib.losses.multikernel_lncc import MultiKernelCorrelation
from RecurrentRegistrationLib.losses.similarity import (
    LocalCorrelation,
    MeanSquaredError,
    MindSSC,
    MutualInformation,
    Similarity,
)
from RecurrentRegistrationLib.train.judged import Judged

Term = Callable[[Judged], Tensor | None]


def _compared(similarity: Similarity) -> Term:
    return lambda judged: similarity(judged.fixed, judged.warped, judged.weight)


def mse(*, inside: bool = False, above: float | None = None) -> Term:
    """Mean squared error.

    Args:
        inside: count only voxels that read inside the moving image (R2N2, Sec. 3.3).
        above: count only voxels whose fixed intensity is above this (RAN's lungs: 0.01).
    """
    return lambda judged: MeanSquaredError()(judged.fixed, judged.warped, _weight(judged, inside, above))


def lncc(*, radius: int = 4, squared: bool = True, above: float | None = None) -> Term:
    """One minus the local correlation in windows of `2 radius + 1` voxels."""
    similarity = LocalCorrelation(radius, squared=squared)
    return lambda judged: similarity(judged.fixed, judged.warped, _weight(judged, False, above))


def mk_lncc(*, kernels: list[tuple[float, float]] | None = None, dilation: int = 2, squared: bool = False) -> Term:
    """AVSM's local correlation in large windows of several sizes; `kernels` are pairs of weight and relative size."""
    return _compared(MultiKernelCorrelation(kernels, dilation=dilation, squared=squared))


def nmi(*, bins: int = 64) -> Term:
    """Two minus the normalised mutual information."""
    return _compared(MutualInformation(bins))


def mind(*, radius: int = 1, dilation: int = 2) -> Term:
    """Squared difference of self-similarity descriptors."""
    return _compared(MindSSC(radius, dilation))


def ncc() -> Term:
    """One minus the correlation of the whole images."""

    def correlation(judged: Judged) -> Tensor:
        fixed, warped = (
            image.flatten(1) - image.flatten(1).mean(1, keepdim=True) for image in (judged.fixed, judged.warped)
        )
        return (1 - F.cosine_similarity(fixed, warped, dim=1, eps=1e-6)).mean()

    return correlation


def dice(*, squared: bool = False) -> Term:
    """MONAI's soft Dice loss of the fixed and the linearly warped moving labels, the background left out.

    Args:
        squared: square the maps in the denominator and add one voxel to both sides, for smoothed maps.
    """
    more = 1.0 if squared else 1e-5  # MONAI's own
    # The background has no channel here.
    loss = DiceLoss(include_background=True, squared_pred=squared, smooth_nr=more, smooth_dr=more)

    def overlap(judged: Judged) -> Tensor | None:
        if judged.labels is None:
            return None
        fixed, warped = judged.labels
        return loss(warped, fixed)

    return overlap


def keypoints() -> Term:
    """Mean distance of key points in millimetres, the target registration error."""

    def distance(judged: Judged) -> Tensor | None:
        distances = judged.landmark_distances
        return distances.mean() if distances is not None and len(distances) else None

    return distance


def displacement() -> Term:
    """Mean squared difference to the known displacement of a synthetic pair, voxels."""

    def difference(judged: Judged) -> Tensor | None:
        if "displacement" not in judged.batch:
            return None
        return (judged.step.displacement - judged.batch["displacement"]).square().mean()

    return difference


def diffusion(*, normalisation: str = "sum") -> Term:
    """Squared gradient of the displacement, "sum" or "mean" over axes and components."""
    _one_of("normalisation", normalisation, ("sum", "mean"))
    return lambda judged: regularity.diffusion(judged.displacement, normalisation=normalisation)  # type: ignore[arg-type]


def gradient_l1() -> Term:
    """Absolute gradient of the displacement (RWCNet)."""
    return lambda judged: regularity.gradient_l1(judged.displacement)


def total_variation(*, units: str = "voxel") -> Term:
    """Isotropic total variation, in units of a "voxel" or "normalised" (R2N2)."""
    _one_of("unit", units, ("voxel", "normalised"))
    return lambda judged: regularity.total_variation(judged.displacement, units=units)  # type: ignore[arg-type]


def bending() -> Term:
    """Bending energy."""
    return lambda judged: regularity.bending(judged.displacement)


def edge_weighted(*, sharpness: float = 25.0, power: int = 1) -> Term:
    """RAN's smoothness that spares the fixed image's edges."""
    return lambda judged: regularity.edge_weighted(judged.displacement, judged.fixed, sharpness=sharpness, power=power)


def folding(*, margin: float = 0.0) -> Term:
    """Jacobian determinants below a margin."""
    return lambda judged: regularity.folding_penalty(judged.displacement, margin=margin)


def out_of_range() -> Term:
    """By how much the displacement at the centre voxel is longer than the image (RAN's code)."""

    def excess(judged: Judged) -> Tensor:
        u = judged.displacement
        middle: tuple = (..., *[slice(n // 2, n // 2 + 1) for n in u.shape[2:]])
        centre = u[middle].flatten(1)
        return F.relu(centre.abs() - centre.new_tensor(u.shape[2:])).sum(dim=1).mean()

    return excess


def affine_deviation() -> Term:
    """How far an affine step's map is from the identity (AVSM, Eq. 3)."""

    def deviation(judged: Judged) -> Tensor | None:
        affine = judged.step.attached.get("affine")
        return None if affine is None else symmetry.affine_deviation(affine)

    return deviation


def affine_symmetry() -> Term:
    """How far the affine maps of both directions are from undoing each other (AVSM, Eq. 5); a doubled batch."""

    def difference(judged: Judged) -> Tensor | None:
        affine = judged.step.attached.get("affine")
        return None if affine is None else symmetry.affine_symmetry(*affine.chunk(2))

    return difference


def map_symmetry() -> Term:
    """How far the maps of both directions are from undoing each other (AVSM, Eq. 13); a doubled batch."""
    return lambda judged: symmetry.map_symmetry(*judged.displacement.chunk(2))


def inverse_consistency() -> Term:
    """The same for methods that attach the other direction as "backward", voxels squared."""

    def difference(judged: Judged) -> Tensor | None:
        backward = judged.step.attached.get("backward")
        if backward is None:
            return None
        backward = spatial.resize_displacement(backward, judged.displacement.shape[2:])
        return spatial.compose(judged.displacement, backward).square().mean()

    return difference


def momentum_energy() -> Term:
    """`<m, v>` of a vSVF step (AVSM, Eq. 12)."""

    def energy(judged: Judged) -> Tensor | None:
        found = judged.step.attached.get("energy")
        return None if found is None else found.mean()

    return energy


TERMS: dict[str, Callable[..., Term]] = {
    term.__name__: term
    for term in (
        *(mse, lncc, mk_lncc, nmi, mind, ncc),
        *(dice, keypoints, displacement),
        *(diffusion, gradient_l1, total_variation, bending, edge_weighted, folding, out_of_range),
        *(affine_deviation, affine_symmetry, map_symmetry, inverse_consistency, momentum_energy),
    )
}
PAIRED = ("affine_symmetry", "map_symmetry")  # need both directions in the batch


def create(name: str, options: dict[str, Any]) -> Term:
    """A term by its name. Raises InputError for an unknown name or option."""
    if name not in TERMS:
        raise InputError(f"There is no loss term '{name}'; choose one of {', '.join(TERMS)}.")
    known = inspect.signature(TERMS[name]).parameters
    unknown = options.keys() - known.keys()
    if unknown:
        raise InputError(f"The loss term '{name}' has no option '{min(unknown)}'; it has {', '.join(known) or 'none'}.")
    for option, value in options.items():
        if isinstance(known[option].default, int | float) and not isinstance(value, int | float):
            raise InputError(f"The option '{option}' of the loss term '{name}' is a number, not '{value}'.")
    try:
        return TERMS[name](**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"The loss term '{name}' cannot be made with these options: {error}") from error


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise InputError(f"The {name} is {' or '.join(known)}, not '{value}'.")
    return value


def _weight(judged: Judged, inside: bool, above: float | None) -> Tensor | None:
    weight = judged.weight
    if inside:
        reads = spatial.warp(torch.ones_like(judged.fixed), judged.displacement.detach()) > 0.999
        weight = reads.float() if weight is None else weight * reads
    if above is not None:
        bright = (judged.fixed > above).float()
        weight = bright if weight is None else weight * bright
    return weight
