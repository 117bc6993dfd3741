"""Joint histograms of two images, differentiable by a cubic B-spline Parzen window."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from RecurrentRegistrationLib.kernels import volumes


def joint_histogram(fixed: Tensor, warped: Tensor, weight: Tensor, bins: int) -> Tensor:
    """Sums of weights `[B, bins, bins]`: whole bins for the fixed image, four B-spline shares for the warped one.

    Differentiable in `warped` and `weight`; fused on the CPU where only the former is asked for.

    Args:
        fixed: intensities in [0, 1], `[1 or B, N]`.
        warped: intensities in [0, 1], `[B, N]`.
        weight: how much each voxel counts, `[1 or B, N]`.
        bins: along each side, 4 or more.
    """
    if volumes.can_run(fixed, warped, weight) and not weight.requires_grad:
        table = _FusedHistogram.apply(fixed.detach(), warped, weight, bins)
    else:
        table = _by_torch(fixed.detach(), warped, weight, bins)
    return table.view(-1, bins, bins)


def _by_torch(fixed: Tensor, warped: Tensor, weight: Tensor, bins: int) -> Tensor:
    rows = ((fixed.clamp(0, 1) * (bins - 1)).round().long() * bins).expand_as(warped)
    position = warped.clamp(0, 1) * (bins - 4) + 1.5
    first = (position.detach() - 1).floor().long().clamp(0, bins - 4)
    table = warped.new_zeros(warped.shape[0], bins * bins)
    for offset, window in enumerate(_cubic(position - first - 1)):
        table = table.scatter_add(1, rows + (first + offset), window * weight)
    return table


def _cubic(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of a cubic B-spline for the four knots around, `t` from 0 to 1 between the middle two."""
    last = t**3 / 6
    first = (1 - t) ** 3 / 6
    second = (3 * t**3 - 6 * t**2 + 4) / 6
    return first, second, 1 - first - second - last, last


class _FusedHistogram(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fixed: Tensor, warped: Tensor, weight: Tensor, bins: int) -> Tensor:
        from RecurrentRegistrationLib.kernels import histogram as histogram_kernel  # needs numba, which is optional

        ctx.save_for_backward(fixed, warped, weight)
        ctx.bins, ctx.gradient = bins, histogram_kernel.joint_histogram_gradient
        return histogram_kernel.joint_histogram(fixed, warped, weight, bins)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:
        fixed, warped, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative will follow
            table = _by_torch(fixed, warped, weight, ctx.bins)
            return None, torch.autograd.grad(table, warped, grad, create_graph=True)[0], None, None
        return None, ctx.gradient(fixed, warped, weight, ctx.bins, grad), None, None
