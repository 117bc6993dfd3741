"""Flat views through a grid: axial, coronal and sagittal, the way a radiologist looks at them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from RecurrentRegistrationLib.volume import Grid

# Horizontal (to the right), vertical (downwards) and normal axis of each view, in LPS, and its four edges.
VIEWS = {
    "axial": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "coronal": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
}
LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))


@dataclass(frozen=True)
class Plane:
    """One view.

    Attributes:
        name: "axial", "coronal", "sagittal"; "image" in 2D.
        grid: square pixels; columns to the right, rows downwards, in 3D one voxel thick.
        edges: letters at the left, right, top and bottom edge; empty in 2D, whose headers do not tell.
    """

    name: str
    grid: Grid
    edges: tuple[str, str, str, str]


def planes(grid: Grid, centre: np.ndarray, *, pixels: int = 256) -> list[Plane]:
    """Views of a grid through a physical point, its longest side `pixels` long.

    The views follow the grid's own axes, each named by the anatomical axis it is closest to.
    """
    pixel = max(grid.extent) / pixels
    if grid.dimension == 2:
        return [Plane("image", grid.resampled(pixel), ("", "", "", ""))]
    axes = _anatomical_axes(grid)
    return [_plane(name, grid, axes, centre, pixel) for name in VIEWS]


def _anatomical_axes(grid: Grid) -> list[tuple[int, int]]:
    """For L, P and S: the index axis nearest to it, and +1 or -1 for whether that runs along or against it."""
    cosines = grid.cosines
    best = max(itertools.permutations(range(3)), key=lambda order: sum(abs(cosines[r, a]) for r, a in enumerate(order)))
    return [(axis, 1 if cosines[row, axis] >= 0 else -1) for row, axis in enumerate(best)]


def _plane(name: str, grid: Grid, axes: list[tuple[int, int]], centre: np.ndarray, pixel: float) -> Plane:
    start = np.full(3, -0.5)  # the outer corner of the grid from which the view's columns and rows run
    columns, edges, size = [], [], []
    for anatomical in VIEWS[name]:
        row = int(np.flatnonzero(anatomical)[0])
        axis, sign = axes[row]
        sign *= anatomical[row]
        columns.append(grid.cosines[:, axis] * sign)
        size.append(max(1, round(grid.extent[axis] / pixel)))
        low, high = LETTERS[row] if anatomical[row] > 0 else LETTERS[row][::-1]
        edges += [low, high]
        if sign < 0:
            start[axis] = grid.size[axis] - 0.5
    normal = axes[int(np.flatnonzero(VIEWS[name][2])[0])][0]
    start[normal] = np.clip(round(grid.index(centre)[normal]), 0, grid.size[normal] - 1)
    direction = np.stack(columns, axis=1)
    origin = grid.physical(start) + direction[:, :2] @ np.full(2, pixel / 2)
    spacing = (pixel, pixel, grid.spacing[normal])
    flat = Grid((size[0], size[1], 1), spacing, tuple(origin.tolist()), tuple(direction.ravel().tolist()))
    return Plane(name, flat, (edges[0], edges[1], edges[2], edges[3]))
