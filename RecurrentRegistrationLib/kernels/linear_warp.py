"""Fused CPU kernels of `linear_warp`: one row at a time, its points made on the way, without branches inside the image.

Images are float32 `[Z, Y, X]`, matrices float32 `[B, 3, 4]`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numba import prange
from torch import Tensor

from RecurrentRegistrationLib.kernels.volumes import array, corners, inline, kernel, run, value


def linear_warp(image: Tensor, matrices: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Values `[B, 1, *S]` of an image `[1, 1, Z, Y, X]` under matrices `[B, 3, 4]`, and where they lie inside."""
    values, inside = (image.new_empty(matrices.shape[0], 1, *shape) for _ in range(2))
    run(_linear_warp, array(image[0, 0]), array(matrices), values[:, 0].numpy(), inside[:, 0].numpy())
    return values, inside


def linear_warp_gradient(image: Tensor, matrices: Tensor, grad: Tensor) -> Tensor:
    """Derivative of `sum(grad * values)` by the matrices, `[B, 3, 4]`."""
    sums = np.zeros((grad.shape[0], grad.shape[2], 3, 4))
    run(_linear_warp_gradient, array(image[0, 0]), array(matrices), array(grad[:, 0]), sums)
    return torch.from_numpy(sums.sum(axis=1)).to(matrices)


@inline
def _start(matrix, axis, k, j):
    """The coordinate along an axis of the first voxel of a row."""
    return matrix[axis, 0] * np.float32(k) + matrix[axis, 1] * np.float32(j) + matrix[axis, 3]


@inline
def _cut(low, high, start, step, size):
    """The part of a range of voxels where `start + step i` lies well between the first and the last of an axis."""
    near, far = np.float32(1e-3), np.float32(size) - np.float32(1.001)
    if not (abs(start) < np.float32(1e9) and abs(step) < np.float32(1e6)):  # also what is not a number
        return low, low
    if abs(step) < np.float32(1e-6):
        return (low, high) if start > near and start < far else (low, low)
    a, b = (near - start) / step, (far - start) / step
    first, last = math.ceil(min(a, b)), math.floor(max(a, b)) + 1
    low, high = max(low, min(first, high)), min(high, max(last, low))
    return low, max(low, high)


@inline
def _row(matrix, k, j, image, width):
    """Where a row begins, and the range of its voxels that lies well inside the image."""
    Z, Y, X = image.shape
    z, y, x = _start(matrix, 0, k, j), _start(matrix, 1, k, j), _start(matrix, 2, k, j)
    low, high = _cut(0, width, z, matrix[0, 2], Z)
    low, high = _cut(low, high, y, matrix[1, 2], Y)
    low, high = _cut(low, high, x, matrix[2, 2], X)
    return z, y, x, low, high


@inline
def _corners_inside(image, flat, z, y, x):
    """The eight values around a point that lies inside; coordinates are unsigned."""
    _, Y, X = image.shape
    one, up, over = np.uintp(1), np.uintp(X), np.uintp(Y * X)
    o = np.uintp((z * np.uint32(Y) + y) * np.uint32(X) + x)
    p, q = o + up, o + over
    r = q + up
    return flat[o], flat[o + one], flat[p], flat[p + one], flat[q], flat[q + one], flat[r], flat[r + one]


@inline
def _corners(image, flat, z, y, x):
    """The eight values around a point, 0 outside."""
    Z, Y, X = image.shape
    a, b, c, d, e, f, g, h = corners(z, y, x, Z, Y, X)
    return (
        value(flat, a),
        value(flat, b),
        value(flat, c),
        value(flat, d),
        value(flat, e),
        value(flat, f),
        value(flat, g),
        value(flat, h),
    )


@inline
def _mixed(v, az, ay, ax):
    """The eight values mixed."""
    v000, v001, v010, v011, v100, v101, v110, v111 = v
    bz, by, bx = np.float32(1) - az, np.float32(1) - ay, np.float32(1) - ax
    near = by * (bx * v000 + ax * v001) + ay * (bx * v010 + ax * v011)
    far = by * (bx * v100 + ax * v101) + ay * (bx * v110 + ax * v111)
    return bz * near + az * far


