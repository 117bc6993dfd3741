"""Images pulled through linear maps, without a displacement in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.kernels import volumes


def linear_warp(image: Tensor, matrices: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Linear `image(A p)` at every voxel `p` of a grid, 0 outside the image.

    Differentiable in the matrices; fused on the CPU in 3D, where it has no second derivative.

    Args:
        image: `[1, 1, *M]`.
        matrices: `A`, `[B, d, d + 1]`, from voxels of the grid to voxels of the image, in tensor order.
        shape: `S` of the grid.

    Returns:
        Values `[B, 1, *S]`, and `[B, 1, *S]` that is 1 where `A p` lies within half a voxel of the image, else 0.
    """
    if volumes.is_volume(image) and volumes.can_run(matrices) and not image.requires_grad:
        return _FusedLinearWarp.apply(image, matrices, tuple(shape))
    d = len(shape)
    voxels = spatial.identity_grid(shape, device=image.device)
    view = (matrices.shape[0], d, *[1] * d)
    points = torch.einsum("bct,xt...->bc...", matrices[..., :d], voxels) + matrices[..., d].reshape(view)
    size = points.new_tensor(image.shape[2:]).view(1, *view[1:])
    inside = ((points > -0.5) & (points < size - 0.5)).all(dim=1, keepdim=True).to(image)
    return spatial.warp(image, points - voxels), inside


class _FusedLinearWarp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, matrices: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        from RecurrentRegistrationLib.kernels import linear_warp as linear_warp_kernel  # needs numba, which is optional

        ctx.save_for_backward(image, matrices)
        ctx.gradient = linear_warp_kernel.linear_warp_gradient
        values, inside = linear_warp_kernel.linear_warp(image, matrices, shape)
        ctx.mark_non_differentiable(inside)
        return values, inside

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[None, Tensor, None]:
        return None, ctx.gradient(*ctx.saved_tensors, grad), None
