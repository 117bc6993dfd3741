"""Distances between the surfaces of two masks, in millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between two surfaces, in millimetres; NaN where a mask is empty.

    Attributes:
        hausdorff: the largest distance from either surface to the other.
        hausdorff95: the larger of the two directed 95th percentiles.
        average: mean of the nearest distances, pooled over both directions (ASSD).
    """

    hausdorff: float
    hausdorff95: float
    average: float


def surface_distances(fixed: np.ndarray, warped: np.ndarray, spacing: Sequence[float]) -> SurfaceDistances:
    """Hausdorff and average distances between the outer voxels of two masks of one shape.

    A voxel lies on the surface where a face touches the outside of the mask or of the image.

    Args:
        fixed: mask, true inside.
        warped: likewise, same shape.
        spacing: millimetres between voxels along each array axis.
    """
    if not fixed.any() or not warped.any():
        return SurfaceDistances(np.nan, np.nan, np.nan)
    box = ndimage.find_objects((fixed | warped).astype(np.uint8))[0]
    of_fixed, of_warped = _surface(fixed[box]), _surface(warped[box])
    to_warped = _distance_to(of_warped, spacing)[of_fixed]
    to_fixed = _distance_to(of_fixed, spacing)[of_warped]
    return SurfaceDistances(
        hausdorff=max(to_warped.max(), to_fixed.max()).item(),
        hausdorff95=max(np.percentile(to_warped, 95), np.percentile(to_fixed, 95)).item(),
        average=np.concatenate([to_warped, to_fixed]).mean().item(),
    )


def _surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


def _distance_to(surface: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    return ndimage.distance_transform_edt(~surface, sampling=spacing)
