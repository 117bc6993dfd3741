"""What can be said of the inputs before any long work. Every check raises `InputError`."""

from __future__ import annotations

import warnings

import numpy as np

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.volume import Grid, Volume


def check_images(fixed: Volume, moving: Volume) -> None:
    """Refuse images that differ in dimension, hold several values a voxel, NaN, or one value only."""
    if fixed.grid.dimension != moving.grid.dimension:
        raise InputError(
            f"The fixed image is {fixed.grid.dimension}D, the moving one {moving.grid.dimension}D: give two of a kind."
        )
    for name, volume in (("fixed", fixed), ("moving", moving)):
        if volume.array.shape[0] != 1:
            raise InputError(f"The {name} image has {volume.array.shape[0]} values a voxel: give one of grey values.")
        if volume.array.dtype.kind == "f" and not np.isfinite(volume.array).all():
            raise InputError(f"The {name} image holds NaN or infinite values: replace them first.")
        if volume.array.min() == volume.array.max():
            raise InputError(f"The {name} image is constant, there is nothing to register: check the file.")
    if fixed.array is moving.array:
        warnings.warn("The fixed and the moving image are the same.", stacklevel=6)


def check_mask(image: Volume, mask: Volume | None, name: str) -> None:
    """Refuse an empty mask and one of another dimension than its image."""
    if mask is None:
        return
    if mask.grid.dimension != image.grid.dimension:
        raise InputError(f"The mask of the {name} image is {mask.grid.dimension}D, the image {image.grid.dimension}D.")
    if not np.any(mask.array):
        raise InputError(f"The mask of the {name} image is empty: mark some voxels or leave it out.")


def check_overlap(fixed: Grid, moving: Grid) -> None:
    """Refuse two images whose boxes do not meet where no other start is looked for."""
    index = moving.index(fixed.corners())
    apart = (index.max(axis=0) < 0) | (index.min(axis=0) > np.array(moving.size) - 1)
    if apart.any():
        raise InputError("The images do not overlap in physical space: choose another initial alignment than 'none'.")
