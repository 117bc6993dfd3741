"""A head-like picture without symmetry: the same at every resolution, turned and deformed at will."""

from __future__ import annotations

import numpy as np

from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Grid, Volume

_RNG = np.random.default_rng(7)
_BLOBS = _RNG.uniform(-26, 26, (60, 3))
_WIDTHS = _RNG.uniform(4, 9, 60)
_HEIGHTS = _RNG.uniform(-0.6, 1.0, 60)


def intensity(points: np.ndarray) -> np.ndarray:
    """Values of `[N, d]` points in millimetres: an ellipsoid of tissue with bright and dark spots, air around it."""
    d = points.shape[1]
    inside = np.clip(6 * (1 - np.linalg.norm(points / np.array([30.0, 38.0, 33.0])[:d], axis=1)), 0, 1)
    squared = ((points[:, None] - _BLOBS[None, :, :d]) ** 2).sum(axis=2)
    return inside * (1 + (_HEIGHTS * np.exp(-squared / (2 * _WIDTHS**2))).sum(axis=1)).clip(0.1)


def head(grid: Grid, to_head: Transform | None = None) -> Volume:
    """The head on a grid; `to_head` maps the grid's points to the head's."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    points = grid.physical(index.reshape(-1, grid.dimension)[:, ::-1])
    points = points if to_head is None else to_head.map_points(points)
    return Volume(intensity(points).reshape(1, *grid.shape).astype(np.float32), grid)


def centred(shape: tuple[int, ...], spacing: tuple[float, ...], cosines: np.ndarray | None = None) -> Grid:
    """A grid (shape in tensor order, spacing in index order) whose middle is the physical origin."""
    d = len(shape)
    cosines = np.eye(d) if cosines is None else cosines
    grid = Grid(tuple(shape)[::-1], spacing, (0.0,) * d, tuple(cosines.ravel().tolist()))
    return Grid(grid.size, grid.spacing, tuple((-grid.centre).tolist()), grid.direction)
