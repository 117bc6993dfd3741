"""Demons, as ITK has them, coarse to fine: needs no training.

Thirion, Image matching as a diffusion process: an analogy with Maxwell's demons, Medical Image Analysis 1998;
symmetric forces and the diffeomorphic variant by Vercauteren et al., NeuroImage 2009.
"""

from __future__ import annotations

from typing import Any

import SimpleITK as sitk
import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.methods.base import Card, Method, Pair, State

CARD = Card(
    name="demons",
    title="Demons",
    summary="Pushes every voxel along the image gradient and smooths the displacement; for images of one modality.",
    reference="Vercauteren, Pennec, Perchant, Ayache: Diffeomorphic demons: Efficient non-parametric image "
    "registration, NeuroImage 2009",
    trained=False,
    default_steps=12,
    initial=True,
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

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`."""
        return State(field=spatial.zero_displacement(_shrunk(pair.fixed, SHRINK[0])) if initial is None else initial)

    def advance(self, pair: Pair, state: State) -> State:
        """A few iterations; ITK's demons know no masks."""
        factor = SHRINK[min(state.index // self.steps_per_level, len(SHRINK) - 1)]
        images = pair.once(factor, lambda: [_shrunk(image, factor) for image in (pair.fixed, pair.moving)])
        return state.after(self._refine(*images, state.field), "full res" if factor == 1 else f"1/{factor} res")

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
