"""Fused CPU kernels for what a registration spends its time on: warp, local correlation, Jacobian determinant.

They need numba (extra `fast`) and a float32 volume `[B, C, Z, Y, X]` on the CPU; callers ask `can_*` first and
otherwise use torch, which gives the same values. Each kernel reads its inputs once and writes its output once.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

try:
    import numba
    from numba import njit, prange
except ImportError:  # the library is complete without it, only slower
    numba = None

_lock = threading.Lock()  # numba's portable thread pool may be entered by one thread at a time
_usable = numba is not None and os.environ.get("RECURRENT_REGISTRATION_KERNELS", "1") != "0"


def _forget() -> None:
    global _usable
    _usable = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # OpenMP aborts a forked child that enters a parallel region


def can_run(*tensors: Tensor) -> bool:
    """Whether kernels can take these tensors: float32 on the CPU, with numba at hand."""
    return _usable and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


def is_volume(*tensors: Tensor) -> bool:
    """Whether a kernel can take these tensors as `[B, C, Z, Y, X]`."""
    return can_run(*tensors) and all(t.ndim == 5 for t in tensors)


def can_warp(image: Tensor, displacement: Tensor) -> bool:
    """Whether `warp` serves these tensors."""
    return is_volume(image, displacement)


def can_differentiate(displacement: Tensor) -> bool:
    """Whether `jacobian_determinant` serves this tensor (it has no derivative of its own)."""
    tracked = displacement.requires_grad and torch.is_grad_enabled()
    return is_volume(displacement) and not tracked and displacement.shape[1] == 3 and min(displacement.shape[2:]) > 1


def can_correlate(fixed: Tensor, warped: Tensor) -> bool:
    """Whether `local_correlation` serves these tensors."""
    return is_volume(fixed, warped) and fixed.shape[1] == 1


def threads() -> int:
    """How many threads a kernel runs on."""
    return max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))


def run(function: Callable[..., None], *arguments: Any) -> None:
    """Call a kernel on as many threads as torch uses."""
    asked = torch.get_num_threads()
    with _lock:
        numba.set_num_threads(threads())
        try:
            function(*arguments)
        except OSError:  # the disk had no room for the compiled kernel; it is in memory all the same
            function(*arguments)
    if torch.get_num_threads() != asked:  # numba's OpenMP pool sets the number for the whole process when it starts
        torch.set_num_threads(asked)


def array(tensor: Tensor) -> np.ndarray:
    """The values of a tensor as a contiguous array."""
    return tensor.detach().contiguous().numpy()


def warp(image: Tensor, displacement: Tensor, padding: str) -> Tensor:
    """Linear `image(p + u(p))`: image `[B, C, *M]`, displacement `[B, 3, *S]` in voxels, result `[B, C, *S]`."""
    values = image.new_empty(image.shape[0], image.shape[1], *displacement.shape[2:])
    for b in range(image.shape[0]):
        run(_warp, array(image[b]), array(displacement[b]), padding == "border", values[b].numpy())
    return values


def warp_gradient(image: Tensor, displacement: Tensor, grad: Tensor, padding: str) -> Tensor:
    """Derivative of `sum(grad * warp(image, u))` by the displacement, `[B, 3, *S]`."""
    gradient = torch.empty_like(displacement, memory_format=torch.contiguous_format)
    for b in range(image.shape[0]):
        arrays = array(image[b]), array(displacement[b]), array(grad[b])
        run(_warp_gradient, *arrays, padding == "border", gradient[b].numpy())
    return gradient


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """`det(I + grad u)` by central differences, one-sided at the ends: `[B, 3, Z, Y, X]` to `[B, 1, Z, Y, X]`."""
    determinant = displacement.new_empty(displacement.shape[0], 1, *displacement.shape[2:])
    for b in range(displacement.shape[0]):
        run(_jacobian_determinant, array(displacement[b]), determinant[b, 0].numpy())
    return determinant


def local_correlation(
    fixed: Tensor, warped: Tensor, weight: Tensor, radius: int, epsilon: float, squared: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted local correlation in windows of `2 radius + 1` and what its derivative needs.

    Returns the sum over windows `[B]`, the sum of window weights `[B]` and three coefficient volumes `[B, 3, *S]`.
    """
    batch = fixed.shape[0]
    total, mass = torch.zeros(batch), torch.zeros(batch)
    coefficients = fixed.new_empty(batch, 3, *fixed.shape[2:])
    for b in range(batch):
        sums = np.zeros((fixed.shape[2], 2))
        arrays = array(fixed[b, 0]), array(warped[b, 0]), array(weight[b, 0])
        run(_correlate, *arrays, radius, epsilon, squared, threads(), coefficients[b].numpy(), sums)
        total[b], mass[b] = sums.sum(axis=0).tolist()
    return total, mass, coefficients


