"""Uniform B-splines on a grid: a dense field from control points, one small matrix for each axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def kernel(stride: int, order: int) -> np.ndarray:
    """A B-spline of an order sampled at every voxel, `(order + 1) (stride - 1) + 1` values for a control spacing.

    It is the `order`-fold convolution of a box of `stride` voxels with its normalised self, so that copies `stride`
    apart add up to exactly 1.
    """
    box = np.ones(stride)
    taps = box
    for _ in range(order):
        taps = np.convolve(taps, box / stride)
    return taps


def control_points(size: int, stride: int, order: int = 2) -> int:
    """Control points along an axis of `size` voxels: enough for full support everywhere."""
    return -(-size // stride) + order


def basis(size: int, stride: int, order: int = 2) -> Tensor:
    """Matrix `[size, control points]` from the control points of an axis to its voxels; every row sums to 1."""
    taps, points = kernel(stride, order), control_points(size, stride, order)
    full = np.zeros((stride * (points - 1) + taps.size, points))
    for point in range(points):
        full[stride * point : stride * point + taps.size, point] = taps
    # Full support begins where the last of `order + 1` overlapping kernels does; what is left over goes on both sides.
    supported = stride * points - (taps.size - stride)
    first = taps.size - stride + (supported - size) // 2
    return torch.from_numpy(full[first : first + size]).float()


def evaluate(coefficients: Tensor, bases: Sequence[Tensor]) -> Tensor:
    """A dense field `[B, C, *S]` from coefficients `[B, C, *control points]` and one basis for each axis."""
    field = coefficients
    for axis, matrix in enumerate(bases):
        field = torch.tensordot(field, matrix.to(field), dims=([axis + 2], [1])).movedim(-1, axis + 2)
    return field
