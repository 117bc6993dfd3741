"""The vector momentum parametrised stationary velocity field (vSVF) of AVSM.

A momentum `m` is smoothed to a velocity, `v = K m`, and the velocity carries a map along for one unit of time:
`d Phi / dt = -(D Phi) v`, from which `Phi(1) = Phi(0) o phi_v^-1` for whatever map it starts with (Shen et al.,
Networks for Joint Affine and Non-parametric Image Registration, CVPR 2019, Eqs. 4 to 6).

The paper counts in coordinates where the image is the unit cube. Here maps are displacements in voxels, as everywhere,
and `VSVF` is the one place that converts: only momenta, velocities and energies of the paper are in its units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.transport import transport

SIGMAS = (0.05, 0.1, 0.15, 0.2, 0.25)

Boundary = Literal["periodic", "zeros", "mirror"]


class MultiGaussian(nn.Module):
    """`K m = sum_i w_i G_i * m`: Gaussians that each sum to 1 on the grid, applied in the Fourier domain.

    Args:
        sigmas: standard deviations as fractions of the image's extent.
        weights: of the Gaussians; None for `sigma_i / sum(sigma)`.
        boundary: what lies beyond the border: the opposite side (`periodic`, as in the authors' code), nothing
            (`zeros`) or the image's reflection (`mirror`); the latter two transform a grid twice as long per axis.
        isotropic: take the fractions of the longest axis along all axes, so that the smoothing is the same in every
            direction of an isotropic grid; otherwise of each axis by itself, as in the authors' code.
    """

    def __init__(
        self,
        sigmas: Sequence[float] = SIGMAS,
        weights: Sequence[float] | None = None,
        *,
        boundary: Boundary = "periodic",
        isotropic: bool = False,
    ) -> None:
        super().__init__()
        self.sigmas = tuple(sigmas)
        self.weights = tuple(weights or (sigma / sum(sigmas) for sigma in sigmas))
        self.boundary = boundary
        self.isotropic = isotropic
        self._filters: dict[tuple, Tensor] = {}

    def extent(self, shape: Sequence[int]) -> list[int]:
        """Voxels in one unit of length, along each axis."""
        lengths = [max(n - 1, 1) for n in shape]
        return [max(lengths)] * len(lengths) if self.isotropic else lengths

    def forward(self, momentum: Tensor) -> Tensor:
        """Smooth `[B, C, *S]`, every channel alike."""
        shape, axes = momentum.shape[2:], tuple(range(2, momentum.ndim))
        if self.boundary == "mirror":
            for axis in axes:
                momentum = torch.cat([momentum, momentum.flip(axis)], dim=axis)
        period = [n if self.boundary == "periodic" else 2 * n for n in shape]
        spectrum = torch.fft.rfftn(momentum, s=period, dim=axes) * self._filter(shape, period, momentum)
        smooth = torch.fft.irfftn(spectrum, s=period, dim=axes)
        return smooth[(..., *[slice(n) for n in shape])].contiguous()

    def _filter(self, shape: Sequence[int], period: Sequence[int], like: Tensor) -> Tensor:
        """Fourier transform of the sum of Gaussians, real because they are even."""
        key = (tuple(shape), like.dtype, like.device)
        if key not in self._filters:
            kernel = torch.zeros(*period, dtype=torch.float64)
            for sigma, weight in zip(self.sigmas, self.weights, strict=True):
                gaussian = torch.ones((), dtype=torch.float64)
                for length, n in zip(self.extent(shape), period, strict=True):
                    distance = torch.arange(n, dtype=torch.float64)
                    distance = torch.minimum(distance, n - distance)
                    line = torch.exp(-0.5 * (distance / (sigma * length)) ** 2)
                    gaussian = gaussian.unsqueeze(-1) * (line / line.sum())
                kernel += weight * gaussian
            self._filters[key] = torch.fft.rfftn(kernel).real.to(like)
        return self._filters[key]


def advect(displacement: Tensor, velocity: Tensor, *, time_steps: int = 10) -> Tensor:
    """Carry a map `id + u` along a stationary velocity for one unit of time: `u` of `(id + u) o phi_v^-1`.

    Runge-Kutta of order four on `du/dt = -v - (D u) v`, central differences, linear extrapolation beyond the border.

    Args:
        displacement: `[B, d, *S]`, voxels.
        velocity: `[B, d, *S]`, voxels per unit of time.
        time_steps: into which the unit is divided.
    """
    step = 1 / time_steps
    for _ in range(time_steps):
        # The equation is linear with constant coefficients, so the four stages are the Taylor polynomial of order four.
        term = transport(displacement, velocity, step, identity=True)
        displacement = displacement + term
        for order in (2, 3, 4):
            term = transport(term, velocity, step / order)
            displacement = displacement + term
    return displacement


class Advected(NamedTuple):
    """What one vSVF step gives.

    Attributes:
        displacement: the map after it, `[B, d, *R]`, voxels.
        velocity: `[B, d, *R]`, voxels per unit of time, as used (after the clamp).
        energy: `<m, v>` over the unit cube, `[B]` (before the clamp).
        clamped: share of velocity components that the clamp cut, `[B]`.
    """

    displacement: Tensor
    velocity: Tensor
    energy: Tensor
    clamped: Tensor


class VSVF(nn.Module):
    """From a momentum and an initial map to the map after one unit of time.

    Args:
        smoother: from momentum to velocity; None for the paper's.
        time_steps: of the integration.
        clamp: cut velocity components that would move further in one time step than is stable,
            `|v| <= 0.75 * 2 sqrt(2) / d` voxels. One vSVF step then moves at most `time_steps` times as far: about 7
            voxels of its grid in 3D, 10 in 2D. What it cuts is no longer smooth: watch `Advected.clamped`.
    """

    def __init__(self, smoother: MultiGaussian | None = None, *, time_steps: int = 10, clamp: bool = True) -> None:
        super().__init__()
        self.smoother = smoother or MultiGaussian()
        self.time_steps = time_steps
        self.clamp = clamp

    def forward(self, momentum: Tensor, initial: Tensor) -> Advected:
        """Momentum `[B, d, *R]` in the unit cube's coordinates, initial map `[B, d, *R]` in voxels."""
        dimension, shape = spatial.dimension_of(momentum), momentum.shape[2:]
        smooth = self.smoother(momentum)
        volume = math.prod(self.smoother.extent(shape))
        energy = (momentum * smooth).flatten(1).sum(1) / volume
        velocity = smooth * smooth.new_tensor(self.smoother.extent(shape)).view(1, -1, *[1] * dimension)
        bound = self.time_steps * 0.75 * 2 * math.sqrt(2) / dimension if self.clamp else math.inf
        clamped = (velocity.detach().abs() > bound).flatten(1).float().mean(1)
        if self.clamp:
            velocity = velocity.clamp(-bound, bound)
        displacement = advect(initial, velocity, time_steps=self.time_steps)
        return Advected(displacement, velocity, energy, clamped)
