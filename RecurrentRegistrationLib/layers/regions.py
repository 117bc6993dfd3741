"""Regions that move as rigid bodies, or not at all: a displacement projected onto what they may do.

The best rigid map is that of Arun, Huang and Blostein (IEEE PAMI 1987). Around a region it fades into the displacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.boxes import Box, first_of
from RecurrentRegistrationLib.transform import Affine


@dataclass(frozen=True, eq=False)
class Region:
    """One connected region of a grid.

    Attributes:
        box: where it lies in a tensor `[1, C, *S]`, what fades around it included.
        weight: `[1, 1, *box]`: 1 in the region, 0 where it means nothing.
        points: `[P, d]` places in it, voxels of the grid, that tell how it moves; None where it does not move.
    """

    box: Box
    weight: Tensor
    points: Tensor | None


@dataclass(frozen=True, eq=False)
class Regions:
    """All of them.

    Attributes:
        regions: one by one.
        to_fixed: homogeneous matrix from voxels (tensor order) to fixed points, millimetres.
        to_moving: the same to moving points, for voxels that were displaced.
    """

    regions: Sequence[Region]
    to_fixed: np.ndarray
    to_moving: np.ndarray

    def projected(self, displacement: Tensor) -> Tensor:
        """The displacement `[1, d, *S]` with every region moved by its best rigid map, or left where it is."""
        if not self.regions:
            return displacement
        projected = displacement.clone()
        for region in self.regions:
            here = displacement[region.box]
            projected[region.box] += region.weight * (self._rigid(displacement, region) - here)
        return projected

    def misfit(self, displacement: Tensor, region: Region) -> float:
        """Greatest distance, millimetres, of a place in a region from where it may go."""
        voxels, here, there = self._places(displacement, region)
        matrix, points = (self.to_moving, voxels) if region.points is None else (rigid_map(here, there), here)
        expected = Affine(matrix).map_points(points)
        return float(np.linalg.norm(expected - there, axis=1).max())

    def _rigid(self, displacement: Tensor, region: Region) -> Tensor:
        """What the displacement would be in a region's box."""
        d, size = displacement.shape[1], region.weight.shape[2:]
        if region.points is None:
            return displacement.new_zeros(1, d, *size)
        _, here, there = self._places(displacement, region)
        voxels = np.linalg.inv(self.to_moving) @ rigid_map(here, there) @ self.to_fixed
        shift = np.eye(d + 1)
        shift[:-1, -1] = first_of(region.box)
        return spatial.linear_displacement(np.linalg.inv(shift) @ voxels @ shift, size, device=displacement.device)

    def _places(self, displacement: Tensor, region: Region) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places of a region in voxels, as fixed points, and as moving points, `[P, d]` each."""
        if region.points is None:
            points = (region.weight[0, 0] >= 1).nonzero().to(displacement) + displacement.new_tensor(
                first_of(region.box)
            )
        else:
            points = region.points.to(displacement)
        moved = spatial.move_points(displacement, points)
        voxels, displaced = points.double().cpu().numpy(), moved.double().cpu().numpy()
        return voxels, Affine(self.to_fixed).map_points(voxels), Affine(self.to_moving).map_points(displaced)


def rigid_map(here: np.ndarray, there: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """The rotation and translation that take points `[N, d]` nearest to others, a homogeneous matrix."""
    weight = np.ones(len(here)) if weight is None else weight
    weight = weight / weight.sum()
    first, second = weight @ here, weight @ there
    u, _, vt = np.linalg.svd((there - second).T @ ((here - first) * weight[:, None]))
    sign = np.ones(len(u))
    sign[-1] = np.sign(np.linalg.det(u @ vt))
    matrix = np.eye(len(u) + 1)
    matrix[:-1, :-1] = (u * sign) @ vt
    matrix[:-1, -1] = second - matrix[:-1, :-1] @ first
    return matrix


def faded(distance: np.ndarray, whole: float, width: float) -> Tensor:
    """Weights that are 1 up to a distance and fade to 0 over a width."""
    share = np.clip(1 - (distance - whole) / width, 0, 1)
    return torch.from_numpy((share * share * (3 - 2 * share)).astype(np.float32))[None, None]
