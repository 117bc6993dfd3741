"""Fused CPU kernels of `histogram`: each voxel adds to its four entries of a table, and reads its slope from four.

Every table is the sum of parts that do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from RecurrentRegistrationLib.kernels.volumes import array, chunk, inline, kernel, run

PART, PARTS = 8192, 16  # voxels that deserve a part of their own; parts at most


def joint_histogram(fixed: Tensor, warped: Tensor, weight: Tensor, bins: int) -> Tensor:
    """Sums of weights `[B, bins * bins]` over voxels `[B, N]` of which `fixed` and `weight` may have one for all."""
    tables = np.zeros((warped.shape[0], _parts(warped), bins * bins), np.float32)
    run(_count, array(fixed), array(warped), array(weight), bins, tables)
    return torch.from_numpy(tables.sum(axis=1))


def joint_histogram_gradient(fixed: Tensor, warped: Tensor, weight: Tensor, bins: int, grad: Tensor) -> Tensor:
    """Derivative of `sum(grad * histogram)` by `warped`, `[B, N]`."""
    gradient = torch.empty_like(warped, memory_format=torch.contiguous_format)
    arrays = array(fixed), array(warped), array(weight), array(grad)
    run(_slope, *arrays, bins, _parts(warped), gradient.numpy())
    return gradient


def _parts(warped: Tensor) -> int:
    return min(max(warped.shape[1] // PART, 1), PARTS)


@inline
def _row(value, bins):
    """First entry of the row that a fixed intensity belongs to."""
    return min(max(int(np.rint(value * np.float32(bins - 1))), 0), bins - 1) * bins


@inline
def _place(value, bins):
    """First of the four bins that a warped intensity shares in, and where it lies between the middle two."""
    position = min(max(value, np.float32(0)), np.float32(1)) * np.float32(bins - 4) + np.float32(1.5)
    first = min(max(int(position - np.float32(1)), 0), bins - 4)
    return first, np.float32(position - np.float32(first + 1))


@kernel
def _count(fixed, warped, weight, bins, tables):
    B, N = warped.shape
    parts = tables.shape[1]
    sixth, one = np.float32(1 / 6), np.float32(1)
    for n in prange(B * parts):
        b, part = n // parts, n % parts
        start, stop = chunk(part, parts, N)
        f, w, m, table = fixed[b % fixed.shape[0]], weight[b % weight.shape[0]], warped[b], tables[b, part]
        for i in range(start, stop):
            share = w[i]
            if share == 0:
                continue
            first, t = _place(m[i], bins)
            entry = _row(f[i], bins) + first
            s = one - t
            a, b2, d = (
                s * s * s * sixth,
                (np.float32(3) * t - np.float32(6)) * t * t * sixth + np.float32(4 / 6),
                t * t * t * sixth,
            )
            table[entry] += share * a
            table[entry + 1] += share * b2
            table[entry + 2] += share * (one - a - b2 - d)
            table[entry + 3] += share * d


@kernel
def _slope(fixed, warped, weight, grad, bins, parts, gradient):
    B, N = warped.shape
    half, one, two = np.float32(0.5), np.float32(1), np.float32(2)
    for n in prange(B * parts):
        b, part = n // parts, n % parts
        start, stop = chunk(part, parts, N)
        f, w, m, table = fixed[b % fixed.shape[0]], weight[b % weight.shape[0]], warped[b], grad[b]
        for i in range(start, stop):
            if w[i] == 0 or m[i] < 0 or m[i] > 1:
                gradient[b, i] = np.float32(0)
                continue
            first, t = _place(m[i], bins)
            entry = _row(f[i], bins) + first
            s = one - t
            a, c, d = -half * s * s, (np.float32(1.5) * t - two) * t, half * t * t
            slope = a * table[entry] + c * table[entry + 1] - (a + c + d) * table[entry + 2] + d * table[entry + 3]
            gradient[b, i] = slope * w[i] * np.float32(bins - 4)
