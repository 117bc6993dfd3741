"""Affine maps in coordinates where the image is [-1, 1] along every axis, whatever its number of voxels.

`A x + b` is kept as one tensor `[B, d, d + 1]`, the columns of `A` and then `b`; rows and columns follow the tensor's
axes (2D: y, x; 3D: z, y, x). It pulls, as displacements do: `warped(x) = moving(A x + b)`. `affine_displacement` is
the one place that converts to voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def identity_affine(batch: int, dimension: int, like: Tensor) -> Tensor:
    """`[B, d, d + 1]` that moves nothing."""
    return torch.eye(dimension, dimension + 1, dtype=like.dtype, device=like.device).repeat(batch, 1, 1)


def compose_affine(new: Tensor, old: Tensor) -> Tensor:
    """Follow `new`, then `old`: `A = A_old A_new`, `b = A_old b_new + b_old`."""
    # Sums of products, not `@`, which mixed precision would round.
    composed = (old[..., :-1].unsqueeze(-1) * new.unsqueeze(-3)).sum(-2)
    return torch.cat([composed[..., :-1], composed[..., -1:] + old[..., -1:]], dim=-1)


def affine_displacement(affine: Tensor, shape: Sequence[int]) -> Tensor:
    """The displacement `[B, d, *S]` of an affine map, in voxels of the grid `S` that spans the image.

    It is linear in the position, so a grid of a few voxels already holds all of it.
    """
    dimension = len(shape)
    ones = [1] * dimension
    moved = (affine - identity_affine(1, dimension, affine)).view(-1, dimension, dimension + 1, *ones)
    displacement = moved[:, :, -1].expand(-1, -1, *shape)
    for axis, n in enumerate(shape):
        position = torch.linspace(-1, 1, n, dtype=affine.dtype, device=affine.device) if n > 1 else affine.new_zeros(1)
        along = position.view(*ones[:axis], -1, *ones[axis + 1 :])
        displacement = torch.addcmul(displacement, moved[:, :, axis], along)
    half = affine.new_tensor([(n - 1) / 2 for n in shape])
    return (displacement * half.view(1, -1, *ones)).contiguous()  # broadcasting left its axes in another order


def few_voxels(affine: Tensor, shape: Sequence[int]) -> Tensor:
    """The displacement of an affine map on a grid that spans the image with at most nine voxels along an axis."""
    return affine_displacement(affine, [min(n, 9) for n in shape])


def affine_matrix(affine: Tensor, shape: Sequence[int]) -> np.ndarray:
    """One affine map `[d, d + 1]` as a homogeneous matrix in voxels of the grid `S` that spans the image."""
    d = len(shape)
    half = np.array([(n - 1) / 2 for n in shape])
    per_voxel = np.divide(1, half, out=np.zeros(d), where=half > 0)
    values = affine.detach().cpu().double().numpy()
    linear = half[:, None] * values[:, :d] * per_voxel
    linear[half == 0, half == 0] = 1.0  # nothing moves along an axis of one voxel
    matrix = np.eye(d + 1)
    matrix[:d, :d] = linear
    matrix[:d, d] = half * (values[:, d] + 1 - values[:, :d] @ (half > 0))
    return matrix
