"""Fused CPU kernels of `transport`: every row of voxels is read and written once. Arrays are float32 `[C, Z, Y, X]`.

The derivative along an axis is `(v[high] - v[low]) * share` with the neighbours `low` and `high` cut at the border:
central inside, one-sided at the ends, and zero along an axis of one voxel.
"""

from __future__ import annotations

import numpy as np
from numba import prange
from torch import Tensor

from RecurrentRegistrationLib.kernels.volumes import array, inline, kernel, run


def transport(values: Tensor, velocity: Tensor, scale: float, identity: bool) -> Tensor:
    """`-scale (D v) w` of values `v [B, C, Z, Y, X]` and a velocity `w`; with `identity`, of `id + v`."""
    change = values.new_empty(values.shape)
    for b in range(values.shape[0]):
        run(_transport, array(values[b]), array(velocity[b]), np.float32(scale), identity, change[b].numpy())
    return change


def transport_gradient(
    values: Tensor, velocity: Tensor, grad: Tensor, scale: float, identity: bool
) -> tuple[Tensor, Tensor]:
    """Derivatives of `sum(grad * transport)` by the values and by the velocity."""
    by_values, by_velocity = values.new_empty(values.shape), velocity.new_empty(velocity.shape)
    for b in range(values.shape[0]):
        arrays = array(values[b]), array(velocity[b]), array(grad[b])
        run(_values_gradient, *arrays[1:], np.float32(scale), by_values[b].numpy())
        run(_velocity_gradient, arrays[0], arrays[2], np.float32(scale), identity, by_velocity[b].numpy())
    return by_values, by_velocity


@inline
def _ends(position, size):
    """The neighbours of a position and the share of their difference that is the derivative."""
    low, high = max(position - 1, 0), min(position + 1, size - 1)
    return low, high, np.float32(1 / max(high - low, 1))


@kernel
def _transport(values, velocity, scale, identity, change):
    C, Z, Y, X = values.shape
    for k in prange(Z):
        z0, z1, az = _ends(k, Z)
        for j in range(Y):
            y0, y1, ay = _ends(j, Y)
            wz, wy, wx = velocity[0, k, j], velocity[1, k, j], velocity[2, k, j]
            for c in range(C):
                out, row = change[c, k, j], values[c, k, j]
                below, above, front, back = values[c, z0, j], values[c, z1, j], values[c, k, y0], values[c, k, y1]
                for i in range(X):
                    out[i] = az * wz[i] * (above[i] - below[i]) + ay * wy[i] * (back[i] - front[i])
                for i in range(1, X - 1):
                    out[i] += np.float32(0.5) * wx[i] * (row[i + 1] - row[i - 1])
                if X > 1:
                    out[0] += wx[0] * (row[1] - row[0])
                    out[X - 1] += wx[X - 1] * (row[X - 1] - row[X - 2])
                if identity:
                    own = velocity[c, k, j]
                    for i in range(X):
                        out[i] += own[i]
                for i in range(X):
                    out[i] *= -scale


@inline
def _backward_share(position, size):
    """How much of the derivative at `position` each of its neighbours and itself give (the adjoint's weights).

    Returns the shares of the product at `position - 1` (0 where there is none), at `position` and at `position + 1`.
    """
    before, own, after = np.float32(0), np.float32(0), np.float32(0)
    if position > 0:
        before = np.float32(1) if position == 1 else np.float32(0.5)
    if position < size - 1:
        after = np.float32(-1) if position == size - 2 else np.float32(-0.5)
    if size > 1:
        own = np.float32(position == size - 1) - np.float32(position == 0)
    return before, own, after


@kernel
def _values_gradient(velocity, grad, scale, gradient):
    C, Z, Y, X = grad.shape
    for k in prange(Z):
        bz, oz, az = _backward_share(k, Z)
        z0, z1 = max(k - 1, 0), min(k + 1, Z - 1)
        for j in range(Y):
            by, oy, ay = _backward_share(j, Y)
            y0, y1 = max(j - 1, 0), min(j + 1, Y - 1)
            wz, wy, wx = velocity[0], velocity[1], velocity[2, k, j]
            for c in range(C):
                out, g = gradient[c, k, j], grad[c]
                row = g[k, j]
                for i in range(X):
                    along_z = bz * wz[z0, j, i] * g[z0, j, i] + az * wz[z1, j, i] * g[z1, j, i]
                    along_y = by * wy[k, y0, i] * g[k, y0, i] + ay * wy[k, y1, i] * g[k, y1, i]
                    out[i] = along_z + along_y + (oz * wz[k, j, i] + oy * wy[k, j, i]) * row[i]
                for i in range(1, X - 1):
                    out[i] += np.float32(0.5) * (wx[i - 1] * row[i - 1] - wx[i + 1] * row[i + 1])
                if X > 1:
                    # Inside, both neighbours of the ends give a half; the ends themselves give all they have.
                    out[0] -= wx[0] * row[0]
                    out[X - 1] += wx[X - 1] * row[X - 1]
                    out[0] -= wx[1] * row[1] * np.float32(1 if X == 2 else 0.5)
                    out[X - 1] += wx[X - 2] * row[X - 2] * np.float32(1 if X == 2 else 0.5)
                if X > 2:
                    out[1] += np.float32(0.5) * wx[0] * row[0]
                    out[X - 2] -= np.float32(0.5) * wx[X - 1] * row[X - 1]
                for i in range(X):
                    out[i] *= -scale


@kernel
def _velocity_gradient(values, grad, scale, identity, gradient):
    C, Z, Y, X = values.shape
    for k in prange(Z):
        z0, z1, az = _ends(k, Z)
        for j in range(Y):
            y0, y1, ay = _ends(j, Y)
            by_z, by_y, by_x = gradient[0, k, j], gradient[1, k, j], gradient[2, k, j]
            by_z[:] = 0
            by_y[:] = 0
            by_x[:] = 0
            for c in range(C):
                g, row = grad[c, k, j], values[c, k, j]
                below, above, front, back = values[c, z0, j], values[c, z1, j], values[c, k, y0], values[c, k, y1]
                for i in range(X):
                    by_z[i] -= scale * az * g[i] * (above[i] - below[i])
                    by_y[i] -= scale * ay * g[i] * (back[i] - front[i])
                for i in range(1, X - 1):
                    by_x[i] -= scale * np.float32(0.5) * g[i] * (row[i + 1] - row[i - 1])
                if X > 1:
                    by_x[0] -= scale * g[0] * (row[1] - row[0])
                    by_x[X - 1] -= scale * g[X - 1] * (row[X - 1] - row[X - 2])
                if identity:
                    own = gradient[c, k, j]
                    for i in range(X):
                        own[i] -= scale * g[i]
