"""The rate at which a velocity carries values past the voxels of a grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.kernels import volumes


def transport(values: Tensor, velocity: Tensor, scale: float = 1.0, *, identity: bool = False) -> Tensor:
    """`-scale (D values) velocity`, central differences, linear extrapolation beyond the border.

    Differentiable in both; fused on the CPU, where it has no second derivative.

    Args:
        values: `[B, C, *S]`; with `identity` they are a displacement `[B, d, *S]` in voxels and `id + u` is carried.
        velocity: `[B, d, *S]`, voxels per unit of time.
        scale: a factor.
        identity: whether the values count from the identity.
    """
    if volumes.is_volume(values, velocity):
        return _FusedTransport.apply(values, velocity, scale, identity)
    change = velocity if identity else torch.zeros_like(values)
    for axis in range(spatial.dimension_of(values)):
        change = torch.addcmul(change, spatial.difference(values, axis), velocity[:, axis : axis + 1])
    return change * -scale


class _FusedTransport(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, velocity: Tensor, scale: float, identity: bool) -> Tensor:
        from RecurrentRegistrationLib.kernels import transport as transport_kernel  # needs numba, which is optional

        ctx.save_for_backward(values, velocity)
        ctx.scale, ctx.identity, ctx.gradient = scale, identity, transport_kernel.transport_gradient
        return transport_kernel.transport(values, velocity, scale, identity)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        values, velocity = ctx.saved_tensors
        return *ctx.gradient(values, velocity, grad, ctx.scale, ctx.identity), None, None
