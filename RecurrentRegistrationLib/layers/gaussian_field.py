"""A displacement with the shape of one Gaussian, and the soft position that centres it.

Units are **normalised**: -1 and 1 are the centres of the first and the last voxel along every axis, so a displacement
of 2 crosses the image. Components follow the tensor's axes (2D: y, x; 3D: z, y, x). All is computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def axis_coordinates(shape: Sequence[int], *, device: torch.device | None = None) -> list[Tensor]:
    """Normalised coordinates along each axis, shaped to broadcast over `[*S]`; the only voxel of an axis lies at 0."""
    dimension = len(shape)
    lines = [torch.linspace(-1, 1, n, device=device) if n > 1 else torch.zeros(1, device=device) for n in shape]
    return [line.view([-1 if a == axis else 1 for a in range(dimension)]) for axis, line in enumerate(lines)]


def coordinate_channels(like: Tensor) -> Tensor:
    """Normalised coordinates `[B, d, *S]` of the grid of `[B, C, *S]`, to be seen by a convolution."""
    shape = like.shape[2:]
    axes = axis_coordinates(shape, device=like.device)
    return torch.stack([axis.expand(shape) for axis in axes]).expand(like.shape[0], -1, *shape).to(like.dtype)


def rotation_of_angle(angle: Tensor) -> Tensor:
    """Rotations `[B, 2, 2]` by angles `[B, 1]`, radians."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)], dim=1)


def rotation_of_quaternion(quaternion: Tensor) -> Tensor:
    """Rotations `[B, 3, 3]` by quaternions `[B, 4]` (real part first) of any length but zero."""
    w, a, b, c = torch.nn.functional.normalize(quaternion, dim=1).unbind(1)
    rows = [
        [1 - 2 * (b * b + c * c), 2 * (a * b - w * c), 2 * (a * c + w * b)],
        [2 * (a * b + w * c), 1 - 2 * (a * a + c * c), 2 * (b * c - w * a)],
        [2 * (a * c - w * b), 2 * (b * c + w * a), 1 - 2 * (a * a + b * b)],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


@dataclass(frozen=True)
class Gaussian:
    """`l(x) = weight exp(-(x - centre)^T R diag(sigma^-2) R^T (x - centre) / 2)`, one for each item of a batch.

    Sandkühler et al., Recurrent Registration Neural Networks for Deformable Image Registration, NeurIPS 2019, Eqs. 8
    and 9 with sigma as standard deviation.

    Attributes:
        centre: `[B, d]`.
        sigma: standard deviations along the rotated axes, `[B, d]`.
        orientation: an angle `[B, 1]` in 2D, a quaternion `[B, 4]` in 3D.
        weight: the displacement at the centre, `[B, d]`.
    """

    centre: Tensor
    sigma: Tensor
    orientation: Tensor
    weight: Tensor

    @property
    def rotation(self) -> Tensor:
        """The rotation `R`, `[B, d, d]`."""
        of = rotation_of_angle if self.centre.shape[1] == 2 else rotation_of_quaternion
        return of(self.orientation)

    @property
    def precision(self) -> Tensor:
        """The inverse covariance `[B, d, d]`."""
        rotation = self.rotation  # summed by hand: autocast would run a matrix product in half precision
        scaled = rotation / self.sigma.square().unsqueeze(1)
        return (scaled.unsqueeze(2) * rotation.unsqueeze(1)).sum(dim=3)

    def displacement(self, shape: Sequence[int]) -> Tensor:
        """The dense displacement `[B, d, *S]`, normalised units."""
        precision, dimension = self.precision, len(shape)

        def item(values: Tensor) -> Tensor:
            return values.view(-1, *[1] * dimension)

        offsets = [
            axis - item(self.centre[:, a]) for a, axis in enumerate(axis_coordinates(shape, device=self.centre.device))
        ]
        # Horner by axes, the last first: lines, then planes, and only two operations over the whole volume.
        form: Tensor | float = 0.0
        for a in reversed(range(dimension)):
            slope = item(precision[:, a, a]) * offsets[a]
            for b in range(a + 1, dimension):
                slope = slope + 2 * item(precision[:, a, b]) * offsets[b]
            form = form + offsets[a] * slope
        bump = torch.exp(-0.5 * form).unsqueeze(1)
        return self.weight.view(*self.weight.shape, *[1] * dimension) * bump

    def mean_length(self, unit: Tensor) -> Tensor:
        """Mean length of the displacement over the image `[B]`, as if all of the Gaussian lay inside.

        `unit [d]` says how long a displacement of 1 is along each axis.
        """
        dimension = self.sigma.shape[1]
        return (self.weight * unit).norm(dim=1) * self.sigma.prod(dim=1) * (torch.pi / 2) ** (dimension / 2)


def spatial_softmax(logits: Tensor) -> Tensor:
    """Softmax over space of every channel of `[B, C, *S]`."""
    return logits.float().flatten(2).softmax(dim=2).view(logits.shape)


def expected_position(probability: Tensor) -> Tensor:
    """Mean normalised position `[B, d]` under a distribution over space `[B, 1, *S]`."""
    coordinates = axis_coordinates(probability.shape[2:], device=probability.device)
    return torch.stack([(probability[:, 0] * axis).flatten(1).sum(1) for axis in coordinates], dim=1)
