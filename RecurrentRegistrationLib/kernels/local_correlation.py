"""Fused CPU kernels of `local_correlation`: one row of voxels at a time, all its feature rows in the cache.

Arrays are float32: `fixed [C, Z, Y, X]`, `moving [C, Z + 2 rz, Y + 2 ry, X + 2 rx]` (padded by the reach
`(rz, ry, rx)`) and `volume [K, Z, Y, X]`. Channel `(dz * ny + dy) * nx + dx`, with `ny = 2 ry + 1` and so on, compares
a fixed voxel with the moving voxel `(dz - rz, dy - ry, dx - rx)` away. A `weight [Q, nz ny nx]` mixes the channels as
they come, and they are never written; an empty weight keeps them. Inner loops take four rows at a time, padded with
rows of zeros, so that an accumulator is read and written once for all of them.
"""

from __future__ import annotations

import numpy as np
from numba import prange
from torch import Tensor

from RecurrentRegistrationLib.kernels.volumes import array, inline, kernel, run, threads

Reach = tuple[int, int, int]


def compare(fixed: Tensor, moving: Tensor, weight: Tensor, reach: Reach, absolute: bool) -> Tensor:
    """The volume `[B, K, Z, Y, X]` of fixed `[B, C, Z, Y, X]` and padded moving features."""
    channels = weight.shape[0] or weight.shape[1]
    volume = fixed.new_empty(fixed.shape[0], channels, *fixed.shape[2:])
    for b in range(fixed.shape[0]):
        run(_compare, array(fixed[b]), array(moving[b]), array(weight), reach, absolute, volume[b].numpy())
    return volume


