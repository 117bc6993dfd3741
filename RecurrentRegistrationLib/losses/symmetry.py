"""How far a registration is from its inverse, and an affine one from the identity (AVSM, Eqs. 3, 5 and 13).

Affine maps are `[B, d, d + 1]` in [-1, 1] coordinates, displacements `[B, d, *S]` in voxels; each loss is a scalar.
"""

from __future__ import annotations

from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.affine_map import compose_affine, identity_affine


def affine_deviation(affine: Tensor) -> Tensor:
    """`|A - I|_F^2 + |b|^2`, mean over the batch."""
    return (affine - identity_affine(1, affine.shape[-2], affine)).square().sum((1, 2)).mean()


def affine_symmetry(forward: Tensor, backward: Tensor) -> Tensor:
    """`|A_ts A - I|_F^2 + |A_ts b + b_ts|^2`, mean over the batch: zero where one map undoes the other."""
    return affine_deviation(compose_affine(forward, backward))


def map_symmetry(forward: Tensor, backward: Tensor) -> Tensor:
    """Mean over voxels and axes of `(backward o forward - id)^2` in the unit cube's coordinates.

    The paper sums over voxels with a weight of 1e-4; at its image size that is this mean with a weight of 885.
    """
    residual = spatial.compose(forward, backward)
    extent = residual.new_tensor([max(n - 1, 1) for n in residual.shape[2:]])
    return (residual / extent.view(1, -1, *[1] * extent.numel())).square().mean()
