"""One measure for a whole run: how alike the images are under any map, at the same points of the fixed image.

Some hundred small blocks of tissue are looked at, at the finest resolution that registers anything, so that a faint
detail counts as it does at the end, and a step costs next to nothing. The blocks depend on the images and their masks
alone: the same map has the same similarity, whichever step of whichever method it came from, and in `evaluate`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.losses.similarity import MutualInformation, normalised_mutual_information
from RecurrentRegistrationLib.pipeline.images import Images
from RecurrentRegistrationLib.pipeline.preparation import Prepared, antialiased
from RecurrentRegistrationLib.pipeline.presets import preset
from RecurrentRegistrationLib.pipeline.working_grid import working_grid
from RecurrentRegistrationLib.transform import DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid

SIDE = {2: 9, 3: 5}  # voxels of a block
BLOCKS = {2: 400, 3: 400}  # at most
TEXTURE = 1e-3  # variance of intensities in [0, 1] below which a block shows nothing


class Comparison:
    """The similarity of two images under a map; both in [0, 1], with the masks of what counts.

    Args:
        fixed: the fixed image.
        moving: the moving image.
        measure: a name of `MEASURES`.
    """

    def __init__(self, fixed: Prepared, moving: Prepared, measure: str) -> None:
        self._measure = MEASURES[measure]
        grid, _ = working_grid(fixed, None, lambda voxels: True)
        assert grid is not None
        index, inside = _blocks(fixed, grid)
        blocks, voxels, d = index.shape
        matrix = grid.tensor_to_physical
        self.points = index.reshape(-1, d) @ matrix[:-1, :-1].T + matrix[:-1, -1]
        self._shape = (blocks, voxels, *[1] * (d - 2))
        self._moving, self._grid = moving, moving.grid
        self._values = antialiased(moving.values, moving.grid, grid, moving.shown)
        at = self._coordinates(self.points, fixed.grid)
        smoothed = antialiased(fixed.values, fixed.grid, grid, fixed.shown)
        self._fixed = self._rows(spatial.sample_at(smoothed, at, padding="border"))
        self._inside = torch.from_numpy(inside.astype(np.float32)).to(self._fixed)

    def _coordinates(self, points: np.ndarray, grid: Grid) -> Tensor:
        """Physical points `[N, d]` as voxel coordinates `[1, d, *shape]` of a grid, tensor order."""
        matrix = grid.physical_to_tensor
        index = points @ matrix[:-1, :-1].T + matrix[:-1, -1]
        return torch.from_numpy(index.T.astype(np.float32)).reshape(1, -1, *self._shape).to(self._moving.values.device)

    def _rows(self, values: Tensor) -> Tensor:
        return values.reshape(self._shape[:2])

    def mapped(self, field: DisplacementField | None, linear: np.ndarray) -> np.ndarray:
        """Where the blocks' points go, `[N, d]`: through a deformation on its own grid, then a linear map."""
        points = self.points
        if field is not None:
            coordinates = self._coordinates(points, field.grid).to(field.values.device)
            moved = spatial.sample_at(field.values.float(), coordinates, padding="border")
            d = points.shape[1]
            voxels = moved.reshape(d, -1).T.double().cpu().numpy()
            points = points + voxels @ field.grid.tensor_to_physical[:-1, :-1].T
        return points @ linear[:-1, :-1].T + linear[:-1, -1]

    def at(self, mapped: np.ndarray) -> float:
        """Similarity where the points went, up to 1."""
        coordinates = self._coordinates(mapped, self._grid)
        warped = self._rows(spatial.sample_at(self._values, coordinates, padding="border"))
        size = torch.tensor(self._grid.shape, device=coordinates.device).view(1, -1, *[1] * len(self._shape))
        seen = ((coordinates > -0.5) & (coordinates < size - 0.5)).all(dim=1, keepdim=True).to(warped)
        weight = self._inside * self._rows(seen)
        if self._moving.mask is not None:
            weight = weight * self._rows(spatial.sample_at(self._moving.mask, coordinates))
        return self._measure(self._fixed, warped, weight, self._inside)


