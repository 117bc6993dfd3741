"""Comparison of a transform with what is known about its pair: images, labels, landmarks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.metrics import consistency, folding, intensity, landmarks, overlap, smoothness, surface
from RecurrentRegistrationLib.points import Points
from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Grid, Volume, resample

INVERSE_SAMPLES = 100_000


def evaluate(
    transform: Transform,
    fixed: Volume,
    moving: Volume | None = None,
    *,
    fixed_mask: Volume | None = None,
    fixed_labels: Volume | None = None,
    moving_labels: Volume | None = None,
    fixed_points: Points | None = None,
    moving_points: Points | None = None,
) -> dict[str, Any]:
    """Every measure that the inputs allow, before (no transform at all) and after; NaN where nothing can be measured.

    Args:
        transform: from fixed to moving points.
        fixed: its grid is where deformation is looked at.
        moving: for the similarity of intensities.
        fixed_mask: above 0 where deformation and similarity are looked at; None for everywhere.
        fixed_labels: label map in the fixed image's space, for overlap and surface distances (millimetres).
        moving_labels: its partner in the moving image's space, the same numbers.
        fixed_points: landmarks for the target registration error (millimetres).
        moving_points: their partners, in the same order.

    Raises:
        InputError: the dimensions differ, or labels or landmarks come without their partners.
    """
    _check(transform, fixed, moving, fixed_labels, moving_labels, fixed_points, moving_points)
    mask, labelled = (
        None if volume is None else volume.resampled(fixed.grid, interpolation="nearest").array[0] > 0
        for volume in (fixed_mask, fixed_labels)
    )
    report = deformation(transform, fixed.grid, mask, labelled)
    identity = Transform((), transform.dimension)
    stages = {"before": identity, "after": transform}
    if moving is not None:
        report["similarity"] = {name: similarity(t, fixed, moving, mask) for name, t in stages.items()}
    if fixed_labels is not None and moving_labels is not None:
        report["overlap"] = {name: overlap_of_labels(t, fixed_labels, moving_labels) for name, t in stages.items()}
    if fixed_points is not None and moving_points is not None:
        report["landmarks_mm"] = {name: landmark_errors(t, fixed_points, moving_points) for name, t in stages.items()}
    return report


def _check(transform: Transform, fixed: Volume, *others: Volume | Points | None) -> None:
    dimension = fixed.grid.dimension
    if transform.dimension != dimension:
        raise InputError(f"The transform is {transform.dimension}D, but the fixed image is {dimension}D.")
    for other in others:
        if isinstance(other, Volume) and other.grid.dimension != dimension:
            raise InputError(f"The fixed image is {dimension}D, but another image is {other.grid.dimension}D.")
    _, fixed_labels, moving_labels, fixed_points, moving_points = others
    if (fixed_labels is None) != (moving_labels is None):
        raise InputError("Labels of the fixed and of the moving image are needed together.")
    if (fixed_points is None) != (moving_points is None):
        raise InputError("Landmarks of the fixed and of the moving image are needed together.")
    if (
        isinstance(fixed_points, Points)
        and isinstance(moving_points, Points)
        and len(fixed_points) != len(moving_points)
    ):
        raise InputError(
            f"There are {len(fixed_points)} fixed and {len(moving_points)} moving landmarks; they are compared in "
            "order, so give as many of both."
        )


def deformation(
    transform: Transform, grid: Grid, mask: np.ndarray | None = None, labelled: np.ndarray | None = None
) -> dict[str, Any]:
    """Length, folding, Jacobian determinant and inverse consistency of a transform, on a grid.

    Args:
        transform: from fixed to moving points.
        grid: where it is looked at.
        mask: true where lengths and determinants count, `[*S]`; None for everywhere.
        labelled: true inside the structures, where foldings are counted as well (RAN); None for no structures.
    """
    field = transform.displacement_on(grid)
    length = field.millimetres()[0].square().sum(dim=0).sqrt().numpy()
    determinant = spatial.jacobian_determinant(field.values)[0, 0].numpy()
    inside = slice(None) if mask is None else mask
    points = _some_points(grid, mask)
    residual = consistency.inverse_consistency(transform, transform.inverse(), points)
    folds = {"everywhere": asdict(folding.folding(determinant))}
    if mask is not None:
        folds["mask"] = asdict(folding.folding(determinant, mask))
    if labelled is not None:
        folds["labels"] = asdict(folding.folding(determinant, labelled))
    return {
        "displacement_mm": {"mean": length[inside].mean().item(), "max": length[inside].max().item()},
        "folding": folds,
        "jacobian": {
            "min": determinant[inside].min().item(),
            "mean": determinant[inside].mean().item(),
            "max": determinant[inside].max().item(),
            "log_deviation": smoothness.log_jacobian_deviation(determinant, mask),
        },
        "inverse_residual_mm": {"mean": residual.mean().item(), "max": residual.max().item()},
    }


def _some_points(grid: Grid, mask: np.ndarray | None) -> np.ndarray:
    """Physical points of at most `INVERSE_SAMPLES` voxels, spread evenly over the grid or the mask."""
    voxels = np.arange(math.prod(grid.size)) if mask is None else np.flatnonzero(mask)
    chosen = voxels[:: math.ceil(voxels.size / INVERSE_SAMPLES)]
    return grid.physical(np.stack(np.unravel_index(chosen, grid.shape)[::-1], axis=1))


def similarity(transform: Transform, fixed: Volume, moving: Volume, mask: np.ndarray | None) -> dict[str, float]:
    """Likeness of the intensities where the moving image is seen and the mask, `[*S]`, is true."""
    values = moving.array.astype(np.float64)  # intensities between whole numbers are compared as they are
    warped = resample(Volume(values, moving.grid).to_sitk(), fixed.grid, transform.to_sitk())
    everywhere = Volume(np.ones_like(moving.array, dtype=np.uint8), moving.grid)
    seen = Volume.from_sitk(resample(everywhere.to_sitk(), fixed.grid, transform.to_sitk())).array[0] > 0
    if mask is not None:
        seen &= mask
    if seen.sum() < 2:
        return {"seen_percent": 0.0}
    a, b = fixed.array[0][seen], Volume.from_sitk(warped).array[0][seen]
    return {
        "seen_percent": 100 * seen.mean().item() if mask is None else 100 * (seen.sum() / mask.sum()).item(),
        "root_mean_squared_error": intensity.root_mean_squared_error(a, b),
        "correlation": intensity.correlation(a, b),
        "mutual_information": intensity.mutual_information(a, b),
    }


def overlap_of_labels(
    transform: Transform, fixed: Volume, moving: Volume, *, labels: Iterable[int] | None = None
) -> dict[str, Any]:
    """Dice and surface distances of each label, on the grid of the fixed labels, and their means over labels.

    `labels` are those to look at; None for all of either map.
    """
    nearest = resample(moving.to_sitk(), fixed.grid, transform.to_sitk(), interpolation="nearest")
    a, b = fixed.array[0], Volume.from_sitk(nearest).array[0]
    spacing = fixed.grid.spacing[::-1]
    found = {}
    for label, value in overlap.dice(a, b, labels).items():
        distances = surface.surface_distances(a == label, b == label, spacing)
        found[str(label)] = {
            "dice": value,
            "hausdorff_mm": distances.hausdorff,
            "hausdorff95_mm": distances.hausdorff95,
            "surface_distance_mm": distances.average,
        }
    if not found:
        raise InputError("The label maps hold no label above 0 in the fixed image's field of view.")
    names = next(iter(found.values()))
    mean = {name: _mean([values[name] for values in found.values()]) for name in names}
    return {"mean": mean, "labels": found}


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def landmark_errors(transform: Transform, fixed: Points, moving: Points) -> dict[str, Any]:
    """Target registration errors in millimetres; see `LandmarkErrors`."""
    d = transform.dimension
    mapped = transform.map_points(fixed.in_dimension(d).positions)
    return landmarks.target_registration_error(mapped, moving.in_dimension(d).positions).as_dict()