@inline
def _slopes(v, az, ay, ax):
    """Derivatives of `_mixed` by the three coordinates."""
    v000, v001, v010, v011, v100, v101, v110, v111 = v
    bz, by, bx = np.float32(1) - az, np.float32(1) - ay, np.float32(1) - ax
    v00, v01 = bx * v000 + ax * v001, bx * v010 + ax * v011
    v10, v11 = bx * v100 + ax * v101, bx * v110 + ax * v111
    dx0 = by * (v001 - v000) + ay * (v011 - v010)
    dx1 = by * (v101 - v100) + ay * (v111 - v110)
    return by * (v10 - v00) + ay * (v11 - v01), bz * (v01 - v00) + az * (v11 - v10), bz * dx0 + az * dx1


@kernel
def _linear_warp(image, matrices, values, inside):
    Z, Y, X = image.shape
    flat = image.reshape(Z * Y * X)
    B, D, H, W = values.shape
    half = np.float32(0.5)
    for n in prange(B * D):
        b, k = n // D, n % D
        m = matrices[b]
        mz, my, mx = m[0, 2], m[1, 2], m[2, 2]
        for j in range(H):
            z0, y0, x0, low, high = _row(m, k, j, image, W)
            out, within = values[b, k, j], inside[b, k, j]
            for i in range(low, high):
                step = np.float32(i)
                z, y, x = z0 + mz * step, y0 + my * step, x0 + mx * step
                iz, iy, ix = np.uint32(z), np.uint32(y), np.uint32(x)
                v = _corners_inside(image, flat, iz, iy, ix)
                out[i] = _mixed(v, z - np.float32(iz), y - np.float32(iy), x - np.float32(ix))
            for i in range(low, high):
                within[i] = np.float32(1)
            for side in range(2):
                for i in range(0 if side == 0 else high, low if side == 0 else W):
                    step = np.float32(i)
                    z, y, x = z0 + mz * step, y0 + my * step, x0 + mx * step
                    fz, fy, fx = math.floor(z), math.floor(y), math.floor(x)
                    within[i] = np.float32(
                        z > -half and y > -half and x > -half and z < Z - half and y < Y - half and x < X - half
                    )
                    v = _corners(image, flat, int(fz), int(fy), int(fx))
                    out[i] = _mixed(v, np.float32(z - fz), np.float32(y - fy), np.float32(x - fx))


@kernel
def _linear_warp_gradient(image, matrices, grad, sums):
    Z, Y, X = image.shape
    flat = image.reshape(Z * Y * X)
    B, D, H, W = grad.shape
    for n in prange(B * D):
        b, k = n // D, n % D
        m = matrices[b]
        mz, my, mx = m[0, 2], m[1, 2], m[2, 2]
        for j in range(H):
            z0, y0, x0, low, high = _row(m, k, j, image, W)
            g = grad[b, k, j]
            sz, sy, sx = np.float32(0), np.float32(0), np.float32(0)
            tz, ty, tx = np.float32(0), np.float32(0), np.float32(0)
            for i in range(low, high):
                step = np.float32(i)
                z, y, x = z0 + mz * step, y0 + my * step, x0 + mx * step
                iz, iy, ix = np.uint32(z), np.uint32(y), np.uint32(x)
                v = _corners_inside(image, flat, iz, iy, ix)
                dz, dy, dx = _slopes(v, z - np.float32(iz), y - np.float32(iy), x - np.float32(ix))
                dz, dy, dx = g[i] * dz, g[i] * dy, g[i] * dx
                sz, sy, sx = sz + dz, sy + dy, sx + dx
                tz, ty, tx = tz + dz * step, ty + dy * step, tx + dx * step
            for side in range(2):
                for i in range(0 if side == 0 else high, low if side == 0 else W):
                    if g[i] == 0:
                        continue
                    step = np.float32(i)
                    z, y, x = z0 + mz * step, y0 + my * step, x0 + mx * step
                    fz, fy, fx = math.floor(z), math.floor(y), math.floor(x)
                    v = _corners(image, flat, int(fz), int(fy), int(fx))
                    dz, dy, dx = _slopes(v, np.float32(z - fz), np.float32(y - fy), np.float32(x - fx))
                    dz, dy, dx = g[i] * dz, g[i] * dy, g[i] * dx
                    sz, sy, sx = sz + dz, sy + dy, sx + dx
                    tz, ty, tx = tz + dz * step, ty + dy * step, tx + dx * step
            for axis, (total, along) in enumerate(((sz, tz), (sy, ty), (sx, tx))):
                sums[b, k, axis, 0] += np.float64(total) * k
                sums[b, k, axis, 1] += np.float64(total) * j
                sums[b, k, axis, 2] += along
                sums[b, k, axis, 3] += total
