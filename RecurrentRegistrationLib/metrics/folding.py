"""Foldings: places where a transform turns space inside out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Folding:
    """Voxels with a Jacobian determinant of 0 or less.

    Attributes:
        voxels: how many.
        percent: their share of all voxels that were looked at.
        magnitude: sum of `|det|` over them.
    """

    voxels: int
    percent: float
    magnitude: float


def folding(determinant: np.ndarray, mask: np.ndarray | None = None) -> Folding:
    """Count the foldings of a Jacobian determinant map, everywhere or where a mask of its shape is true."""
    inside = determinant.ravel() if mask is None else determinant[mask]
    folded = inside[inside <= 0]
    percent = 100 * folded.size / inside.size if inside.size else 0.0
    return Folding(folded.size, percent, np.abs(folded).sum(dtype=float).item())