def _blocks(fixed: Prepared, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Tensor indices `[K, V, d]` of the voxels of the telling blocks, and whether each counts, `[K, V]`."""
    d = grid.dimension
    image = fixed.onto(grid)
    values = image.values[0, 0].cpu().numpy()
    counts = np.ones_like(values) if image.mask is None else (image.mask[0, 0] > 0.5).cpu().numpy()
    side = tuple(min(SIDE[d], n) for n in grid.shape)
    starts = [np.arange(0, n - s + 1, s) for n, s in zip(grid.shape, side, strict=True)]
    corners = np.stack([c.ravel() for c in np.meshgrid(*starts, indexing="ij")], axis=1)
    offsets = np.array(list(itertools.product(*map(range, side))))
    index = corners[:, None] + offsets
    sampled, inside = values[tuple(index.T)].T, counts[tuple(index.T)].T.astype(bool)
    mean = (sampled * inside).sum(1, keepdims=True) / np.maximum(inside.sum(1, keepdims=True), 1)
    variance = ((sampled - mean) ** 2 * inside).sum(1) / np.maximum(inside.sum(1), 1)
    usable = inside.mean(axis=1) >= 0.5
    telling = np.flatnonzero(usable & (variance > TEXTURE))
    if len(telling) < 4:  # faint or tiny: all that counts, then
        telling = np.flatnonzero(inside.any(axis=1))
    telling = telling[np.linspace(0, len(telling) - 1, min(len(telling), BLOCKS[d])).round().astype(int)]
    return index[telling], inside[telling]


def correlation(fixed: Tensor, warped: Tensor, weight: Tensor, inside: Tensor) -> float:
    """Mean over blocks `[K, V]` of the correlation of their voxels, -1 to 1; what is not seen counts 0."""
    total = weight.sum(1).clamp_min(1e-6)

    def mean(values: Tensor) -> Tensor:
        return (weight * values).sum(1) / total

    first, second = fixed - mean(fixed)[:, None], warped - mean(warped)[:, None]
    spread = (mean(first.square()) + TEXTURE / 10) * (mean(second.square()) + TEXTURE / 10)
    seen = weight.sum(1) / inside.sum(1).clamp_min(1e-6)
    counted = inside.sum(1)
    return float(((mean(first * second) + TEXTURE / 10) * spread.rsqrt() * seen * counted).sum() / counted.sum())


def information(fixed: Tensor, warped: Tensor, weight: Tensor, inside: Tensor) -> float:
    """Normalised mutual information less one of all blocks' voxels, 0 to 1, times the share of them that is seen."""
    flat = [values.reshape(1, 1, -1) for values in (fixed, warped, weight)]
    joint = MutualInformation().joint_histogram(*flat)
    return float((normalised_mutual_information(joint) - 1) * weight.sum() / inside.sum().clamp_min(1e-6))


MEASURES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], float]] = {
    "correlation": correlation,
    "information": information,
}


def measured(transform: Transform, images: Images, name: str = "auto") -> dict[str, str | float]:
    """The similarity under a transform, as a run of these images and this preset measures its steps.

    Args:
        transform: from fixed to moving points.
        images: the pair and its masks.
        name: of the preset; "auto" for the one that the values suggest.
    """
    settings = preset(images.looks_like if name == "auto" else name)
    comparison = Comparison(*images.prepared(settings, torch.device("cpu")), settings.measure)
    before, after = comparison.at(comparison.points), comparison.at(transform.map_points(comparison.points))
    return {"measure": settings.measure, "before": before, "after": after}


def mean_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Millimetres between points `[N, d]` and others, on average."""
    return float(np.linalg.norm(first - second, axis=1).mean()) if len(first) else math.nan
