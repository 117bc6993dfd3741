"""Paired landmarks on a grid: how far they are from each other, and a smooth update that brings them together.

The update interpolates what every landmark lacks by the compactly supported kernel of Wendland (Advances in
Computational Mathematics 1995), C2 and positive definite in up to three dimensions: beyond its radius nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.boxes import Box, box_between

NEAREST = 8.0  # voxels: the kernel's radius for landmarks that are almost together
WIDER = 5.0  # times what is lacking: the radius for those that are not, so that the update is no steeper than 0.45
STEEPEST = 0.4  # difference of two landmarks' updates, over their distance
RIDGE = 0.01  # of the kernel matrix for a localisation error of one millimetre


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Pairs of points in voxels of one grid, tensor order.

    Attributes:
        fixed: `[N, d]`.
        moving: `[N, d]`, where a displacement should take them.
        spacing: `[d]`, millimetres.
        error: `[N]`, how well each is known, millimetres.
        flat: `[d]`, 1 along axes of one voxel, where nothing can move.
    """

    fixed: Tensor
    moving: Tensor
    spacing: Tensor
    error: Tensor
    flat: Tensor

    def lacking(self, displacement: Tensor) -> Tensor:
        """What `displacement` `[1, d, *S]` still lacks at each, `[N, d]` voxels."""
        return (self.moving - spatial.move_points(displacement, self.fixed)) * (1 - self.flat)

    def distances(self, displacement: Tensor) -> Tensor:
        """The same in millimetres, `[N]`."""
        return (self.lacking(displacement) * self.spacing).norm(dim=1)

    def radii(self, displacement: Tensor) -> Tensor:
        """Millimetres from each landmark within which an update moves anything, `[N]`."""
        least = NEAREST * float(self.spacing[self.flat == 0].max())
        return (WIDER * self.distances(displacement)).clamp(min=least)

    def update(self, displacement: Tensor, counted: Tensor | None = None) -> Tensor:
        """A small displacement to be followed first, `[1, d, *S]`, that takes the landmarks nearer to each other.

        Args:
            displacement: so far, `[1, d, *S]`.
            counted: `[N]`, false for landmarks to be left where they are; None for none.
        """
        wanted = self._wanted(displacement)
        if counted is not None:
            wanted = wanted * counted[:, None]
        update = torch.zeros_like(displacement)
        radius = float(self.radii(displacement).max())
        between = torch.cdist(self.fixed * self.spacing, self.fixed * self.spacing)
        wanted = _gentle(wanted * self.spacing, between, radius) / self.spacing
        ridge = torch.diag(RIDGE * self.error.square() + 1e-6)
        weights = torch.linalg.solve((kernel(between / radius) + ridge).double(), wanted.double()).to(wanted)
        for point, weight in zip(self.fixed, weights, strict=True):
            for box, value in self.around(point, radius, displacement.shape[2:]):
                update[box] += weight.view(1, -1, *[1] * len(point)) * value
        return update

    def _wanted(self, displacement: Tensor) -> Tensor:
        """Where each would have to begin to end at its partner, less where it does begin: `[N, d]` voxels."""
        lacking = self.lacking(displacement)
        begin = spatial.preimage(displacement, _as_image(self.moving), start=_as_image(self.fixed + lacking))
        wanted = (begin.reshape(lacking.shape[1], -1).T - self.fixed) * (1 - self.flat)
        longest = 3 * lacking.norm(dim=1, keepdim=True)
        return torch.where(wanted.norm(dim=1, keepdim=True) <= longest, wanted, lacking)

    def around(self, point: Tensor, radius: float, shape: tuple[int, ...]) -> Iterator[tuple[Box, Tensor]]:
        """The box of a kernel in a tensor `[1, C, *S]` and its values there, if it reaches the grid at all."""
        reach = radius / self.spacing
        first = [max(0, int(torch.ceil(p - r))) for p, r in zip(point, reach, strict=True)]
        last = [min(n - 1, int(torch.floor(p + r))) for p, r, n in zip(point, reach, shape, strict=True)]
        if any(b < a for a, b in zip(first, last, strict=True)):
            return
        squared = torch.zeros(())
        for axis, (a, b) in enumerate(zip(first, last, strict=True)):
            steps = torch.arange(a, b + 1, device=point.device)
            part = ((steps - point[axis]) / reach[axis]).square()
            squared = squared.to(part) + part.view([-1 if other == axis else 1 for other in range(len(first))])
        yield box_between(first, [b + 1 for b in last]), kernel(squared.sqrt())


def kernel(distance: Tensor) -> Tensor:
    """Wendland's function of a distance in radii: 1 at 0, 0 from 1 on."""
    return (1 - distance).clamp(min=0).pow(4) * (4 * distance + 1)


def _gentle(wanted: Tensor, between: Tensor, radius: float) -> Tensor:
    """`[N, d]` millimetres, shortened so that neither a landmark alone nor two of them fold what lies around."""
    length = wanted.norm(dim=1, keepdim=True)
    share = (STEEPEST * radius / 2.2 / length.clamp(min=1e-6)).clamp(max=1)
    apart = torch.cdist(wanted * share, wanted * share)
    pairs = (STEEPEST * between / apart.clamp(min=1e-6)).fill_diagonal_(1).clamp(max=1)
    return wanted * share * pairs.amin(dim=1, keepdim=True)


def _as_image(points: Tensor) -> Tensor:
    """Points `[N, d]` as coordinates `[1, d, 1, …, N]`."""
    return points.T.reshape(1, points.shape[1], *[1] * (points.shape[1] - 1), -1)
