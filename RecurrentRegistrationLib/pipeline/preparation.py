"""From two volumes to what a method takes: intensities by preset, and resampling onto a common working grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.pipeline.presets import SOFT_TISSUE, Preset
from RecurrentRegistrationLib.volume import Grid, Volume

AIR = -900.0  # Hounsfield units below which only air and the padding around a scan lie

SPIKE = 6.0  # times the range of all but the brightest 1 %
FEW = 0.025  # share of an image that is too small for an anatomy


@dataclass(frozen=True)
class Prepared:
    """An image `[1, 1, *S]` in [0, 1] with its grid, and its mask (1 where it counts) if it has one.

    One that was smoothed is `shown` as on a coarser grid: with this spacing (i, j, k), millimetres.
    """

    values: Tensor
    grid: Grid
    mask: Tensor | None = None
    shown: tuple[float, ...] | None = None

    def onto(self, target: Grid, matrix: np.ndarray | None = None) -> Prepared:
        """Pulled onto another grid through a homogeneous matrix from its points to this image's points.

        Smoothed first where the other grid is coarser. Outside, values are 0 and do not count: the result has a mask
        where this image has one or does not reach every voxel.
        """
        displacement = linear_displacement(target, self.grid, matrix).to(self.values)
        values = spatial.warp(antialiased(self.values, self.grid, target, self.shown), displacement)
        mask = _reached(displacement, self.grid)
        if self.mask is not None:
            mask = mask * spatial.warp(antialiased(self.mask, self.grid, target), displacement)
        return Prepared(values, target, mask if mask.min() < 1 or self.mask is not None else None)

    def cropped(self, first: list[int], size: list[int]) -> Prepared:
        """The box of `size` voxels from index `first` (i, j[, k])."""
        box: tuple = (..., *[slice(f, f + n) for f, n in zip(first[::-1], size[::-1], strict=True)])
        mask = None if self.mask is None else self.mask[box]
        return replace(self, values=self.values[box], grid=self.grid.cropped(first, size), mask=mask)

    def to(self, device: torch.device) -> Prepared:
        """The same on another device."""
        return replace(self, values=self.values.to(device), mask=None if self.mask is None else self.mask.to(device))


def linear_displacement(target: Grid, source: Grid, matrix: np.ndarray | None = None) -> Tensor:
    """Displacement `[1, d, *S]`, in voxels counted from both grids' first, that pulls `source` onto `target`."""
    matrix = np.eye(target.dimension + 1) if matrix is None else matrix
    return spatial.linear_displacement(source.physical_to_tensor @ matrix @ target.tensor_to_physical, target.shape)


def _reached(displacement: Tensor, grid: Grid) -> Tensor:
    """1 where `p + u(p)` lies between an image's outer voxel centres, `[1, 1, *S]`."""
    reached = torch.ones_like(displacement[:, :1], dtype=torch.bool)
    for axis, (size, last) in enumerate(zip(displacement.shape[2:], grid.shape, strict=True)):
        steps = torch.arange(size, device=displacement.device)
        steps = steps.view([-1 if a == axis else 1 for a in range(grid.dimension)])
        index = displacement[:, axis : axis + 1] + steps
        reached &= (index > -1e-3) & (index < last - 1 + 1e-3)
    return reached.to(displacement.dtype)


def antialiased(values: Tensor, grid: Grid, target: Grid, shown: tuple[float, ...] | None = None) -> Tensor:
    """Smooth away what a coarser grid cannot hold, but for what is gone already (`shown`, see `Prepared`)."""
    spacing = math.prod(target.spacing) ** (1 / target.dimension)
    return _coarsened(values, grid, shown or grid.spacing, [spacing] * grid.dimension)


def blurred_like(image: Prepared, other: Grid) -> Prepared:
    """Smoothed to the spacing of another image where that is coarser.

    Thick slices and thin ones look most alike where they do not lie on each other, and a deformation would follow that.
    """
    own, theirs = (np.array(grid.direction).reshape(2 * [grid.dimension]) for grid in (image.grid, other))
    spacing = np.sqrt((own.T @ theirs) ** 2 @ np.square(other.spacing))  # the other's, along this image's axes
    values = _coarsened(image.values, image.grid, image.grid.spacing, spacing.tolist())
    if values is image.values:
        return image
    return replace(image, values=values, shown=tuple(np.maximum(spacing, image.grid.spacing).tolist()))


def _coarsened(values: Tensor, grid: Grid, shown: Sequence[float], spacing: Sequence[float]) -> Tensor:
    """From one spacing that is shown to a coarser one (both i, j, k; millimetres); the same where it is not coarser."""
    sigmas = [
        0.5 * math.sqrt(max(coarse**2 - fine**2, 0.0)) / voxel
        for voxel, fine, coarse in zip(grid.spacing, shown, spacing, strict=True)
    ]
    return spatial.gaussian_smooth(values, sigmas[::-1]) if max(sigmas) > 0.25 else values


def padding(sample: np.ndarray) -> float | None:
    """The value that fills what was not scanned: the lowest, often and far below all others. None for none.

    Zero is none: it is what air or a stripped skull looks like, and belongs to the scale.
    """
    lowest = sample.min()
    others = sample[sample > lowest]
    if lowest >= 0 or others.size == 0 or others.size > 0.999 * sample.size:
        return None
    next_lowest, high = np.percentile(others, (0.1, 99.5))
    return float(lowest) if next_lowest - lowest > 0.2 * max(high - next_lowest, 1e-12) else None


