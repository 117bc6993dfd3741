"""From a case's files to tensors on the grid that a training works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from RecurrentRegistrationLib import points, spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.pipeline.linear import align
from RecurrentRegistrationLib.pipeline.poses import named_start
from RecurrentRegistrationLib.pipeline.preparation import (
    Prepared,
    foreground_box,
    linear_displacement,
    prepare,
)
from RecurrentRegistrationLib.pipeline.presets import PRESETS
from RecurrentRegistrationLib.train.cases import Case
from RecurrentRegistrationLib.train.sources.series import is_frame, read_frame
from RecurrentRegistrationLib.volume import Grid, Volume

Sample = dict[str, Tensor]

ANNOTATIONS = ("labels", "mask", "keypoints")


@dataclass(frozen=True)
class Reader:
    """How cases are read. Every image ends up in [0, 1].

    Attributes:
        shape: voxels of the grid, tensor order; None for the images' own, which must then agree.
        spacing: millimetres between its voxels; None for the images' own.
        centre: what is put in the middle of the grid: that of the "image" or of its "foreground".
        align: an image to which each case is aligned by an affine map, on whose grid it then lies.
        preset: of intensities, as in a registration, where neither a window nor percentiles are given.
        window: intensities that become 0 and 1.
        percentiles: of the image that become 0 and 1.
        orient: turn 3D images' axes to the patient's left, back and head before they are cut.
    """

    shape: tuple[int, ...] | None = None
    spacing: float | tuple[float, ...] | None = None
    centre: Literal["image", "foreground"] = "image"
    align: Path | None = None
    preset: str = "mr"
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    orient: bool = True

    def __post_init__(self) -> None:
        for name, limits in (("window", self.window), ("percentiles", self.percentiles)):
            if limits is not None and not limits[0] < limits[1]:
                raise InputError(f"A reader's {name} goes from low to high, not from {limits[0]} to {limits[1]}.")
        if self.percentiles is not None and (self.percentiles[0] < 0 or self.percentiles[1] > 100):
            raise InputError("A reader's percentiles lie between 0 and 100.")
        if self.preset not in PRESETS:
            raise InputError(f"There is no preset '{self.preset}'; choose one of {', '.join(PRESETS)}.")
        if self.shape is not None and min(self.shape, default=0) < 1:
            raise InputError(f"A reader's shape holds numbers of voxels, not {self.shape}.")
        if self.spacing is not None and np.min(self.spacing) <= 0:
            raise InputError(f"A reader's spacing is more than 0 mm, not {self.spacing}.")

    def __call__(self, case: Case) -> Sample:
        """`image [1, *S]` and, where the case has them, `labels [1, *S]`, `mask [1, *S]`, `keypoints [K, d]` (voxels).

        Raises:
            InputError: a file is damaged, or the annotations do not belong to the image.
        """
        volume = self._volume(case)
        prepared = self._prepared(volume)
        grid, matrix = self._grid(prepared)
        sample = {
            "image": _pulled(prepared, grid, matrix)[0],
            "spacing": torch.tensor(grid.spacing[::-1], dtype=torch.float32),
        }
        for kind, name in (("labels", case.labels), ("mask", case.mask)):
            if name is not None:
                array = _annotation(name, volume, grid, matrix, self.orient)
                sample[kind] = torch.from_numpy(array.astype(np.int32 if kind == "labels" else np.float32))
        if case.keypoints is not None:
            places = _keypoints(Path(case.keypoints), _read(case.image, orient=False).grid)
            sample["keypoints"] = torch.tensor(_tensor_index(places, grid, matrix), dtype=torch.float32)
        return sample

    def _volume(self, case: Case) -> Volume:
        volume = _read(case.image, orient=self.orient)
        if volume.array.shape[0] != 1 or volume.array.dtype.kind not in "uif":
            raise InputError("it is not a greyscale image.")
        if not np.isfinite(volume.array).all():
            raise InputError("it holds NaN or infinite values.")
        if volume.array.min() == volume.array.max():
            raise InputError("it is constant.")
        return volume

    def _prepared(self, volume: Volume) -> Prepared:
        limits = self.window
        if self.percentiles is not None:
            low, high = np.percentile(volume.array, self.percentiles)
            limits = (float(low), float(high))
        if limits is None:
            return prepare(volume, None, PRESETS[self.preset])
        low, high = limits
        values = (volume.array.astype(np.float32) - low) / max(high - low, 1e-6)
        return Prepared(torch.from_numpy(values).clamp_(0, 1)[None], volume.grid)

    def _grid(self, image: Prepared) -> tuple[Grid, np.ndarray | None]:
        """The grid, and the map from its points to the image's."""
        if self.align is None:
            return self._cut(image), None
        matrix = None
        for alignment in align(
            self._reference, image, kind="affine", search=False, start=named_start(self._reference, image, "moments")
        ):
            matrix = alignment.matrix
        return self._cut(self._reference), matrix

    @cached_property
    def _reference(self) -> Prepared:
        return self._prepared(_read(str(self.align), orient=self.orient))

    def _cut(self, image: Prepared) -> Grid:
        grid = image.grid
        if self.shape is not None and len(self.shape) != grid.dimension:
            raise InputError(f"it is {grid.dimension}D, the grid {len(self.shape)}D.")
        if self.spacing is not None:
            wanted = [self.spacing] * grid.dimension if isinstance(self.spacing, float | int) else self.spacing[::-1]
            if not np.allclose(wanted, grid.spacing, rtol=1e-3):
                grid = grid.resampled(wanted)
        if self.shape is None or grid.shape == tuple(self.shape):
            return grid
        middle = [(n - 1) / 2 for n in grid.size]
        if self.centre == "foreground":
            first, size = foreground_box(image, 0.0)
            middle = grid.index(
                image.grid.physical([f + (n - 1) / 2 for f, n in zip(first, size, strict=True)])
            ).tolist()
        size = list(self.shape[::-1])
        # Whole voxels: a cut alone must not blur the image.
        return grid.cropped([round(m - (n - 1) / 2 - 1e-6) for m, n in zip(middle, size, strict=True)], size)


