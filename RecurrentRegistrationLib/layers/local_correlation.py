"""Local correlation: how alike each fixed voxel's features are to those of the moving voxels around it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from RecurrentRegistrationLib.kernels import volumes

Kind = Literal["dot", "sad"]
Reach = tuple[int, int, int]
BLOCK = 16  # voxels of a row that the portable way compares with their surroundings in one matrix product


def local_correlation(
    fixed: Tensor, moving: Tensor, radius: int, *, kind: Kind = "dot", projection: nn.Module | None = None
) -> Tensor:
    """Compare the features `[B, C, *S]` of each fixed voxel with those of the moving voxels within `radius`, r.

    `dot` is the dot product over the square root of C (Teed and Deng, RAFT, ECCV 2020, eq. 1, around each voxel).
    `sad` is the sum of absolute differences averaged over boxes of 3 voxels a side, as in RWCNet's released code.
    Features and boxes are zero outside. Both kinds are differentiable in both arguments; nothing but the two feature
    maps is kept for the backward pass, which compares anew.

    Args:
        fixed: features.
        moving: features on the same grid.
        radius: the greatest shift along each axis.
        kind: the measure.
        projection: a 1x1 convolution of the comparisons, applied as they come, without ever writing them all.

    Returns:
        `[B, (2r+1)^d, *S]`. Channels run over the shifts, from -r to r along each axis, the last axis fastest: in 3D
        channel `((dz + r) (2r+1) + dy + r) (2r+1) + dx + r` compares with `moving(p + (dz, dy, dx))`. With a
        projection, its output.
    """
    dimension, shape = fixed.ndim - 2, fixed.shape[2:]
    device = fixed.device.type
    dtype = torch.promote_types(fixed.dtype, moving.dtype)
    if device == "cpu" and dtype.itemsize == 2:
        dtype = torch.float32  # on a CPU half precision would only be slower
    elif device != "cpu" and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if kind == "dot":
        fixed = fixed * fixed.shape[1] ** -0.5
    reach = (radius if dimension == 3 else 0, radius, radius)
    fixed, moving = (t.to(dtype).reshape(*t.shape[:2], *[1] * (3 - dimension), *shape) for t in (fixed, moving))
    weight = fixed.new_empty(0, (2 * radius + 1) ** dimension)
    if projection is not None:
        weight = projection.weight.flatten(1).to(dtype)
    with torch.autocast(device, enabled=False):
        compare = _compare_fused if volumes.is_volume(fixed, moving) else _compare_rows
        volume = compare(fixed, moving, weight, reach, kind == "sad").reshape(fixed.shape[0], -1, *shape)
        if kind == "sad":  # a mean over space and a mixture of channels commute: the mixture is averaged
            pool = F.avg_pool2d if dimension == 2 else F.avg_pool3d
            volume = pool(F.pad(volume, [1] * 2 * dimension), 3, 1)  # padded here: thin volumes are welcome
        if projection is not None and projection.bias is not None:
            volume = volume + projection.bias.to(dtype).view(-1, *[1] * dimension)
    return volume


def _compare_fused(fixed: Tensor, moving: Tensor, weight: Tensor, reach: Reach, absolute: bool) -> Tensor:
    """Comparisons, mixed by the weight `[Q, nz ny nx]` where it has rows, by the CPU kernels."""
    margin = [side for r in reversed(reach) for side in (r, r)]
    return _FusedComparison.apply(fixed, F.pad(moving, margin), weight, reach, absolute)


class _FusedComparison(torch.autograd.Function):
    @staticmethod
    def forward(ctx, fixed: Tensor, moving: Tensor, weight: Tensor, reach: Reach, absolute: bool) -> Tensor:
        from RecurrentRegistrationLib.kernels import local_correlation as local_correlation_kernel  # needs numba

        ctx.save_for_backward(fixed, moving, weight)
        ctx.reach, ctx.absolute = reach, absolute
        return local_correlation_kernel.compare(fixed, moving, weight, reach, absolute)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        from RecurrentRegistrationLib.kernels import local_correlation as local_correlation_kernel

        gradients = local_correlation_kernel.compare_gradient(*ctx.saved_tensors, grad, ctx.reach, ctx.absolute)
        return *gradients, None, None


def _compare_rows(fixed: Tensor, moving: Tensor, weight: Tensor, reach: Reach, absolute: bool) -> Tensor:
    """The same on any device and in any precision, a row of shifts (dz, dy) at a time."""
    width = fixed.shape[-1]
    excess = -width % BLOCK
    fixed = F.pad(fixed, (0, excess)).movedim(1, -1).unflatten(3, (-1, BLOCK)).contiguous()
    margin = [reach[2], reach[2] + excess, reach[1], reach[1], reach[0], reach[0]]
    moving = F.pad(moving, margin).movedim(1, -1).contiguous()
    return _RowComparison.apply(fixed, moving, weight, reach, absolute)[..., :width]


class _RowComparison(torch.autograd.Function):
    """Fixed features in blocks `[B, Z, Y, n, BLOCK, C]`, padded moving features `[B, Z', Y', X', C]`."""

    @staticmethod
    def forward(ctx, fixed: Tensor, moving: Tensor, weight: Tensor, reach: Reach, absolute: bool) -> Tensor:
        ctx.save_for_backward(fixed, moving, weight)
        ctx.reach, ctx.absolute = reach, absolute
        batch, *shape, blocks, block, _ = fixed.shape
        mixed, channels = weight.shape
        volume = fixed.new_zeros(batch, mixed or channels, *shape, blocks * block)
        for region, row in _rows(fixed, reach):
            comparisons = _compare_row(fixed, moving[region], absolute)
            if mixed:
                volume += _mix(weight[:, row], comparisons)
            else:
                volume[:, row] = comparisons
        return volume

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        fixed, moving, weight = (t.detach().requires_grad_() for t in ctx.saved_tensors)
        gradients = torch.zeros_like(fixed), torch.zeros_like(moving), torch.zeros_like(weight)
        for region, row in _rows(fixed, ctx.reach):
            with torch.enable_grad():
                near, scales = moving[region].detach().requires_grad_(), weight[:, row].detach().requires_grad_()
                comparisons = _compare_row(fixed, near, ctx.absolute)
                values = _mix(scales, comparisons) if len(weight) else comparisons
            found = torch.autograd.grad(
                values, (fixed, near, scales), grad if len(weight) else grad[:, row], allow_unused=True
            )
            for total, part in zip((gradients[0], gradients[1][region], gradients[2][:, row]), found, strict=True):
                if part is not None:
                    total += part
        return *gradients, None, None


def _rows(fixed: Tensor, reach: Reach) -> Iterator[tuple[tuple[slice, ...], slice]]:
    """For each pair (dz, dy): the region of the padded moving features that it compares with, and its channels."""
    depth, height = fixed.shape[1:3]
    nz, ny, nx = (2 * r + 1 for r in reach)
    for dz, dy in itertools.product(range(nz), range(ny)):
        first = (dz * ny + dy) * nx
        yield (slice(None), slice(dz, dz + depth), slice(dy, dy + height)), slice(first, first + nx)


def _compare_row(fixed: Tensor, moving: Tensor, absolute: bool) -> Tensor:
    """Comparisons `[B, nx, Z, Y, X]` of blocks `[B, Z, Y, n, BLOCK, C]` with moving rows `[B, Z, Y, X + nx - 1, C]`."""
    blocks, block = fixed.shape[3:5]
    around = moving.shape[3] - (blocks - 1) * block
    shifts = around - block + 1
    near = moving.unfold(3, around, block)  # [B, Z, Y, n, C, around]
    if absolute:
        rows = [(fixed - near[..., s : s + block].transpose(-1, -2)).abs().sum(-1) for s in range(shifts)]
        return torch.stack(rows, dim=1).flatten(-2)
    products = fixed @ near  # [B, Z, Y, n, BLOCK, around], wanted in a diagonal band
    band = F.pad(products.flatten(-2), (0, block)).unflatten(-1, (block, around + 1))[..., :shifts]
    return band.movedim(-1, 1).flatten(-2)


def _mix(weight: Tensor, comparisons: Tensor) -> Tensor:
    return torch.einsum("qn,bn...->bq...", weight, comparisons)
