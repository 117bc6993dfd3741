"""Local correlation in large windows of several sizes, AVSM's similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Window:
    """A cubic window on one image: `width` samples `dilation` voxels apart, moved on by `stride` voxels."""

    weight: float
    width: int
    dilation: int
    stride: int


class MultiKernelCorrelation(nn.Module):
    """`1 - sum_i w_i mean_windows cov / sqrt(var_f var_m)`, AVSM's mk-LNCC (Shen et al., CVPR 2019, Eq. 3).

    Only windows that lie inside the image count. Statistics are taken in float32 or better.

    Args:
        kernels: pairs of weight and window size, the size as a fraction of the image's smallest side; the weights
            should sum to 1. None chooses by the smallest side S: S/16, S/8, S/4 with 0.1, 0.3, 0.6 from 128 voxels,
            S/4 and S/2 with 0.3 and 0.7 from 64, and S/2 below.
        dilation: voxels between a window's samples; a window that would not fit takes 1.
        squared: correlate squared, as in the authors' code: blind to the sign of the contrast.
        epsilon: added to the product of the variances, so that a constant window counts as uncorrelated.
    """

    def __init__(
        self,
        kernels: Sequence[tuple[float, float]] | None = None,
        *,
        dilation: int = 2,
        squared: bool = False,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__()
        self.kernels, self.dilation, self.squared, self.epsilon = kernels, dilation, squared, epsilon

    def windows(self, shape: Sequence[int]) -> list[Window]:
        """The windows used on an image of this shape; the stride is a quarter of the width."""
        side = min((n for n in shape if n > 1), default=1)
        windows = []
        for weight, fraction in self.kernels or _default_kernels(side):
            width = min(max(int(side * fraction), 2), side)
            dilation = self.dilation if self.dilation * (width - 1) + 1 <= side else 1
            windows.append(Window(weight, width, dilation, max((width + 1) // 4, 1)))
        return windows

    def forward(self, fixed: Tensor, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss of two images `[B, C, *S]` whose intensities are of order 1: a scalar from 0 (alike) to 2.

        A weight `[B, 1, *S]` says how much a voxel counts inside its windows, and a window counts by its mean weight.
        """
        dtype = torch.promote_types(fixed.dtype, torch.float32)
        weight = None if weight is None else weight.to(dtype).expand_as(fixed)
        with torch.autocast(fixed.device.type, enabled=False):
            return self._loss(fixed.to(dtype), warped.to(dtype), weight)

    def _loss(self, fixed: Tensor, warped: Tensor, weight: Tensor | None) -> Tensor:
        # The window means of these (and of the weight) are all that a correlation needs.
        moments = [fixed, warped, fixed * fixed, warped * warped, fixed * warped]
        if weight is not None:
            moments = [weight, *(weight * moment for moment in moments)]
        stack = torch.stack(moments)
        windows = self.windows(fixed.shape[2:])
        similarity = sum((w.weight * self._correlation(stack, w) for w in windows), fixed.new_zeros(()))
        return 1 - similarity

    def _correlation(self, moments: Tensor, window: Window) -> Tensor:
        """Mean correlation over the windows of one size."""
        *mass, f, m, ff, mm, fm = _window_means(moments, window)
        if mass:
            f, m, ff, mm, fm = (moment / mass[0].clamp(min=1e-6) for moment in (f, m, ff, mm, fm))
        covariance = fm - f * m
        product = (ff - f * f).clamp(min=0) * (mm - m * m).clamp(min=0) + self.epsilon
        correlation = covariance.square() / product if self.squared else covariance / product.sqrt()
        if not mass:
            return correlation.mean()
        axes = tuple(range(1, correlation.ndim))
        return ((mass[0] * correlation).sum(axes) / mass[0].sum(axes).clamp(min=1e-6)).mean()


def _default_kernels(side: int) -> list[tuple[float, float]]:
    if side >= 128:
        return [(0.1, 1 / 16), (0.3, 1 / 8), (0.6, 1 / 4)]
    if side >= 64:
        return [(0.3, 1 / 4), (0.7, 1 / 2)]
    return [(1.0, 1 / 2)]


def _window_means(values: Tensor, window: Window) -> Tensor:
    """Means of `[N, B, C, *S]` over each window: one strided, dilated sum along each axis in turn, as a product."""
    for axis in range(values.ndim - 1, 2, -1):
        values = (values.movedim(axis, -1) @ _band(values, values.shape[axis], window)).movedim(-1, axis)
    return values


def _band(like: Tensor, size: int, window: Window) -> Tensor:
    """`[size, windows]`: `1 / width` where a voxel of the axis belongs to a window."""
    width = min(window.width, size)
    span = window.dilation * (width - 1) + 1
    starts = torch.arange(0, size - span + 1, window.stride, device=like.device)
    members = starts + window.dilation * torch.arange(width, device=like.device).unsqueeze(1)
    return like.new_zeros(size, starts.numel()).scatter_(0, members, 1 / width)
