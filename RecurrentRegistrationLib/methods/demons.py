"""Demons, as ITK has them, coarse to fine: needs no training.

Thirion, Image matching as a diffusion process: an analogy with Maxwell's demons, Medical Image Analysis 1998;
symmetric forces and the diffeomorphic variant by Vercauteren et al., NeuroImage 2009.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import SimpleITK as sitk
import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.methods.base import Card, Clock, Method, Turn

CARD = Card(
    name="demons",
    title="Demons",
    summary="Pushes every voxel along the image gradient and smooths the displacement; for images of one modality.",
    reference="Vercauteren, Pennec, Perchant, Ayache: Diffeomorphic demons: Efficient non-parametric image "
    "registration, NeuroImage 2009",
    trained=False,
    default_steps=12,
    recurrent=True,
    bytes_per_voxel=200,
)
FORCES = {
    "classic": sitk.DemonsRegistrationFilter,
    "symmetric": sitk.SymmetricForcesDemonsRegistrationFilter,
    "fast-symmetric": sitk.FastSymmetricForcesDemonsRegistrationFilter,
    "diffeomorphic": sitk.DiffeomorphicDemonsRegistrationFilter,
}
SHRINK = (4, 2, 1)
SMALLEST = 8  # voxels: no axis is shrunk below


class State(NamedTuple):
    """Steps made and the total displacement in voxels of its own lattice."""

    index: int
    displacement: Tensor


class Demons(Method):
    """SimpleITK's demons at 1/4, 1/2 and the full size; further steps go on at the full size.

    Args:
        dimension: 2 or 3.
        forces: "classic", "symmetric", "fast-symmetric" or "diffeomorphic".
        smoothing: standard deviation in voxels of the Gaussian on the displacement after each iteration.
        iterations: per step.
        steps_per_level: before the next finer level.

    Raises:
        InputError: the forces are none of these.
    """

    card = CARD

    def __init__(
        self,
        dimension: int = 3,
        *,
        forces: str = "diffeomorphic",
        smoothing: float = 1.5,
        iterations: int = 10,
        steps_per_level: int = 4,
    ) -> None:
        super().__init__()
        if forces not in FORCES:
            raise InputError(f"There are no demons with '{forces}' forces; choose one of {', '.join(FORCES)}.")
        self.forces, self.smoothing, self.iterations = forces, smoothing, iterations
        self.steps_per_level = steps_per_level

    def steps(self, fixed, moving, *, fixed_mask=None, moving_mask=None, count=None, state=None) -> Iterator[Turn]:
        """One step for every few iterations; ITK's demons know no masks."""
        clock, shape = Clock(), tuple(fixed.shape[2:])
        first, displacement = state or State(0, spatial.zero_displacement(_shrunk(fixed, SHRINK[0])))
        for index in range(first, first + (self.card.default_steps if count is None else count)):
            level = min(index // self.steps_per_level, len(SHRINK) - 1)
            previous = displacement
            displacement = self._refine(_shrunk(fixed, SHRINK[level]), _shrunk(moving, SHRINK[level]), displacement)
            stage = "full res" if SHRINK[level] == 1 else f"1/{SHRINK[level]} res"
            yield Turn(index + 1, stage, displacement, shape, clock(), State(index + 1, displacement), previous)

    def _refine(self, fixed: Tensor, moving: Tensor, displacement: Tensor) -> Tensor:
        displacement = spatial.resize_displacement(displacement, fixed.shape[2:])
        pairs = zip(fixed, moving, displacement, strict=True)
        return torch.stack([self._iterate(*pair) for pair in pairs]).to(displacement)

    def _iterate(self, fixed: Tensor, moving: Tensor, displacement: Tensor) -> Tensor:
        demons = FORCES[self.forces]()
        demons.SetNumberOfIterations(self.iterations)
        demons.SetSmoothDisplacementField(self.smoothing > 0)
        demons.SetStandardDeviations(self.smoothing)
        field = demons.Execute(_image(fixed[0]), _image(moving[0]), _field(displacement))
        return torch.from_numpy(sitk.GetArrayFromImage(field)).movedim(-1, 0).flip(0)


def _shrunk(image: Tensor, factor: int) -> Tensor:
    """The image smoothed and resampled to a `factor`-th of its size."""
    if factor == 1:
        return image
    shape = [min(n, max(-(-n // factor), SMALLEST)) for n in image.shape[2:]]
    return spatial.resize(spatial.gaussian_smooth(image, factor / 2), shape)


def _image(values: Tensor) -> Any:
    """An ITK image whose millimetres are voxels."""
    return sitk.GetImageFromArray(values.detach().cpu().float().numpy())


def _field(displacement: Tensor) -> Any:
    """`[d, *S]` as an ITK displacement: components in the order x, y[, z]."""
    array = displacement.detach().cpu().double().flip(0).movedim(0, -1).contiguous().numpy()
    return sitk.GetImageFromArray(array, isVector=True)


def create(dimension: int = 3, **options) -> Demons:
    """Demons for 2 or 3 dimensions; see the options of `Demons`."""
    return Demons(dimension, **options)