def local_correlation_gradient(
    fixed: Tensor, warped: Tensor, weight: Tensor, coefficients: Tensor, radius: int
) -> Tensor:
    """Derivative of the sum over windows by the warped image, `[B, 1, *S]`."""
    gradient = torch.empty_like(warped, memory_format=torch.contiguous_format)
    for b in range(fixed.shape[0]):
        arrays = array(fixed[b, 0]), array(warped[b, 0]), array(weight[b, 0]), array(coefficients[b])
        run(_correlate_gradient, *arrays, radius, threads(), gradient[b, 0].numpy())
    return gradient


if numba is not None:
    # No NaN/Inf assumptions: a displacement may hold them, and must then read outside the image, not outside memory.
    _fast = {"contract", "reassoc", "nsz", "arcp", "afn"}

    def kernel(function: Callable[..., None]) -> Callable[..., None]:
        """Compile at the first call, and keep that on disk where there is a folder to write to."""
        compiled = njit(parallel=True, fastmath=_fast, error_model="numpy")(function)
        with contextlib.suppress(RuntimeError, OSError):  # read-only, or in an archive: each process compiles anew
            compiled.enable_caching()
        return compiled

    inline = njit(fastmath=_fast, error_model="numpy", forceinline=True)  # kept on disk within the kernels

    @inline
    def _corner(z, y, x, Z, Y, X):
        """Offset of a voxel, or -1 outside the image."""
        if z < 0 or y < 0 or x < 0 or z >= Z or y >= Y or x >= X:
            return -1
        return (z * Y + y) * X + x

    @inline
    def corners(z, y, x, Z, Y, X):
        """Offsets of the eight voxels around a point, -1 outside the image."""
        return (
            _corner(z, y, x, Z, Y, X),
            _corner(z, y, x + 1, Z, Y, X),
            _corner(z, y + 1, x, Z, Y, X),
            _corner(z, y + 1, x + 1, Z, Y, X),
            _corner(z + 1, y, x, Z, Y, X),
            _corner(z + 1, y, x + 1, Z, Y, X),
            _corner(z + 1, y + 1, x, Z, Y, X),
            _corner(z + 1, y + 1, x + 1, Z, Y, X),
        )

    @inline
    def value(row, offset):
        return row[np.uintp(offset)] if offset >= 0 else np.float32(0)

    @inline
    def _clamped(coordinate, size):
        return min(max(coordinate, np.float32(0)), np.float32(size - 1))

    @kernel
    def _warp(image, u, border, values):
        C, Z, Y, X = image.shape
        flat = image.reshape(C, Z * Y * X)
        D, H, W = u.shape[1:]
        for k in prange(D):
            for j in range(H):
                for i in range(W):
                    z, y, x = k + u[0, k, j, i], j + u[1, k, j, i], i + u[2, k, j, i]
                    if border:
                        z, y, x = _clamped(z, Z), _clamped(y, Y), _clamped(x, X)
                    fz, fy, fx = math.floor(z), math.floor(y), math.floor(x)
                    z0, y0, x0 = int(fz), int(fy), int(fx)
                    az, ay, ax = np.float32(z - fz), np.float32(y - fy), np.float32(x - fx)
                    bz, by, bx = np.float32(1) - az, np.float32(1) - ay, np.float32(1) - ax
                    if z0 >= 0 and y0 >= 0 and x0 >= 0 and z0 < Z - 1 and y0 < Y - 1 and x0 < X - 1:
                        o = np.uintp((z0 * Y + y0) * X + x0)
                        p = o + np.uintp(X)
                        q = o + np.uintp(Y * X)
                        r = q + np.uintp(X)
                        one = np.uintp(1)
                        for c in range(C):
                            m = flat[c]
                            near = by * (bx * m[o] + ax * m[o + one]) + ay * (bx * m[p] + ax * m[p + one])
                            far = by * (bx * m[q] + ax * m[q + one]) + ay * (bx * m[r] + ax * m[r + one])
                            values[c, k, j, i] = bz * near + az * far
                    else:
                        o000, o001, o010, o011, o100, o101, o110, o111 = corners(z0, y0, x0, Z, Y, X)
                        for c in range(C):
                            m = flat[c]
                            near = by * (bx * value(m, o000) + ax * value(m, o001))
                            near += ay * (bx * value(m, o010) + ax * value(m, o011))
                            far = by * (bx * value(m, o100) + ax * value(m, o101))
                            far += ay * (bx * value(m, o110) + ax * value(m, o111))
                            values[c, k, j, i] = bz * near + az * far

    @kernel
    def _warp_gradient(image, u, grad, border, gradient):
        C, Z, Y, X = image.shape
        flat = image.reshape(C, Z * Y * X)
        D, H, W = u.shape[1:]
        for k in prange(D):
            for j in range(H):
                for i in range(W):
                    z, y, x = k + u[0, k, j, i], j + u[1, k, j, i], i + u[2, k, j, i]
                    iz, iy, ix = np.float32(1), np.float32(1), np.float32(1)
                    if border:  # a clamped coordinate no longer moves with the displacement
                        iz = np.float32(z > 0 and z < Z - 1)
                        iy = np.float32(y > 0 and y < Y - 1)
                        ix = np.float32(x > 0 and x < X - 1)
                        z, y, x = _clamped(z, Z), _clamped(y, Y), _clamped(x, X)
                    fz, fy, fx = math.floor(z), math.floor(y), math.floor(x)
                    z0, y0, x0 = int(fz), int(fy), int(fx)
                    az, ay, ax = np.float32(z - fz), np.float32(y - fy), np.float32(x - fx)
                    bz, by, bx = np.float32(1) - az, np.float32(1) - ay, np.float32(1) - ax
                    o000, o001, o010, o011, o100, o101, o110, o111 = corners(z0, y0, x0, Z, Y, X)
                    gz, gy, gx = np.float32(0), np.float32(0), np.float32(0)
                    for c in range(C):
                        m = flat[c]
                        g = grad[c, k, j, i]
                        v000, v001, v010, v011 = (
                            value(m, o000),
                            value(m, o001),
                            value(m, o010),
                            value(m, o011),
                        )
                        v100, v101, v110, v111 = (
                            value(m, o100),
                            value(m, o101),
                            value(m, o110),
                            value(m, o111),
                        )
                        v00, v01 = bx * v000 + ax * v001, bx * v010 + ax * v011
                        v10, v11 = bx * v100 + ax * v101, bx * v110 + ax * v111
                        gz += g * (by * v10 + ay * v11 - by * v00 - ay * v01)
                        gy += g * (bz * (v01 - v00) + az * (v11 - v10))
                        dx0 = by * (v001 - v000) + ay * (v011 - v010)
                        dx1 = by * (v101 - v100) + ay * (v111 - v110)
                        gx += g * (bz * dx0 + az * dx1)
                    gradient[0, k, j, i] = gz * iz
                    gradient[1, k, j, i] = gy * iy
                    gradient[2, k, j, i] = gx * ix

    @inline
    def _neighbours(position, size):
        """The voxels a difference is taken between, and what it is multiplied by."""
        low, high = max(position - 1, 0), min(position + 1, size - 1)
        return low, high, np.float32(1) / np.float32(high - low)

    @kernel
    def _jacobian_determinant(u, determinant):
        _, Z, Y, X = u.shape
        one = np.float32(1)
        for k in prange(Z):
            k0, k1, sz = _neighbours(k, Z)
            for j in range(Y):
                j0, j1, sy = _neighbours(j, Y)
                for i in range(X):
                    i0, i1, sx = _neighbours(i, X)
                    a = (u[0, k1, j, i] - u[0, k0, j, i]) * sz + one
                    b = (u[0, k, j1, i] - u[0, k, j0, i]) * sy
                    c = (u[0, k, j, i1] - u[0, k, j, i0]) * sx
                    d = (u[1, k1, j, i] - u[1, k0, j, i]) * sz
                    e = (u[1, k, j1, i] - u[1, k, j0, i]) * sy + one
                    f = (u[1, k, j, i1] - u[1, k, j, i0]) * sx
                    g = (u[2, k1, j, i] - u[2, k0, j, i]) * sz
                    h = (u[2, k, j1, i] - u[2, k, j0, i]) * sy
                    m = (u[2, k, j, i1] - u[2, k, j, i0]) * sx + one
                    determinant[k, j, i] = a * (e * m - f * h) - b * (d * m - f * g) + c * (d * h - e * g)

    @inline
    def _sum_row(row, radius, out):
        """Sum over a window along a row; nothing lies outside."""
        n = row.shape[0]
        for i in range(n):
            out[i] = np.float32(0)
        for t in range(-radius, radius + 1):
            for i in range(max(0, -t), min(n, n - t)):
                out[i] += row[i + t]

    @inline
    def _sum_plane(planes, radius, rows, out):
        """Window sums of `[K, Y, X]` along both axes; `rows [Y, X]` is scratch."""
        K, Y, X = planes.shape
        for q in range(K):
            for j in range(Y):
                _sum_row(planes[q, j], radius, rows[j])
            for j in range(Y):
                target = out[q, j]
                for i in range(X):
                    target[i] = np.float32(0)
                for s in range(max(0, j - radius), min(Y, j + radius + 1)):
                    for i in range(X):
                        target[i] += rows[s, i]

    @inline
    def chunk(part, parts, size):
        return part * size // parts, (part + 1) * size // parts

    @kernel
    def _correlate(fixed, warped, weight, radius, epsilon, squared, threads, coefficients, sums):
        Z, Y, X = fixed.shape
        span = 2 * radius + 1
        parts = min(threads, Z)
        for part in prange(parts):
            first, last = chunk(part, parts, Z)
            products = np.empty((6, Y, X), np.float32)
            rows = np.empty((Y, X), np.float32)
            ring = np.zeros((span, 6, Y, X), np.float32)
            total = np.empty((6, X), np.float32)
            for k in range(first - radius, last + radius):
                slot = ring[(k + span) % span]
                if k < 0 or k >= Z:
                    slot[:] = 0
                else:
                    for j in range(Y):
                        for i in range(X):
                            w, f, m = weight[k, j, i], fixed[k, j, i], warped[k, j, i]
                            wf, wm = w * f, w * m
                            products[0, j, i], products[1, j, i], products[2, j, i] = w, wf, wm
                            products[3, j, i], products[4, j, i], products[5, j, i] = wf * f, wm * m, wf * m
                    _sum_plane(products, radius, rows, slot)
                centre = k - radius
                if centre < first:
                    continue
                correlation, mass = 0.0, 0.0
                for j in range(Y):
                    for q in range(6):
                        for i in range(X):
                            total[q, i] = ring[0, q, j, i]
                        for s in range(1, span):
                            for i in range(X):
                                total[q, i] += ring[s, q, j, i]
                    row_correlation, row_mass = np.float32(0), np.float32(0)
                    for i in range(X):
                        w = weight[centre, j, i]
                        n = max(total[0, i], np.float32(1e-6))
                        mean_f, mean_m = total[1, i] / n, total[2, i] / n
                        var_f = max(total[3, i] / n - mean_f * mean_f, np.float32(0)) + epsilon
                        var_m = max(total[4, i] / n - mean_m * mean_m, np.float32(0)) + epsilon
                        cov = total[5, i] / n - mean_f * mean_m + epsilon
                        if squared:
                            value = cov * cov / (var_f * var_m)
                            a = np.float32(2) * cov / (var_f * var_m)
                            b = np.float32(2) * value / var_m
                        else:
                            a = np.float32(1) / math.sqrt(var_f * var_m)
                            value = cov * a
                            b = value / var_m
                        a *= w / n
                        b *= w / n
                        coefficients[0, centre, j, i] = a
                        coefficients[1, centre, j, i] = b
                        coefficients[2, centre, j, i] = b * mean_m - a * mean_f
                        row_correlation += w * value
                        row_mass += w
                    correlation += row_correlation
                    mass += row_mass
                sums[centre, 0] = correlation
                sums[centre, 1] = mass

    @kernel
    def _correlate_gradient(fixed, warped, weight, coefficients, radius, threads, gradient):
        Z, Y, X = fixed.shape
        span = 2 * radius + 1
        parts = min(threads, Z)
        for part in prange(parts):
            first, last = chunk(part, parts, Z)
            rows = np.empty((Y, X), np.float32)
            ring = np.zeros((span, 3, Y, X), np.float32)
            total = np.empty((3, X), np.float32)
            for k in range(first - radius, last + radius):
                slot = ring[(k + span) % span]
                if k < 0 or k >= Z:
                    slot[:] = 0
                else:
                    _sum_plane(coefficients[:, k], radius, rows, slot)
                centre = k - radius
                if centre < first:
                    continue
                for j in range(Y):
                    for q in range(3):
                        for i in range(X):
                            total[q, i] = ring[0, q, j, i]
                        for s in range(1, span):
                            for i in range(X):
                                total[q, i] += ring[s, q, j, i]
                    for i in range(X):
                        slope = fixed[centre, j, i] * total[0, i] - warped[centre, j, i] * total[1, i] + total[2, i]
                        gradient[centre, j, i] = weight[centre, j, i] * slope
