"""Gradient of a similarity with respect to the displacement: what recurrent inference is fed.

Every function here is called with `(fixed, moving, displacement, weight=None, create_graph=False)`: images
`[B, 1, *S]`, the displacement `[B, d, *S]` in voxels, `weight [B, 1, *S]` for how much each voxel counts. It returns
`[B, d, *S]`: the derivative of each pair's own loss, times the number of voxels that count, so that its size does not
depend on that of the image. The moving image goes on beyond the grid as at its edge, which is not an edge to follow.
With `create_graph` the result can be differentiated again; otherwise it is a constant. All compute in float32, also
under autocast, and also under inference mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial


class SimilarityGradient(Protocol):
    """What the functions of this module have in common."""

    def __call__(
        self,
        fixed: Tensor,
        moving: Tensor,
        displacement: Tensor,
        weight: Tensor | None = None,
        create_graph: bool = False,
    ) -> Tensor:
        """The gradient `[B, d, *S]`."""


def squared_error_gradient(
    fixed: Tensor,
    moving: Tensor,
    displacement: Tensor,
    weight: Tensor | None = None,
    create_graph: bool = False,
) -> Tensor:
    """`2 (M o phi - F) (grad M) o phi` for the mean squared error, with the slope of the interpolated image itself."""
    with _recording(fixed):
        fixed, moving, displacement, weight = _recordable(fixed, moving, displacement, weight, create_graph)
        warped = spatial.warp(moving, displacement, padding="border")
        error = 2 * (warped - fixed) * (1 if weight is None else weight)
        return torch.autograd.grad(warped, displacement, error, create_graph=create_graph)[0]


def central_difference_gradient(
    fixed: Tensor,
    moving: Tensor,
    displacement: Tensor,
    weight: Tensor | None = None,
    create_graph: bool = False,
) -> Tensor:
    """The same with the slope of the moving image by central differences, warped: smoother, and free of autograd."""
    with (
        torch.set_grad_enabled(create_graph and torch.is_grad_enabled()),
        torch.autocast(fixed.device.type, enabled=False),
    ):
        slopes = [spatial.difference(moving, axis) for axis in range(spatial.dimension_of(moving))]
        both = spatial.warp(torch.cat([moving, *slopes], dim=1), displacement, padding="border")
        warped, slope = both.split([1, len(slopes)], dim=1)
        return 2 * (warped - fixed) * (1 if weight is None else weight) * slope


def gradient_of(similarity: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> SimilarityGradient:
    """The gradient of any similarity `(fixed, warped, weight) -> loss`, a mean over the batch, by autograd."""

    def gradient(
        fixed: Tensor,
        moving: Tensor,
        displacement: Tensor,
        weight: Tensor | None = None,
        create_graph: bool = False,
    ) -> Tensor:
        with _recording(fixed):
            fixed, moving, displacement, weight = _recordable(fixed, moving, displacement, weight, create_graph)
            loss = similarity(fixed, spatial.warp(moving, displacement, padding="border"), weight)
            found = torch.autograd.grad(loss, displacement, create_graph=create_graph)[0]
            axes = tuple(range(1, fixed.ndim))
            voxels = fixed[0, 0].numel() if weight is None else weight.sum(axes, keepdim=True)
            return found * fixed.shape[0] * voxels

    return gradient


def common_weight(fixed_mask: Tensor | None, moving_mask: Tensor | None, displacement: Tensor) -> Tensor | None:
    """Where masks `[B, 1, *S]`, 0 to 1, both count once the moving one is warped; a constant, None where neither is.

    The moving mask goes on beyond its edges, so that masks of everything are not masks.
    """
    if moving_mask is None:
        return fixed_mask
    warped = spatial.warp(moving_mask, displacement.detach(), padding="border")
    return warped if fixed_mask is None else warped * fixed_mask


@contextmanager
def _recording(like: Tensor) -> Iterator[None]:
    """Record for autograd in full precision, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(like.device.type, enabled=False):
        yield


def _recordable(
    fixed: Tensor, moving: Tensor, displacement: Tensor, weight: Tensor | None, create_graph: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The arguments as tensors that autograd takes, the displacement a new leaf unless its own graph is wanted."""
    fixed, moving, displacement = (t.clone() if t.is_inference() else t for t in (fixed, moving, displacement))
    if weight is not None:
        weight = weight.to(fixed.dtype, copy=weight.is_inference())
    if not (create_graph and displacement.requires_grad):
        displacement = displacement.detach().requires_grad_()
    return fixed, moving, displacement, weight
