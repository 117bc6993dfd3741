"""Smaller images for coarser stages."""

from __future__ import annotations

from torch import Tensor

from RecurrentRegistrationLib import spatial


def shrink(image: Tensor, factor: float) -> Tensor:
    """An image `[B, C, *S]` on `ceil(S / factor)` voxels of the same extent, smoothed first so that nothing aliases."""
    if factor <= 1:
        return image
    shape = tuple(-int(-n // factor) for n in image.shape[2:])
    return spatial.resize(spatial.gaussian_smooth(image, 0.5 * (factor**2 - 1) ** 0.5), shape)