def is_ct(volume: Volume) -> bool:
    """Whether the values look like Hounsfield units: air about -1000 and tissue around 0, whatever fills the rest."""
    sample = _sample(volume)
    fill = padding(sample)
    if fill is None:
        scanned = sample[sample > -1200]  # padding that was interpolated or got noise is no longer one value
        if scanned.size < 0.5 * sample.size:
            return False
        low, quarter = np.percentile(scanned, (1, 25))
        return bool(low < AIR and quarter < -200 and sample.max() < 20000)
    rest = sample[sample > fill]
    low, middle, high = np.percentile(rest, (1, 50, 99))
    if low < AIR:  # a scan with air, padded
        return bool(low > -1200 and high < 20000)
    return bool(-1200 < fill < AIR and -1200 < low < -10 and -200 < middle < 150 and high < 3000)  # cut out of air


def choose_preset(fixed: Volume, moving: Volume) -> str:
    """The preset for two images by what their values look like."""
    kinds = is_ct(fixed), is_ct(moving)
    if kinds[0] != kinds[1]:
        return "multimodal"
    if not kinds[0]:
        return "mr"
    sample = _sample(fixed)
    body = sample[sample > -980]
    lung = np.mean((body > -950) & (body < -500)) if body.size else 0.0
    return "ct-lung" if lung > 0.2 else "ct"


def prepare(volume: Volume, mask: Volume | None, preset: Preset) -> Prepared:
    """Intensities in [0, 1]: by the preset's window, otherwise by percentiles of what is neither padding nor air.

    Raises:
        InputError: the window leaves nothing of the image, or nothing of the mask lies in it.
    """
    array = volume.array[0].astype(np.float32)
    if preset.window is not None:
        low, high = preset.window
        if array.max() <= low or array.min() >= high:
            raise InputError(
                f"Values of {array.min():g} to {array.max():g} lie outside the window of {low:g} to {high:g} HU, which "
                "leaves nothing to register: choose another preset, mr for values without a unit."
            )
    elif preset.guess and is_ct(volume):
        low, high = SOFT_TISSUE
    else:
        low, high = _scale(volume)
    values = torch.from_numpy((array - low) / (high - low)).clamp_(0, 1)[None, None]
    if mask is None:
        return Prepared(values, volume.grid)
    inside = mask if mask.grid.almost_equal(volume.grid) else mask.resampled(volume.grid, interpolation="nearest")
    if not np.any(inside.array):
        raise InputError("The mask and its image do not overlap in physical space: check that they belong together.")
    return Prepared(values, volume.grid, torch.from_numpy((inside.array[0] != 0).astype(np.float32))[None, None])


def _scale(volume: Volume) -> tuple[float, float]:
    """Values that become 0 and 1, by what is neither padding nor air nor a few hot voxels."""
    sample = _sample(volume)
    fill = padding(sample)
    return _percentiles(sample if fill is None else sample[sample > fill])


def spike(volume: Volume) -> float | None:
    """The highest value, where it lies far above nearly all others, as of hot voxels or a marker. None for none."""
    low, high = _scale(volume)
    highest = float(volume.array.max())
    return highest if highest - low > SPIKE * (high - low) else None


def as_asked(image: Prepared, intensities: str) -> Prepared:
    """Intensities as a method's card asks: "unit" is [0, 1], "zscore" zero mean and unit deviation, within [-2, 2]."""
    if intensities != "zscore":
        return image
    values = (image.values - image.values.mean()) / image.values.std().clamp_min(1e-6)
    return replace(image, values=values.clamp(-2, 2))


def _percentiles(sample: np.ndarray) -> tuple[float, float]:
    """Where 0 and 1 go: air at 0, all but the brightest of the rest below 1; a few hot voxels are left out."""
    low, high = float(np.percentile(sample, 0.5)), float(np.percentile(sample, 99.8))
    tissue = _above(sample, low, high)
    if 0 < tissue.size < FEW * sample.size:
        rest = sample[sample < tissue.min()]
        inside = _above(rest, *np.percentile(rest, (0.5, 99.8))) if rest.size else rest
        tissue = inside if inside.size > 4 * tissue.size else tissue
    if tissue.size:
        first, third, high = (float(v) for v in np.percentile(tissue, (25, 75, 99.0)))
        fence = third + 6 * (third - first)
        if third > first and high > fence:
            high = float(np.percentile(tissue[tissue <= fence], 99.0))
    return (low, high) if high > low else (float(sample.min()), float(sample.max()))


def _above(sample: np.ndarray, low: float, high: float) -> np.ndarray:
    """What is not air, between two percentiles."""
    return sample[sample > low + 0.05 * (high - low)]


def _sample(volume: Volume, count: int = 200_000) -> np.ndarray:
    flat = volume.array.reshape(-1)
    return flat[:: max(1, flat.size // count)].astype(np.float64)


def foreground_box(prepared: Prepared, margin: float) -> tuple[list[int], list[int]]:
    """First index and size (i, j[, k]) of the box around the mask, or what is not air, and `margin` millimetres."""
    inside = prepared.mask > 0 if prepared.mask is not None else spatial.gaussian_smooth(prepared.values, 1.0) > 0.05
    first, size = [], []
    for axis, (n, spacing) in enumerate(zip(prepared.grid.size, prepared.grid.spacing, strict=True)):
        others = [a for a in range(inside.ndim) if a != inside.ndim - 1 - axis]
        found = torch.nonzero(inside.amax(dim=others)).flatten()
        low, high = (int(found[0]), int(found[-1])) if found.numel() else (0, n - 1)
        reach = math.ceil(margin / spacing)
        first.append(max(0, low - reach))
        size.append(min(n - 1, high + reach) - first[-1] + 1)
    return first, size
