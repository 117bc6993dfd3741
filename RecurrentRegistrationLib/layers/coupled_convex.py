"""Coupled convex search: where each point's features are found again, and the smooth displacement that agrees with it.

Heinrich, Papiez, Schnabel, Handels, Non-parametric discrete registration with convex optimisation, WBIR 2014; Siebert,
Hansen, Heinrich, ConvexAdam, IEEE TMI 2025. Displacements are in voxels of the grid of the points.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.local_correlation import local_correlation


def dissimilarity(
    fixed: Tensor,
    moving: Tensor,
    radius: int,
    *,
    fixed_mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
) -> Tensor:
    """Squared differences of features for every shift within `radius`, averaged over boxes of 3 points a side.

    The unit is what a point of the fixed image differs from the moving image by chance, on average: 0 where features
    are equal, about 1 where they have nothing to do with each other. What lies outside the moving image or its mask
    is as good as chance; points outside the fixed mask have no preference.

    Args:
        fixed: features `[B, C, *R]`.
        moving: features on the same grid.
        radius: the greatest shift along each axis, r.
        fixed_mask: `[B, 1, *R]`, from 0 to 1; None for everywhere.
        moving_mask: likewise.

    Returns:
        `[B, (2r+1)^d, *R]`, shifts in the order of `local_correlation`.
    """
    there = torch.ones_like(moving[:, :1]) if moving_mask is None else moving_mask
    here = torch.ones_like(fixed[:, :1]) if fixed_mask is None else fixed_mask
    axes = tuple(range(2, fixed.ndim))
    squared = moving.square().sum(1, keepdim=True)
    mass = there.sum(axes, keepdim=True).clamp_min(1e-6)
    mean, mean_square = ((there * m).sum(axes, keepdim=True) / mass for m in (moving, squared))
    own = fixed.square().sum(1, keepdim=True)
    chance = own - 2 * (fixed * mean).sum(1, keepdim=True) + mean_square
    unit = ((here * chance).sum(axes, keepdim=True) / here.sum(axes, keepdim=True).clamp_min(1e-6)).clamp_min(1e-6)
    # |f - m|^2 less the chance, both masks applied, is one product of features: f m, 1 m^2 and (f^2 - chance) 1.
    left = torch.cat([-2 * fixed, torch.ones_like(own), own - chance], 1) * (here / unit)
    right = torch.cat([moving, squared, torch.ones_like(squared)], 1) * there
    costs = local_correlation(left * left.shape[1] ** 0.5, right, radius)
    return _box_mean(costs.add_(here * chance / unit))


def shifts(radius: int, dimension: int) -> Tensor:
    """The shifts of `local_correlation` in its order, `[(2r+1)^d, d]`."""
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    return torch.cartesian_prod(*[steps] * dimension)


def best_match(costs: Tensor, smooth: Tensor, coupling: float) -> Tensor:
    """The shift v of each point with the least `cost(v) + coupling |v - smooth|^2`.

    Between the shifts of the window, the cost is a parabola along each axis.

    Args:
        costs: `[B, (2r+1)^d, *R]`.
        smooth: `[B, d, *R]`, which the shifts should agree with.
        coupling: weight of the agreement.

    Returns:
        The shifts `[B, d, *R]`.
    """
    batch, d, *size = smooth.shape
    window = round(costs.shape[1] ** (1 / d))
    offsets = shifts(window // 2, d).to(costs)
    flat, near = costs.flatten(2), smooth.flatten(2)
    total = torch.baddbmm(flat, (-2 * coupling * offsets).expand(batch, -1, -1), near)
    total += (coupling * offsets.square().sum(1)).view(1, -1, 1)
    least, index = total.min(dim=1, keepdim=True)
    found = offsets[index[:, 0]].movedim(-1, 1).contiguous()
    for axis in range(d):
        stride = window ** (d - 1 - axis)
        place = index // stride % window
        inner = (place > 0) & (place < window - 1)
        before = total.gather(1, torch.where(inner, index - stride, index))
        after = total.gather(1, torch.where(inner, index + stride, index))
        bend = (before + after - 2 * least).clamp_min(1e-6)
        found[:, axis] += torch.where(inner, (before - after) / (2 * bend), 0.0)[:, 0]
    return found.view(batch, d, *size)


def agree(forward: Tensor, backward: Tensor, rounds: int = 15) -> tuple[Tensor, Tensor]:
    """Two displacements `[B, d, *R]`, there and back, made each other's inverses."""
    for _ in range(rounds):
        forward, backward = (
            (forward - spatial.warp(backward, forward, padding="border")) / 2,
            (backward - spatial.warp(forward, backward, padding="border")) / 2,
        )
    return forward, backward


def disagreement(forward: Tensor, backward: Tensor) -> Tensor:
    """How far one comes back from where one left, in voxels: `|u(p) + u'(p + u(p))|`, `[B, 1, *R]`."""
    return spatial.compose(forward, backward).norm(dim=1, keepdim=True)


def _box_mean(costs: Tensor) -> Tensor:
    """The mean over boxes of 3 points a side; outside there are none."""
    dimension = costs.ndim - 2
    pool = F.avg_pool2d if dimension == 2 else F.avg_pool3d
    sides = [3 if n > 1 else 1 for n in costs.shape[2:]]  # one slice has no neighbours
    return pool(costs, sides, 1, [side // 2 for side in sides], count_include_pad=False)
