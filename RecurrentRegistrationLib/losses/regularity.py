"""How rough a displacement is: penalties on the derivatives of `u`, `[B, d, *S]`, each a scalar, lower is smoother.

Derivatives count per voxel of the displacement's own grid unless said otherwise; `c` runs over components, `a` and
`b` over axes, and the mean over positions and batch is written `mean_p`. An axis of one voxel has no derivative.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from RecurrentRegistrationLib import spatial


def diffusion(displacement: Tensor, *, normalisation: Literal["sum", "mean"] = "sum") -> Tensor:
    """`sum_{a,c} mean_p (d_a u_c)^2`, the squared Frobenius norm of the gradient, by forward differences.

    `sum` adds over axes and components (RIIR, Eq. 17; GraDIRN); `mean` divides that by d^2 (VoxelMorph).
    """
    dimension = spatial.dimension_of(displacement)
    steps = _forward_differences(displacement)
    total = sum((dimension * step.square().mean() for step in steps), displacement.new_zeros(()))
    return total if normalisation == "sum" else total / dimension**2


def gradient_l1(displacement: Tensor) -> Tensor:
    """`1/d sum_a mean_{p,c} |d_a u_c|` by forward differences (RWCNet's "mean gradient")."""
    total = sum((step.abs().mean() for step in _forward_differences(displacement)), displacement.new_zeros(()))
    return total / spatial.dimension_of(displacement)


def total_variation(displacement: Tensor, *, units: Literal["voxel", "normalised"] = "voxel") -> Tensor:
    """`mean_{p,c} sqrt(sum_a (d_a u_c)^2)`, isotropic, by forward differences; sub-gradient 0 where `u` is flat.

    `normalised` measures the displacement, not the derivative's step, in units of the image's extent [-1, 1]
    (R2N2, Eq. 14; its weight 0.1 is meant for these).
    """
    if units == "normalised":
        scale = displacement.new_tensor([2 / max(n - 1, 1) for n in displacement.shape[2:]])
        displacement = displacement * scale.view(1, -1, *[1] * scale.numel())
    corner = tuple(slice(0, max(n - 1, 1)) for n in displacement.shape[2:])
    steps = _forward_differences(displacement)
    squares = sum((_crop(step, corner).square() for step in steps), displacement.new_zeros(()))
    flat = squares == 0
    return squares.masked_fill(flat, 1).sqrt().masked_fill(flat, 0).mean()


def bending(displacement: Tensor) -> Tensor:
    """`mean_p sum_{a,b,c} (d_a d_b u_c)^2` by central second differences inside the border (Rueckert et al., 1999).

    An affine displacement costs nothing. Axes of fewer than three voxels have no second derivative.
    """
    axes = [a for a, n in enumerate(displacement.shape[2:]) if n >= 3]
    total = displacement.new_zeros(())
    for i, a in enumerate(axes):
        total = total + _second_difference(displacement, axes, a, a).square().mean()
        for b in axes[i + 1 :]:
            total = total + 2 * _second_difference(displacement, axes, a, b).square().mean()
    return displacement.shape[1] * total


def edge_weighted(displacement: Tensor, image: Tensor, *, sharpness: float = 25.0, power: int = 1) -> Tensor:
    """`mean_{a,c,p} w |d_a u_c|^power` with `w = exp(-sharpness |grad I|^2 / (0.2 + I)^2)`: edges may move apart.

    RAN's smoothness (Eq. 12) in the form its authors trained with: `sharpness` 25 for the abdomen, 9 for the lung.

    Args:
        displacement: `[B, d, *S]`, voxels.
        image: the fixed image `[B, 1, *S]` in [0, 1], whose edges are spared.
        sharpness: how much an edge spares.
        power: 1 as trained, 2 as printed.
    """
    axes = range(spatial.dimension_of(displacement))
    slope = sum(spatial.difference(image, a).square() for a in axes)
    weight = (-sharpness * slope / (0.2 + image).square()).exp()
    costs = [(weight * spatial.difference(displacement, a).abs() ** power).mean() for a in axes]
    return torch.stack(costs).mean()


def folding_penalty(displacement: Tensor, *, margin: float = 0.0) -> Tensor:
    """`mean_p max(0, margin - det(I + grad u))`: zero exactly where no Jacobian determinant is below `margin`."""
    return F.relu(margin - spatial.jacobian_determinant(displacement)).mean()


def _forward_differences(values: Tensor) -> list[Tensor]:
    """`v(p + 1) - v(p)` along each axis that has more than one voxel."""
    return [values.diff(dim=axis) for axis in range(2, values.ndim) if values.shape[axis] > 1]


def _crop(values: Tensor, window: tuple[slice, ...]) -> Tensor:
    return values[(slice(None), slice(None), *window)]


def _second_difference(values: Tensor, axes: list[int], a: int, b: int) -> Tensor:
    """`d_a d_b v` at the voxels that have both neighbours along every one of `axes`."""

    def neighbour(along_a: int, along_b: int) -> Tensor:
        offset = dict.fromkeys(axes, 0)
        offset[a] += along_a
        offset[b] += along_b
        window = (slice(1 + offset[n], s - 1 + offset[n]) if n in offset else slice(None) for n, s in sizes)
        return _crop(values, tuple(window))

    sizes = list(enumerate(values.shape[2:]))
    if a == b:
        return neighbour(1, 0) - 2 * neighbour(0, 0) + neighbour(-1, 0)
    return (neighbour(1, 1) - neighbour(1, -1) - neighbour(-1, 1) + neighbour(-1, -1)) / 4