def _pulled(image: Prepared, grid: Grid, matrix: np.ndarray | None) -> Tensor:
    """The image on a grid; smoothed only where the grid is another than the image's own, cut or not."""
    if matrix is None and np.allclose(grid.spacing, image.grid.spacing):
        return spatial.warp(image.values, linear_displacement(grid, image.grid))
    return image.onto(grid, matrix).values


def _read(name: str, *, orient: bool) -> Volume:
    volume = read_frame(name) if is_frame(name) else Volume.read(name)
    if orient and volume.grid.dimension == 3 and not np.array_equal(volume.grid.cosines, np.eye(3)):
        volume = Volume.from_sitk(sitk.DICOMOrient(volume.to_sitk(), "LPS"))
    return volume


def _annotation(name: str, image: Volume, grid: Grid, matrix: np.ndarray | None, orient: bool) -> np.ndarray:
    labels = _read(name, orient=orient)
    if labels.grid.size != image.grid.size:
        raise InputError(f"{name} has {labels.grid.size} voxels, the image {image.grid.size}.")
    if labels.array.dtype.kind == "f" and not np.array_equal(labels.array, labels.array.round()):
        raise InputError(f"{name} holds values that are not labels.")
    transform = sitk.AffineTransform(grid.dimension)
    if matrix is not None:
        transform.SetMatrix(matrix[:-1, :-1].ravel().tolist())
        transform.SetTranslation(matrix[:-1, -1].tolist())
    # Their headers differ by rounding, and by more in several public data sets: what counts is the image's.
    placed = Volume(labels.array, image.grid).to_sitk()
    return sitk.GetArrayFromImage(sitk.Resample(placed, grid.empty_sitk(), transform, sitk.sitkNearestNeighbor, 0))[
        None
    ]


def _keypoints(path: Path, grid: Grid) -> np.ndarray:
    """Physical points `[K, d]`; a bare table of numbers holds voxel indices (i, j[, k]), as Learn2Reg has it."""
    try:
        first = path.read_text(encoding="utf-8").lstrip().split("\n", 1)[0]
    except OSError as error:
        raise InputError(f"there are no key points {path}.") from error
    if path.suffix != ".csv" or any(c.isalpha() for c in first.replace("e", "")):
        return points.read_points(path, grid).positions
    try:
        table = np.loadtxt(path, delimiter=",", ndmin=2)
    except ValueError as error:
        raise InputError(f"{path} cannot be read as key points.") from error
    if table.shape[1] != grid.dimension or not np.isfinite(table).all():
        raise InputError(f"{path} does not hold {grid.dimension} finite numbers a line.")
    return grid.physical(table)


def _tensor_index(places: np.ndarray, grid: Grid, matrix: np.ndarray | None) -> np.ndarray:
    """Continuous tensor indices `[K, d]` of an image's physical points."""
    if matrix is not None:
        inverse = np.linalg.inv(matrix)
        places = places @ inverse[:-1, :-1].T + inverse[:-1, -1]
    return grid.index(places)[:, ::-1].copy()


def mismatch(fixed: Sample, moving: Sample) -> str | None:
    """Why two cases cannot form a pair; None where they can."""
    if fixed["image"].shape != moving["image"].shape:
        sizes = (tuple(s["image"].shape[1:]) for s in (fixed, moving))
        return "they have {} and {} voxels: give data.init_args.reader.shape".format(*sizes)
    for kind in ANNOTATIONS:
        if (kind in fixed) != (kind in moving):
            return f"only one of them has {'a mask' if kind == 'mask' else kind}"
    if "keypoints" in fixed and len(fixed["keypoints"]) != len(moving["keypoints"]):
        counts = (len(s["keypoints"]) for s in (fixed, moving))
        return "they have {} and {} key points".format(*counts)
    return None


def common_spacing(samples: Sequence[Sample]) -> tuple[float, ...]:
    """Millimetres between voxels, tensor order, of the first sample."""
    return tuple(samples[0]["spacing"].tolist())