def compare_gradient(
    fixed: Tensor, moving: Tensor, weight: Tensor, grad: Tensor, reach: Reach, absolute: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives of `sum(grad * volume)` by the fixed features, the padded moving features and the weight."""
    by_fixed, by_moving = fixed.new_empty(fixed.shape), moving.new_empty(moving.shape)
    by_weight = np.zeros((threads(), *weight.shape), np.float32)
    for b in range(fixed.shape[0]):
        arrays = array(fixed[b]), array(moving[b]), array(weight), array(grad[b])
        run(_fixed_gradient, *arrays, reach, absolute, by_fixed[b].numpy(), by_weight)
        run(_moving_gradient, *arrays, reach, absolute, by_moving[b].numpy())
    return by_fixed, by_moving, weight.new_tensor(by_weight.sum(axis=0))


FOUR = 4  # rows that one inner loop takes


@inline
def _padded(count, block):
    return (count + block - 1) // block * block


@inline
def _load(rows, k, j, start, out):
    """Copy row (k, j) of every channel to `out[channel, start:]`."""
    for c in range(rows.shape[0]):
        for i in range(rows.shape[3]):
            out[c, start + i] = rows[c, k, j, i]


@inline
def _add_products(target, left, right, first, shift):
    """Add the products of four rows: `left[c, i] * right[c, shift + i]`."""
    a0, a1, a2, a3 = left[first], left[first + 1], left[first + 2], left[first + 3]
    b0, b1, b2, b3 = right[first, shift:], right[first + 1, shift:], right[first + 2, shift:], right[first + 3, shift:]
    for i in range(target.shape[0]):
        target[i] += a0[i] * b0[i] + a1[i] * b1[i] + a2[i] * b2[i] + a3[i] * b3[i]


@inline
def _add_distances(target, left, right, first, shift):
    """Add the distances of four rows: `|left[c, i] - right[c, shift + i]|`."""
    a0, a1, a2, a3 = left[first], left[first + 1], left[first + 2], left[first + 3]
    b0, b1, b2, b3 = right[first, shift:], right[first + 1, shift:], right[first + 2, shift:], right[first + 3, shift:]
    for i in range(target.shape[0]):
        target[i] += abs(a0[i] - b0[i]) + abs(a1[i] - b1[i]) + abs(a2[i] - b2[i]) + abs(a3[i] - b3[i])


@inline
def _add_scaled(target, scales, rows, first):
    """Add four rows, each times a number."""
    s0, s1, s2, s3 = scales[first], scales[first + 1], scales[first + 2], scales[first + 3]
    r0, r1, r2, r3 = rows[first], rows[first + 1], rows[first + 2], rows[first + 3]
    for i in range(target.shape[0]):
        target[i] += s0 * r0[i] + s1 * r1[i] + s2 * r2[i] + s3 * r3[i]


@inline
def _add_shifted(target, grads, row, first):
    """Add a row under four shifts: `grads[s, i] * row[s + i]`."""
    g0, g1, g2, g3 = grads[first], grads[first + 1], grads[first + 2], grads[first + 3]
    r0, r1, r2, r3 = row[first:], row[first + 1 :], row[first + 2 :], row[first + 3 :]
    for i in range(target.shape[0]):
        target[i] += g0[i] * r0[i] + g1[i] * r1[i] + g2[i] * r2[i] + g3[i] * r3[i]


@inline
def _add_signs(target, grads, row, first, centre):
    """Add signs under four shifts: `grads[s, i] * sign(centre[i] - row[s + i])`."""
    for s in range(first, first + FOUR):
        g, r = grads[s], row[s:]
        for i in range(target.shape[0]):
            difference = centre[i] - r[i]
            sign = np.float32(difference > 0) - np.float32(difference < 0)
            target[i] += g[i] * sign


@inline
def _compare_row(fixed_row, moving_row, absolute, nx, comparisons):
    """`comparisons[dx, i]` of a fixed and a moving row of `C` (a multiple of four) channels."""
    comparisons[:nx] = 0
    for c in range(0, fixed_row.shape[0], FOUR):
        for dx in range(nx):
            if absolute:
                _add_distances(comparisons[dx], fixed_row, moving_row, c, dx)
            else:
                _add_products(comparisons[dx], fixed_row, moving_row, c, dx)


@inline
def _transposed(weight, channels):
    """The weight as `[nz ny nx, channels]`, zero beyond its own channels."""
    columns = np.zeros((weight.shape[1], channels), np.float32)
    for q in range(weight.shape[0]):
        for o in range(weight.shape[1]):
            columns[o, q] = weight[q, o]
    return columns


@kernel
def _compare(fixed, moving, weight, reach, absolute, volume):
    C, Z, Y, X = fixed.shape
    nz, ny, nx = 2 * reach[0] + 1, 2 * reach[1] + 1, 2 * reach[2] + 1
    channels, offsets, mixed = _padded(C, FOUR), _padded(nx, FOUR), weight.shape[0]
    scales = np.zeros((mixed, weight.shape[1] + FOUR), np.float32)
    scales[:, : weight.shape[1]] = weight
    for row in prange(Z * Y):
        k, j = row // Y, row % Y
        fixed_row = np.zeros((channels, X), np.float32)
        moving_row = np.zeros((channels, X + 2 * reach[2]), np.float32)
        comparisons = np.zeros((offsets, X), np.float32)
        mixture = np.zeros((mixed, X), np.float32)
        _load(fixed, k, j, 0, fixed_row)
        for dz in range(nz):
            for dy in range(ny):
                first = (dz * ny + dy) * nx
                _load(moving, k + dz, j + dy, 0, moving_row)
                _compare_row(fixed_row, moving_row, absolute, nx, comparisons)
                if mixed == 0:
                    for dx in range(nx):
                        for i in range(X):
                            volume[first + dx, k, j, i] = comparisons[dx, i]
                for q in range(mixed):
                    for dx in range(0, nx, FOUR):
                        _add_scaled(mixture[q], scales[q, first:], comparisons, dx)
        for q in range(mixed):
            for i in range(X):
                volume[q, k, j, i] = mixture[q, i]


@kernel
def _fixed_gradient(fixed, moving, weight, grad, reach, absolute, gradient, by_weight):
    C, Z, Y, X = fixed.shape
    nz, ny, nx = 2 * reach[0] + 1, 2 * reach[1] + 1, 2 * reach[2] + 1
    channels, offsets, mixed = _padded(C, FOUR), _padded(nx, FOUR), weight.shape[0]
    mixed_padded = _padded(mixed, FOUR)
    columns = _transposed(weight, mixed_padded)
    parts = by_weight.shape[0]
    for part in prange(parts):
        fixed_row = np.zeros((channels, X), np.float32)
        moving_row = np.zeros((channels, X + 2 * reach[2] + FOUR), np.float32)
        comparisons = np.zeros((offsets, X), np.float32)
        grads = np.zeros((offsets, X), np.float32)
        mixed_grads = np.zeros((mixed_padded, X), np.float32)
        total = np.empty((C, X), np.float32)
        for row in range(part * Z * Y // parts, (part + 1) * Z * Y // parts):
            k, j = row // Y, row % Y
            total[:] = 0
            _load(fixed, k, j, 0, fixed_row)
            if mixed > 0:
                _load(grad, k, j, 0, mixed_grads)
            for dz in range(nz):
                for dy in range(ny):
                    first = (dz * ny + dy) * nx
                    _load(moving, k + dz, j + dy, 0, moving_row)
                    if mixed == 0:
                        _load(grad[first : first + nx], k, j, 0, grads)
                    else:
                        grads[:nx] = 0
                        for dx in range(nx):
                            for q in range(0, mixed, FOUR):
                                _add_scaled(grads[dx], columns[first + dx], mixed_grads, q)
                        _compare_row(fixed_row, moving_row, absolute, nx, comparisons)
                        for q in range(mixed):
                            for dx in range(nx):
                                product = np.float32(0)
                                for i in range(X):
                                    product += mixed_grads[q, i] * comparisons[dx, i]
                                by_weight[part, q, first + dx] += product
                    for c in range(C):
                        for dx in range(0, nx, FOUR):
                            if absolute:
                                _add_signs(total[c], grads, moving_row[c], dx, fixed_row[c])
                            else:
                                _add_shifted(total[c], grads, moving_row[c], dx)
            for c in range(C):
                for i in range(X):
                    gradient[c, k, j, i] = total[c, i]


@kernel
def _moving_gradient(fixed, moving, weight, grad, reach, absolute, gradient):
    C, Z, Y, X = fixed.shape
    nz, ny, nx = 2 * reach[0] + 1, 2 * reach[1] + 1, 2 * reach[2] + 1
    rows, width, mixed = Y + 2 * reach[1], X + 2 * reach[2], weight.shape[0]
    mixed_padded = _padded(mixed, FOUR)
    columns = _transposed(weight, mixed_padded)
    for row in prange((Z + 2 * reach[0]) * rows):
        k, j = row // rows, row % rows
        # Seen from a moving voxel the offsets run backwards: grads[e] holds dx = nx - 1 - e, where it lands.
        fixed_row = np.zeros((C, width + nx + FOUR), np.float32)
        moving_row = np.zeros((C, width), np.float32)
        grads = np.zeros((_padded(nx, FOUR), width), np.float32)
        mixed_grads = np.zeros((mixed_padded, X), np.float32)
        total = np.zeros((C, width), np.float32)
        _load(moving, k, j, 0, moving_row)
        for dz in range(max(0, k - Z + 1), min(nz, k + 1)):
            for dy in range(max(0, j - Y + 1), min(ny, j + 1)):
                first = (dz * ny + dy) * nx
                _load(fixed, k - dz, j - dy, nx - 1, fixed_row)
                if mixed > 0:
                    _load(grad, k - dz, j - dy, 0, mixed_grads)
                for dx in range(nx):
                    target = grads[nx - 1 - dx, dx : dx + X]
                    if mixed == 0:
                        for i in range(X):
                            target[i] = grad[first + dx, k - dz, j - dy, i]
                    else:
                        target[:] = 0
                        for q in range(0, mixed, FOUR):
                            _add_scaled(target, columns[first + dx], mixed_grads, q)
                for c in range(C):
                    for e in range(0, nx, FOUR):
                        if absolute:
                            _add_signs(total[c], grads, fixed_row[c], e, moving_row[c])
                        else:
                            _add_shifted(total[c], grads, fixed_row[c], e)
        for c in range(C):
            for i in range(width):
                gradient[c, k, j, i] = total[c, i]
