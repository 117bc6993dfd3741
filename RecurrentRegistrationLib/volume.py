"""`Grid`, points in physical space at regular steps (LPS, millimetres), and `Volume`, an array on one.

ITK counts an index as (i, j, k) and tensors as (k, j, i): `size`, `spacing` and matrices follow ITK, `shape` and arrays
follow tensors. The physical point of an index is `origin + direction @ (spacing * index)`.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from RecurrentRegistrationLib.errors import InputError, InputWarning
from RecurrentRegistrationLib.io import dicom, images
from RecurrentRegistrationLib.io.files import complete, suffix_of

INTERPOLATORS = {
    "linear": sitk.sitkLinear,
    "nearest": sitk.sitkNearestNeighbor,
    "label": sitk.sitkLabelGaussian,
    "bspline": sitk.sitkBSpline3,
}
MOST_LABELS = 1000
TWO_FILES = (".mhd", ".nhdr", ".hdr", ".img")
SHEARED = (".nrrd", ".seq.nrrd", ".mha", ".hdf5", ".h5")  # formats that hold axes not at right angles
PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Grid:
    """A grid in LPS millimetres.

    Attributes:
        size: voxels along (i, j[, k]).
        spacing: millimetres between voxels along (i, j[, k]).
        origin: physical point of index 0.
        direction: cosines, row by row; column `n` is the physical direction of index axis `n`. Any handedness.

    Raises:
        InputError: a spacing is not positive, the direction is singular, or the lengths do not agree.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def __post_init__(self) -> None:
        d = len(self.size)
        if d not in (2, 3) or {len(self.spacing), len(self.origin)} != {d} or len(self.direction) != d * d:
            raise InputError("A grid needs size, spacing, origin and direction of one dimension, 2 or 3.")
        if not all(math.isfinite(s) and s > 0 for s in self.spacing):
            raise InputError(f"The voxel spacing {self.spacing} must be positive along every axis: correct its header.")
        if not all(map(math.isfinite, self.origin)):
            raise InputError(f"The origin {self.origin} is not a point: correct its header.")
        if not np.isfinite(self.cosines).all() or abs(np.linalg.det(self.cosines)) < 1e-3:
            raise InputError("The direction matrix of the image is singular: correct its header.")
        if min(self.size) < 1:
            raise InputError(f"A grid of size {self.size} holds no voxel.")

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        """The grid of a SimpleITK image."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @classmethod
    def regular(cls, shape: Sequence[int], spacing: float | Sequence[float] = 1.0) -> Grid:
        """A grid with its axes along the physical ones, origin 0; `shape` in tensor order."""
        d = len(shape)
        steps = (float(spacing),) * d if isinstance(spacing, (int, float)) else tuple(map(float, spacing))
        return cls(tuple(shape)[::-1], steps, (0.0,) * d, tuple(np.eye(d).ravel().tolist()))

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return len(self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels in tensor order, (k, j, i)."""
        return self.size[::-1]

    @cached_property
    def cosines(self) -> np.ndarray:
        """Direction as a matrix."""
        return np.array(self.direction, dtype=float).reshape(len(self.size), len(self.size))

    @cached_property
    def index_to_physical(self) -> np.ndarray:
        """Homogeneous matrix from index (i, j[, k]) to LPS millimetres."""
        matrix = np.eye(self.dimension + 1)
        matrix[:-1, :-1] = self.cosines * np.array(self.spacing)
        matrix[:-1, -1] = self.origin
        return matrix

    @cached_property
    def physical_to_index(self) -> np.ndarray:
        """Homogeneous matrix from LPS millimetres to index (i, j[, k])."""
        return np.linalg.inv(self.index_to_physical)

    @cached_property
    def tensor_to_physical(self) -> np.ndarray:
        """Homogeneous matrix from tensor index ([k, ]j, i) to LPS millimetres."""
        return self.index_to_physical[:, [*range(self.dimension - 1, -1, -1), self.dimension]]

    @cached_property
    def physical_to_tensor(self) -> np.ndarray:
        """Homogeneous matrix from LPS millimetres to tensor index ([k, ]j, i)."""
        return np.linalg.inv(self.tensor_to_physical)

    @property
    def extent(self) -> tuple[float, ...]:
        """Millimetres covered along (i, j[, k]), whole voxels counted."""
        return tuple(n * s for n, s in zip(self.size, self.spacing, strict=True))

    @property
    def pitch(self) -> float:
        """Millimetres between voxels, on average over the axes that have several."""
        spacings = [s for n, s in zip(self.size, self.spacing, strict=True) if n > 1]
        return math.prod(spacings) ** (1 / len(spacings)) if spacings else 1.0

    @property
    def centre(self) -> np.ndarray:
        """Physical point in the middle of the grid."""
        return self.physical([(n - 1) / 2 for n in self.size])

    def physical(self, index: Sequence[float] | np.ndarray) -> np.ndarray:
        """Physical points `[..., d]` of indices `[..., d]` (i, j[, k])."""
        return np.asarray(index, float) @ self.index_to_physical[:-1, :-1].T + self.index_to_physical[:-1, -1]

    def index(self, points: Sequence[float] | np.ndarray) -> np.ndarray:
        """Continuous indices `[..., d]` (i, j[, k]) of physical points `[..., d]`."""
        return np.asarray(points, float) @ self.physical_to_index[:-1, :-1].T + self.physical_to_index[:-1, -1]

    def corners(self) -> np.ndarray:
        """Physical points `[2^d, d]` of the outer voxels' centres."""
        ends = np.meshgrid(*[(0, n - 1) for n in self.size], indexing="ij")
        return self.physical(np.stack([e.ravel() for e in ends], axis=1))

    def resampled(self, spacing: float | Sequence[float]) -> Grid:
        """The same box with another spacing: first voxels' outer faces coincide, the last may reach further."""
        steps = [float(spacing)] * self.dimension if isinstance(spacing, (int, float)) else list(spacing)
        size = [max(1, math.ceil(e / s - 1e-6)) for e, s in zip(self.extent, steps, strict=True)]
        shift = [(s / old - 1) / 2 for s, old in zip(steps, self.spacing, strict=True)]
        return Grid(tuple(size), tuple(steps), tuple(self.physical(shift).tolist()), self.direction)

    def between(self, spacing: float) -> Grid:
        """The same outer voxels with more or fewer between them, about a spacing apart along every axis."""
        size = tuple(
            max(min(n, 2), round((n - 1) * s / spacing) + 1) for n, s in zip(self.size, self.spacing, strict=True)
        )
        return self.through(size[::-1])

    def through(self, shape: Sequence[int]) -> Grid:
        """The same outer voxels with another number of voxels between them; `shape` in tensor order."""
        steps = tuple(
            s * (n - 1) / (m - 1) if m > 1 else s
            for n, m, s in zip(self.size, reversed(shape), self.spacing, strict=True)
        )
        return Grid(tuple(reversed(shape)), steps, self.origin, self.direction)

    def upright(self) -> Grid:
        """The same voxels with the axes in the order, and turned the way, that is nearest to left, back and head."""
        orders = itertools.permutations(range(self.dimension))
        order = max(orders, key=lambda axes: np.abs(self.cosines[range(self.dimension), axes]).sum())
        signs = np.where(self.cosines[range(self.dimension), order] < 0, -1, 1)
        last = np.zeros(self.dimension)
        last[list(order)] = np.where(signs < 0, np.array(self.size)[list(order)] - 1, 0)
        return Grid(
            tuple(self.size[axis] for axis in order),
            tuple(self.spacing[axis] for axis in order),
            tuple(self.physical(last).tolist()),
            tuple((self.cosines[:, order] * signs).ravel().tolist()),
        )

    def padded(self, before: Sequence[int], after: Sequence[int]) -> Grid:
        """More voxels (fewer where negative) before and after along (i, j[, k])."""
        size = tuple(n + b + a for n, b, a in zip(self.size, before, after, strict=True))
        return Grid(size, self.spacing, tuple(self.physical([-b for b in before]).tolist()), self.direction)

    def cropped(self, first: Sequence[int], size: Sequence[int]) -> Grid:
        """The box of `size` voxels that starts at index `first` (i, j[, k])."""
        return Grid(tuple(size), self.spacing, tuple(self.physical(first).tolist()), self.direction)

    def almost_equal(self, other: Grid, tolerance: float = 1e-4) -> bool:
        """Whether two grids hold the same voxels, to `tolerance` millimetres at the corners."""
        if self.size != other.size:
            return False
        return bool(np.allclose(self.corners(), other.corners(), atol=tolerance))

    def empty_sitk(self) -> sitk.Image:
        """A one-byte SimpleITK image on this grid, for filters that want a reference."""
        return self._place(sitk.Image(list(self.size), sitk.sitkUInt8))

    def _place(self, image: sitk.Image) -> sitk.Image:
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image


