"""Random displacements of known value, made where the images are: affine, smooth, bumpy and sliding ones.

All return `[1, d, *S]` in voxels. Every draw comes from a generator on the device that is made on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from RecurrentRegistrationLib import spatial


class RandomDisplacement:
    """What draws displacements."""

    def __call__(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """One displacement `[1, d, *S]`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Deformation(RandomDisplacement):
    """A random deformation: sliding, then smooth, bumpy and thin-plate, then affine. 0 turns a part off.

    Attributes:
        rotation: largest angle in degrees about a random axis.
        translation: largest shift along each axis, voxels.
        scale: largest relative change of size along each axis.
        shear: largest shear.
        smooth: largest length of a smooth velocity, which is integrated to a diffeomorphism; voxels.
        smoothness: from which to which standard deviation its Gaussian may lie, voxels.
        bumps: number of Gaussian bumps (RAN's pre-training: 20).
        bump_height: largest displacement of their sum, voxels.
        bump_width: from which to which standard deviation, voxels.
        thin_plate: largest displacement of the control points of a thin-plate spline, voxels.
        sliding: largest angle in degrees by which a ball turns inside its surroundings: the displacement jumps at the
            ball's surface, and only along it, as organs do that slide.
    """

    rotation: float = 0.0
    translation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    smooth: float = 0.0
    smoothness: tuple[float, float] = (4.0, 10.0)
    bumps: int = 0
    bump_height: float = 12.0
    bump_width: tuple[float, float] = (5.0, 16.0)
    thin_plate: float = 0.0
    sliding: float = 0.0

    def __call__(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """One displacement."""
        parts = []
        if self.sliding:
            parts.append(turning_ball(shape, self.sliding, generator))
        if self.smooth:
            parts.append(diffeomorphism(shape, self.smooth, self.smoothness, generator))
        if self.bumps:
            parts.append(bumps(shape, self.bumps, self.bump_height, self.bump_width, generator))
        if self.thin_plate:
            parts.append(thin_plate(shape, self.thin_plate, generator))
        if self.rotation or self.translation or self.scale or self.shear:
            parts.append(self._affine(shape, generator))
        total = torch.zeros(1, len(shape), *shape, device=generator.device)
        for part in reversed(parts):
            total = spatial.compose(part, total)
        return total

    def _affine(self, shape: Sequence[int], generator: Generator) -> Tensor:
        d = len(shape)
        angle = math.radians(self.rotation) * symmetric((), generator)
        stretch = torch.diag(1 + self.scale * symmetric((d,), generator))
        slant = torch.eye(d, device=generator.device) + self.shear * torch.triu(symmetric((d, d), generator), 1)
        matrix = rotation(d, angle, generator) @ stretch @ slant
        shift = self.translation * symmetric((d, 1), generator)
        return linear(shape, matrix, middle(shape, generator), shift)


@dataclass(frozen=True)
class Breathing(Deformation):
    """What breathing does to a slice: the middle moves along axis 0 and a little sideways, the body wall stays.

    Attributes:
        depth: largest motion along axis 0, voxels; inhaled and exhaled are equally likely.
        sideways: largest motion along the other axes.
    """

    depth: float = 8.0
    sideways: float = 2.0

    def __call__(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """One displacement."""
        size = torch.tensor(shape, device=generator.device).view(1, -1, *[1] * len(shape))
        place = spatial.identity_grid(shape, device=generator.device) / (size - 1) - 0.5
        inside = torch.exp(-0.5 * (place / 0.22).square().sum(dim=1, keepdim=True))
        reach = torch.full((len(shape),), self.sideways, device=generator.device)
        reach[0] = self.depth
        motion = (reach * symmetric((len(shape),), generator)).view_as(size) * inside
        return spatial.compose(super().__call__(shape, generator), motion)


def symmetric(size: Sequence[int], generator: Generator) -> Tensor:
    """Uniform from -1 to 1."""
    return 2 * torch.rand(tuple(size), generator=generator, device=generator.device) - 1


def between(limits: tuple[float, float], generator: Generator) -> float:
    """Uniform between two limits."""
    low, high = limits
    return low + (high - low) * torch.rand((), generator=generator, device=generator.device).item()


def smooth_noise(shape: Sequence[int], channels: int, sigma: float, generator: Generator) -> Tensor:
    """Gaussian noise `[1, channels, *S]` smoothed by a Gaussian of `sigma` voxels, of deviation 1 over all."""
    factor = max(1, int(sigma / 2))  # a smooth field needs no fine grid
    coarse = [max(2, -(-n // factor)) for n in shape]
    noise = torch.randn((1, channels, *coarse), generator=generator, device=generator.device)
    noise = spatial.resize(spatial.gaussian_smooth(noise, sigma / factor), shape)
    return noise / noise.std().clamp_min(1e-6)


def diffeomorphism(
    shape: Sequence[int], length: float, smoothness: tuple[float, float], generator: Generator
) -> Tensor:
    """The flow of a smooth velocity whose longest vector is anything up to `length`."""
    velocity = smooth_noise(shape, len(shape), between(smoothness, generator), generator)
    peak = between((0.0, length), generator)
    return spatial.integrate(velocity * peak / velocity.norm(dim=1).max().clamp_min(1e-6), steps=6)


def bumps(shape: Sequence[int], count: int, height: float, width: tuple[float, float], generator: Generator) -> Tensor:
    """A sum of Gaussians at random places in random directions whose peak is anything up to `height`."""
    d = len(shape)
    grid = spatial.identity_grid(shape, device=generator.device)
    size = torch.tensor(shape, device=generator.device) - 1
    total = torch.zeros(1, d, *shape, device=generator.device)
    for _ in range(count):
        place = (torch.rand(d, generator=generator, device=generator.device) * size).view(1, d, *[1] * d)
        direction = symmetric((d,), generator).view(1, d, *[1] * d)
        sigma = between(width, generator)
        total += direction * torch.exp(-0.5 * ((grid - place) / sigma).square().sum(dim=1, keepdim=True))
    return total * between((0.0, height), generator) / total.norm(dim=1).max().clamp_min(1e-6)


def thin_plate(shape: Sequence[int], reach: float, generator: Generator, *, per_axis: int = 3) -> Tensor:
    """A thin-plate spline through control points on a grid that each move up to `reach` along each axis."""
    d, device = len(shape), generator.device
    axes = [torch.linspace(0, n - 1, per_axis, device=device) for n in shape]
    knots = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, d)
    moved = reach * symmetric(knots.shape, generator)
    scale = float(max(shape))

    def basis(points: Tensor) -> Tensor:
        distance = torch.cdist(points / scale, knots / scale)
        radial = distance if d == 3 else distance.square() * distance.clamp_min(1e-9).log()
        return torch.cat([radial, torch.ones_like(points[:, :1]), points / scale], dim=1)

    count = len(knots)
    system = torch.zeros(count + d + 1, count + d + 1, device=device)
    system[:count] = basis(knots)
    system[count:, :count] = system[:count, count:].T
    wanted = torch.cat([moved, moved.new_zeros(d + 1, d)])
    weights = torch.linalg.solve(system, wanted)
    coarse = [min(n, 24) for n in shape]  # the spline is smooth: a coarse grid holds it
    voxels = torch.stack(
        torch.meshgrid(
            *[torch.linspace(0, n - 1, m, device=device) for n, m in zip(shape, coarse, strict=True)], indexing="ij"
        ),
        dim=-1,
    )
    values = (basis(voxels.reshape(-1, d)) @ weights).T.reshape(1, d, *coarse)
    return spatial.resize(values, shape)


def turning_ball(shape: Sequence[int], degrees: float, generator: Generator) -> Tensor:
    """A ball somewhere in the middle turns by any angle up to `degrees` either way; all around it stays."""
    d = len(shape)
    radius = between((0.2, 0.35), generator) * min(shape)
    centre = middle(shape, generator) + 0.1 * min(shape) * symmetric((d,), generator)
    turn = rotation(d, math.radians(degrees) * symmetric((), generator), generator)
    displacement = linear(shape, turn, centre, torch.zeros(d, 1, device=generator.device))
    from_centre = spatial.identity_grid(shape, device=generator.device) - centre.view(1, d, *[1] * d)
    return displacement * (from_centre.square().sum(dim=1, keepdim=True) <= radius**2)


def rotation(dimension: int, angle: Tensor, generator: Generator) -> Tensor:
    """Matrix `[d, d]` of a rotation by an angle, in 3D about a random axis."""
    axis = torch.randn(3, generator=generator, device=generator.device)
    axis = axis / axis.norm().clamp_min(1e-6)
    skew = torch.zeros(dimension, dimension, device=generator.device)
    for n, (a, b) in enumerate(itertools.combinations(range(dimension), 2)):
        part = angle * (axis[n] if dimension == 3 else 1.0)
        skew[a, b], skew[b, a] = part, -part
    return torch.linalg.matrix_exp(skew)


def linear(shape: Sequence[int], matrix: Tensor, centre: Tensor, shift: Tensor) -> Tensor:
    """The displacement of `matrix (p - centre) + centre + shift`."""
    d = len(shape)
    points = spatial.identity_grid(shape, device=matrix.device).reshape(d, -1) - centre.view(d, 1)
    return (matrix @ points - points + shift).reshape(1, d, *shape)


def middle(shape: Sequence[int], generator: Generator) -> Tensor:
    """The centre voxel's coordinates `[d]`."""
    return torch.tensor([(n - 1) / 2 for n in shape], device=generator.device)
