"""The search for large motion between the linear start and the deformation: whether it is needed, and on what grid.

A first look decides: one coarse level of the search over a wide window, a fraction of a second. Where both directions
agree, it tells how far the anatomy still is from where the linear map puts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.methods.convex import Convex
from RecurrentRegistrationLib.pipeline.comparison import Comparison
from RecurrentRegistrationLib.pipeline.preparation import Prepared
from RecurrentRegistrationLib.transform import DisplacementField
from RecurrentRegistrationLib.volume import Grid

# Millimetres that refinement alone bridges in an anatomy of 250 mm, in proportion elsewhere. Breathing livers of 7 mm
# were as exact without a search; those of 11 mm were 2.0 mm off without one and 1.0 mm with it.
REACH, ANATOMY = 8.5, 250.0
NEAR = 4  # voxels of the working grid that it bridges in any case
LOOK, SEARCH = 64, 100  # voxels along the longest side of the first look and of the search
TIE = 0.98  # of the similarity after a look: from there on the simpler start is as good
TISSUE = 0.1  # of the intensities: below it there is nothing to see


@dataclass(frozen=True)
class Motion:
    """What a first look tells.

    Attributes:
        length: millimetres that all but the farthest twentieth of the body move at most.
        believed: share of the body where both directions agree to a point of the look's grid.
        reach: millimetres that need no search.
        field: what was found, coarse.
    """

    length: float
    believed: float
    reach: float
    field: DisplacementField

    @property
    def wants_search(self) -> bool:
        """Whether what moves is too far for a refinement alone, and most of it can be found."""
        return self.length > self.reach and self.believed > 0.5

    @property
    def note(self) -> str:
        """What was found, in a sentence."""
        return f"A first look: the anatomy is up to {self.length:.0f} mm from where the linear map puts it."


def judged_start(
    images: tuple[Prepared, Prepared], starts: Sequence[np.ndarray], grid: Grid, comparison: Comparison
) -> tuple[np.ndarray, Motion]:
    """The linear map that a search is to start from, and what a first look tells of the motion after the last one.

    A linear map that follows one organ carries everything else along, which a search then has to bring back. So where
    there is much to search for, a simpler map is taken as soon as it shows the images as alike after a first look.

    Args:
        images: fixed and moving.
        starts: linear maps, the simplest first; the last is what the linear stage found.
        grid: the working grid, which the look coarsens.
        comparison: what measures.
    """
    *simpler, found = starts
    motion = look(*images, found, grid)
    if not motion.wants_search:
        return found, motion
    reached = comparison.at(comparison.mapped(motion.field, found))
    for start in simpler:
        if np.array_equal(start, found):
            break
        field = look(*images, start, grid).field
        if comparison.at(comparison.mapped(field, start)) >= TIE * reached:
            return start, motion
    return found, motion


def look(fixed: Prepared, moving: Prepared, linear: np.ndarray, grid: Grid) -> Motion:
    """How far the anatomy still moves after a linear map.

    Args:
        fixed: the fixed image.
        moving: the moving image.
        linear: from fixed to moving points, LPS millimetres.
        grid: the working grid, which the look coarsens.
    """
    reach = max(REACH * max(grid.extent) / ANATOMY, NEAR * grid.pitch)
    grid = _coarser(grid, LOOK)
    here, there = fixed.onto(grid), moving.onto(grid, linear)
    method = Convex(pitches=(3,), radii=(4,))
    *_, last = method.steps(here.values, there.values, fixed_mask=here.mask, moving_mask=there.mask)
    size = last.values.shape[2:]
    length = (last.values * _spacing(grid, size).to(last.values).view(1, -1, *[1] * len(size))).norm(dim=1)
    body = spatial.resize(here.values, size)[:, 0] > TISSUE
    if here.mask is not None:
        body &= spatial.resize(here.mask, size)[:, 0] > 0.5
    believed = body & (last.attached["residual"][:, 0] < 1)
    share = float(believed.sum() / body.sum().clamp_min(1))
    farthest = float(length[believed].quantile(0.95)) if believed.any() else 0.0
    field = DisplacementField(spatial.resize_displacement(last.values, grid.shape), grid)
    return Motion(farthest, share, reach, field)


def search_grid(grid: Grid) -> Grid:
    """Where the search works: through the outer voxels of a working grid, and coarse."""
    return _coarser(grid, SEARCH)


def create_search() -> Convex:
    """What searches there."""
    return Convex()


def _coarser(grid: Grid, count: int) -> Grid:
    """The grid with about `count` voxels along the longest side; the same where that is not coarser."""
    sides = [((n - 1) * s, s) for n, s in zip(grid.size, grid.spacing, strict=True) if n > 1]
    spacing = max(side for side, _ in sides) / (count - 1)
    return grid.between(spacing) if spacing > max(s for _, s in sides) else grid


def _spacing(grid: Grid, size: torch.Size) -> Tensor:
    """Millimetres between points of a grid of this size through the outer voxels, in tensor order."""
    sides = zip(grid.shape, size, grid.spacing[::-1], strict=True)
    return torch.tensor([(n - 1) / max(m - 1, 1) * s for n, m, s in sides], dtype=torch.float32)