@dataclass(frozen=True)
class Volume:
    """An array `[C, *S]` of any scalar type, S in tensor order (k, j, i), on a `Grid`."""

    array: np.ndarray
    grid: Grid

    def __post_init__(self) -> None:
        if self.array.ndim != self.grid.dimension + 1 or self.array.shape[1:] != self.grid.shape:
            raise InputError(f"An array of shape {self.array.shape} does not fit a grid of shape {self.grid.shape}.")

    @classmethod
    def from_sitk(cls, image: sitk.Image) -> Volume:
        """Take over a SimpleITK image; vector pixels become channels."""
        array = sitk.GetArrayFromImage(image)
        if image.GetNumberOfComponentsPerPixel() > 1:
            array = np.ascontiguousarray(np.moveaxis(array, -1, 0))
        else:
            array = array[np.newaxis]
        return cls(array, Grid.of(image))

    def to_sitk(self) -> sitk.Image:
        """The same as a SimpleITK image; channels become vector pixels."""
        vector = self.array.shape[0] > 1
        array = np.moveaxis(self.array, 0, -1) if vector else self.array[0]
        if array.dtype == bool:
            array = array.astype(np.uint8)
        elif array.dtype == np.float16:
            array = array.astype(np.float32)
        return self.grid._place(sitk.GetImageFromArray(array, isVector=vector))

    @classmethod
    def read(cls, path: str | Path) -> Volume:
        """Read a scalar image: any format of SimpleITK, or a folder with a DICOM series.

        `FILE#3` picks volume 3 (from 0) of a series of images, layer 3 of a segmentation or value 3 of a voxel,
        `FOLDER#UID` one of several DICOM series, `FOLDER#UID#3` both. A photograph in colour becomes grey, with a
        warning.

        Raises:
            InputError: there is no such file, it is not an image, or not one scalar image of 2 or 3 dimensions.
        """
        file, part = split_part(path)
        if file.is_dir() or (file.exists() and dicom.is_dicom(file)):
            return cls.from_sitk(_scalar(dicom.read(file, part), file))
        image = images.read(file)
        if image.GetDimension() == 4:
            image = _frame(image, part or ("0" if image.GetSize()[3] == 1 else None), file)
        elif _is_layered(image) or (part is not None and image.GetNumberOfComponentsPerPixel() > 1):
            image = _layer(image, part, file)
        elif part is not None:
            raise InputError(f"{file} has no frames to pick from: leave out '#{part}'.")
        return cls.from_sitk(_scalar(image, file))

    @classmethod
    def read_mask(cls, path: str | Path) -> Volume:
        """Read a mask: as `read`, but of a segmentation in layers every label of every layer counts."""
        file, part = split_part(path)
        if part is None and file.is_file() and not dicom.is_dicom(file) and _is_layered(image := images.read(file)):
            layers = cls.from_sitk(image)
            return cls((layers.array != 0).any(axis=0, keepdims=True).astype(np.uint8), layers.grid)
        return cls.read(path)

    @classmethod
    def read_sequence(cls, path: str | Path) -> list[Volume]:
        """Read a 4D image, or DICOM with several volumes, as one volume for each; any other gives a list of one.

        Raises:
            InputError: there is no such file, it is not an image, or not one of scalar frames.
        """
        file, part = split_part(path)
        if file.is_dir() or (file.exists() and dicom.is_dicom(file)):
            found = dicom.read_all(file, part)
        elif part is not None:
            return [cls.read(path)]
        else:
            image = images.read(file)
            image = _layer(image, None, file) if _is_layered(image) else image
            frames = image.GetSize()[3] if image.GetDimension() == 4 else 0
            found = [_frame(image, str(n), file) for n in range(frames)] or [image]
        return [cls.from_sitk(_scalar(each, file)) for each in found]

    def write(self, path: str | Path) -> None:
        """Write in the format that the file's ending names, compressed; the file is complete or absent.

        Raises:
            InputError: the format is unknown, the folder cannot be written or the disk is full.
        """
        write_image(self.to_sitk(), path)

    def tensor(self, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> torch.Tensor:
        """A copy as `[1, C, *S]`."""
        array = np.ascontiguousarray(self.array, dtype=np.float32) if self.array.dtype.kind in "ui" else self.array
        return torch.tensor(array, dtype=dtype, device=device).unsqueeze(0)

    def nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values `[N]` of the voxels that hold physical points `[N, d]`, 0 outside; and which are inside."""
        index = np.rint(self.grid.index(points)).astype(int)
        inside = ((index >= 0) & (index < np.array(self.grid.size))).all(axis=1)
        values = np.zeros(len(points), self.array.dtype)
        values[inside] = self.array[0][tuple(index[inside][:, ::-1].T)]
        return values, inside

    def resampled(self, grid: Grid, *, interpolation: str = "linear", background: float = 0.0) -> Volume:
        """The same image at the voxels of another grid of the same space; `background` outside."""
        return Volume.from_sitk(
            resample(
                self.to_sitk(),
                grid,
                sitk.Transform(grid.dimension, sitk.sitkIdentity),
                interpolation=interpolation,
                background=background,
            )
        )


def resample(
    image: sitk.Image, grid: Grid, transform: sitk.Transform, *, interpolation: str = "linear", background: float = 0.0
) -> sitk.Image:
    """Pull an image onto a grid through a transform from the grid's to the image's points, by SimpleITK.

    The result has the image's type; what lies between two whole numbers is rounded to the nearer one.

    Raises:
        InputError: the interpolation is unknown, or whole numbers shall have a background that is not a number.
    """
    if interpolation not in INTERPOLATORS:
        raise InputError(f"Interpolation '{interpolation}' is not one of {', '.join(INTERPOLATORS)}.")
    kind = image.GetPixelID()
    whole = np.issubdtype(sitk.GetArrayViewFromImage(image).dtype, np.integer)
    if whole and math.isnan(background):
        raise InputError("An image of whole numbers cannot hold NaN as background: give a number.")
    if interpolation == "label":
        _warn_of_grey(image)
    vector = image.GetNumberOfComponentsPerPixel() > 1
    inexact = whole and interpolation != "nearest"  # ITK would cut the fraction off
    pulled = sitk.Resample(
        image,
        grid.empty_sitk(),
        transform,
        INTERPOLATORS[interpolation],
        background if inexact or not whole else _rounded(np.array(background), kind).item(),
        (sitk.sitkVectorFloat64 if vector else sitk.sitkFloat64) if inexact else kind,
    )
    if not inexact:
        return pulled
    values = sitk.GetImageFromArray(_rounded(sitk.GetArrayFromImage(pulled), kind), isVector=vector)
    values.CopyInformation(pulled)
    return values


def _warn_of_grey(image: sitk.Image) -> None:
    values = sitk.GetArrayViewFromImage(image).ravel()
    if len(np.unique(values[:: max(1, values.size // 100_000)])) > MOST_LABELS:
        sentence = f"An image of more than {MOST_LABELS} values is resampled as labels: for grey values choose linear."
        warnings.warn(sentence, InputWarning, stacklevel=3)


def _rounded(values: np.ndarray, kind: int) -> np.ndarray:
    """Float64 values as the nearest numbers that a whole SimpleITK type holds; changed in place."""
    dtype = sitk.GetArrayViewFromImage(sitk.Image([1, 1], kind)).dtype
    limits = np.iinfo(dtype)
    highest = np.nextafter(float(limits.max) + 1, 0)  # 2^63 - 1 is not a float
    values = np.asarray(values, dtype=float)
    return np.clip(np.rint(values, out=values), float(limits.min), highest, out=values).astype(dtype)


def write_image(image: sitk.Image, path: str | Path) -> None:
    """Write a SimpleITK image, compressed, complete or not at all."""
    path = Path(path)
    if suffix_of(path) in TWO_FILES:
        raise InputError(f"'{path}' would become two files, a header and its data: use .nrrd, .mha or .nii.gz.")
    if ".nii" in suffix_of(path) and image.GetNumberOfComponentsPerPixel() > 1 and image.GetSize()[-1] == 1:
        raise InputError(f"'{path}' cannot hold vectors of a single slice, ITK reads them as 2D: use .nrrd or .mha.")
    direction = np.reshape(image.GetDirection(), [image.GetDimension()] * 2)
    if suffix_of(path) not in SHEARED and np.abs(direction.T @ direction - np.eye(len(direction))).max() > 1e-3:
        raise InputError(f"'{path}' cannot hold axes that are oblique to each other: use .nrrd or .mha.")
    try:
        with complete(path) as temporary:
            sitk.WriteImage(image, str(temporary), useCompression=True)
    except RuntimeError as error:
        raise InputError(f"'{path}' names no format that holds this image: use .nrrd, .mha or .nii.gz.") from error


def split_part(path: str | Path) -> tuple[Path, str | None]:
    """`FILE#PART` as file and part; a name that exists with its `#` is a name."""
    head, parts = str(path), list[str]()
    while "#" in head and not Path(head).exists():
        head, _, part = head.rpartition("#")
        parts.insert(0, part)
    if not parts or not (head and Path(head).exists()):
        return Path(path), None
    return Path(head), "#".join(parts)


def _scalar(image: sitk.Image, file: Path) -> sitk.Image:
    """An image of 2 or 3 dimensions with one real number a voxel; a photograph in colour becomes grey."""
    if image.GetDimension() not in (2, 3):
        raise InputError(f"{file} has {image.GetDimension()} dimensions; 2 or 3 are needed.")
    components = image.GetNumberOfComponentsPerPixel()
    if components > 1 and (suffix_of(file) in PHOTOGRAPHS or dicom.is_dicom(file) or file.is_dir()):
        return _luminance(image, file)
    if components > 1:
        raise InputError(
            f"{file} has {components} values a voxel (a colour image, or vectors?): convert it to grey values, or pick "
            f"one of them by its number, for example '{file}#0'."
        )
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{file} holds complex numbers: save its magnitude first.")
    return image


def _luminance(image: sitk.Image, file: Path) -> sitk.Image:
    """Grey values of an image in red, green, blue, by ITU-R BT.601, with a warning; of one in shades of grey, these."""
    weights = (0.299, 0.587, 0.114) if image.GetNumberOfComponentsPerPixel() > 2 else (1.0,)
    colours = sitk.GetArrayViewFromImage(image)[..., : len(weights)]
    if (colours == colours[..., :1]).all():
        grey = colours[..., 0]
    else:
        warnings.warn(f"{file} is in colour: its luminance is used.", InputWarning, stacklevel=4)
        grey = np.tensordot(colours, np.array(weights, np.float32), 1)
    found = sitk.GetImageFromArray(grey)
    found.CopyInformation(image)
    return found


def _is_layered(image: sitk.Image) -> bool:
    """Whether an image is a segmentation whose segments lie in several layers, as 3D Slicer writes them."""
    return image.GetNumberOfComponentsPerPixel() > 1 and image.HasMetaDataKey("Segment0_ID")


def _layer(image: sitk.Image, part: str | None, file: Path) -> sitk.Image:
    count = image.GetNumberOfComponentsPerPixel()
    if part is not None and not (part.isdigit() and int(part) < count):
        raise InputError(f"{file} has no layer or value {part} a voxel; they are 0 to {count - 1}.")
    if part is None:
        raise InputError(
            f"{file} is a segmentation in {count} layers, 0 to {count - 1}, as its segments overlap: pick one by its "
            f"number, for example '{file}#0'."
        )
    return sitk.VectorIndexSelectionCast(image, int(part))


def _frame(image: sitk.Image, part: str | None, file: Path) -> sitk.Image:
    frames = image.GetSize()[3]
    if part is None:
        raise InputError(f"{file} holds {frames} volumes: pick one by its number, for example '{file}#0'.")
    if not part.isdigit() or int(part) >= frames:
        raise InputError(f"{file} has no frame {part}; its frames are 0 to {frames - 1}.")
    return image[:, :, :, int(part)]
