"""Where fixed points go in the moving image: `Affine`, `DisplacementField`, `BSpline` and their chain, `Transform`.

Everything here maps **fixed points to moving points** in LPS millimetres, ITK's resampling direction. A displacement
field holds voxels of its own grid, tensor order; `to_sitk` and `from_sitk` are the one place where that becomes
millimetres. Outside its grid a field displaces nothing, as in ITK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io import fields, transforms
from RecurrentRegistrationLib.io.files import complete, suffix_of
from RecurrentRegistrationLib.volume import Grid, write_image

TRANSFORM_ENDINGS = (".h5", ".hdf5", ".tfm", ".txt")
MATRIX_ENDINGS = (".mat", ".xfm")  # one affine transform; ITK would write more there but cannot read it again
FIELD_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd", ".nii", ".nii.gz")


@dataclass(frozen=True)
class Affine:
    """A homogeneous matrix `[d+1, d+1]` from fixed to moving points, LPS millimetres."""

    matrix: np.ndarray

    @classmethod
    def identity(cls, dimension: int) -> Affine:
        """The map that moves nothing."""
        return cls(np.eye(dimension + 1))

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return self.matrix.shape[0] - 1

    def map_points(self, points: np.ndarray) -> np.ndarray:
        """Image `[N, d]` of points `[N, d]`."""
        return points @ self.matrix[:-1, :-1].T + self.matrix[:-1, -1]

    def inverse(self) -> Affine:
        """The map back. Raises InputError where the matrix is singular."""
        if abs(np.linalg.det(self.matrix)) < 1e-12:
            raise InputError("The affine part of the transform is singular and has no inverse.")
        return Affine(np.linalg.inv(self.matrix))

    def to_sitk(self) -> sitk.Transform:
        """The same as a `sitk.AffineTransform`."""
        transform = sitk.AffineTransform(self.dimension)
        transform.SetMatrix(self.matrix[:-1, :-1].ravel().tolist())
        transform.SetTranslation(self.matrix[:-1, -1].tolist())
        return transform


@dataclass(frozen=True)
class DisplacementField:
    """Values `[B, d, *S]` in voxels of `grid`, channel `c` along tensor axis `c`; maps a point `x` to `x + u(x)`.

    Attributes:
        values: the displacement `u`; 0 outside the grid.
        grid: of the values.
        undoes: the field that this one inverts, on the same grid. Points are then brought back through it to a
            thousandth of a voxel; between the grid's own values lie errors of a tenth. Files get the values alone.
    """

    values: Tensor
    grid: Grid
    undoes: DisplacementField | None = None

    def __post_init__(self) -> None:
        if self.values.shape[1:] != (self.grid.dimension, *self.grid.shape):
            raise InputError(
                f"A displacement of shape {tuple(self.values.shape)} does not fit a grid {self.grid.shape}."
            )

    @classmethod
    def zero(cls, grid: Grid) -> DisplacementField:
        """The field that moves nothing."""
        return cls(torch.zeros(1, grid.dimension, *grid.shape), grid)

    @classmethod
    def from_sitk(cls, image: sitk.Image) -> DisplacementField:
        """From a vector image of LPS millimetres."""
        grid = Grid.of(image)
        millimetres = torch.from_numpy(sitk.GetArrayFromImage(image)).movedim(-1, 0)
        if millimetres.shape[0] != grid.dimension:
            raise InputError(
                f"A displacement image needs {grid.dimension} values a voxel; it has {millimetres.shape[0]}."
            )
        matrix = torch.from_numpy(grid.physical_to_tensor[:-1, :-1]).to(millimetres.dtype)
        return cls(torch.einsum("tp,p...->t...", matrix, millimetres).float().unsqueeze(0), grid)

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return self.grid.dimension

    def millimetres(self) -> Tensor:
        """Displacement `[B, d, *S]` in LPS millimetres, channels (x, y[, z])."""
        matrix = torch.from_numpy(self.grid.tensor_to_physical[:-1, :-1]).to(self.values)
        return torch.einsum("pt,bt...->bp...", matrix, self.values)

    def map_points(self, points: np.ndarray) -> np.ndarray:
        """Image `[N, d]` of points `[N, d]`; displacement interpolated linearly, 0 outside the grid."""
        return _map_points(self, points)

    def follow(self, coordinates: Tensor) -> Tensor:
        """Where voxel coordinates `[1, d, *S]` of the grid go."""
        values = self.values[:1].to(coordinates)
        moved = coordinates + spatial.sample_at(values, coordinates, padding="border")
        if self.undoes is None:
            return torch.where(self._holds(coordinates), moved, coordinates)
        origin = spatial.preimage(self.undoes.values[:1].to(coordinates), coordinates, start=moved)
        return torch.where(self._holds(origin), origin, coordinates)  # beyond the grid nothing was moved

    def _holds(self, coordinates: Tensor) -> Tensor:
        """Which coordinates lie in the grid's voxels, `[1, 1, *S]`."""
        size = torch.tensor(self.grid.shape).view(1, -1, *[1] * self.dimension)
        return ((coordinates >= -0.5) & (coordinates < size - 0.5)).all(dim=1, keepdim=True)

    def inverse(self) -> DisplacementField:
        """The field back, on the same grid, by `spatial.invert`; that of an inverse is what it undoes."""
        if self.undoes is not None:
            return self.undoes
        return DisplacementField(spatial.invert(self.values).displacement, self.grid, undoes=self)

    def to_image(self) -> sitk.Image:
        """A float32 vector image of LPS millimetres."""
        array = self.millimetres()[0].movedim(0, -1).contiguous().numpy()
        return self.grid._place(sitk.GetImageFromArray(array, isVector=True))

    def to_sitk(self) -> sitk.Transform:
        """The same as a `sitk.DisplacementFieldTransform` (linear interpolation)."""
        return sitk.DisplacementFieldTransform(sitk.Cast(self.to_image(), sitk.sitkVectorFloat64))


@dataclass(frozen=True)
class BSpline:
    """ITK's B-spline transform, as other programs write it; outside its domain it moves nothing.

    Attributes:
        control: what the control points move, on their own grid; not the displacement at these points.
        order: of the spline along every axis, 1 to 3.
    """

    control: DisplacementField
    order: int

    @classmethod
    def from_sitk(cls, transform: sitk.BSplineTransform) -> BSpline:
        """Take over ITK's coefficients."""
        return cls(DisplacementField.from_sitk(sitk.Compose(transform.GetCoefficientImages())), transform.GetOrder())

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return self.control.dimension

    @property
    def grid(self) -> Grid:
        """The grid of the control points, which reaches beyond the domain."""
        return self.control.grid

    def map_points(self, points: np.ndarray) -> np.ndarray:
        """Image `[N, d]` of points `[N, d]`."""
        return _map_points(self, points)

    def follow(self, coordinates: Tensor) -> Tensor:
        """Where voxel coordinates `[1, d, *S]` of the control points' grid go."""
        from scipy.ndimage import map_coordinates  # takes a moment, and few transforms need it

        index = coordinates[0].numpy()
        moved = [
            map_coordinates(values, index, output=index.dtype, order=self.order, mode="nearest", prefilter=False)
            for values in self.control.values[0].numpy()
        ]
        last = np.array(self.grid.shape).reshape(-1, *[1] * self.dimension) - 1 - self._margin
        rounding = 1e-5
        inside = ((index >= self._margin - rounding) & (index <= last + rounding)).all(axis=0)
        return coordinates + torch.from_numpy(np.stack(moved) * inside)

    def inverse(self) -> DisplacementField:
        """The field back, of the displacement sampled over the domain."""
        return Transform((self,)).displacement_on(self._domain()).inverse()

    def to_sitk(self) -> sitk.Transform:
        """The same as a `sitk.BSplineTransform`."""
        image = sitk.Cast(self.control.to_image(), sitk.sitkVectorFloat64)
        images = [sitk.VectorIndexSelectionCast(image, axis) for axis in range(self.dimension)]
        return sitk.BSplineTransform(images, self.order)

    @property
    def _margin(self) -> float:
        """Voxels from the first control point to the domain, within which every point has full support."""
        return (self.order - 1) / 2

    def _domain(self) -> Grid:
        """A grid from end to end of the domain, 2 to 16 times as fine as the control points'."""
        cells = [n - self.order for n in self.grid.size]
        # At 16, linear interpolation errs by at most 0.0015 of the control points' second differences.
        finer = min(max(256 // max(cells), 2), 16)
        spacing = tuple(s / finer for s in self.grid.spacing)
        origin = self.grid.physical([self._margin] * self.dimension)
        return Grid(tuple(n * finer + 1 for n in cells), spacing, tuple(origin.tolist()), self.grid.direction)


@dataclass(frozen=True)
class Transform:
    """A chain of maps from fixed to moving points: the first part is applied first."""

    parts: tuple[Affine | DisplacementField | BSpline, ...]
    dimension: int = field(default=0)

    def __post_init__(self) -> None:
        dimensions = {p.dimension for p in self.parts} or {self.dimension or 3}
        if len(dimensions) > 1:
            raise InputError("A transform cannot chain 2D and 3D parts.")
        object.__setattr__(self, "dimension", dimensions.pop())

    @classmethod
    def chained(cls, transforms: Sequence[Transform]) -> Transform:
        """One transform of one or more, the first of which is applied first."""
        return cls(tuple(part for each in transforms for part in each.parts), transforms[0].dimension)

    def map_points(self, points: Sequence | np.ndarray) -> np.ndarray:
        """Moving points `[N, d]` of fixed points `[N, d]`, LPS millimetres."""
        points = np.asarray(points, dtype=float).reshape(-1, self.dimension)
        for part in self.parts:
            points = part.map_points(points)
        return points

    def inverse(self) -> Transform:
        """From moving to fixed points; fields are inverted on their own grids."""
        return Transform(tuple(part.inverse() for part in reversed(self.parts)), self.dimension)

    def simplified(self) -> Transform:
        """The same map with neighbouring affine parts multiplied and identities left out."""
        parts: list[Affine | DisplacementField | BSpline] = []
        for part in self.parts:
            if isinstance(part, Affine):
                if parts and isinstance(before := parts[-1], Affine):
                    part, parts = Affine(part.matrix @ before.matrix), parts[:-1]
                if np.array_equal(part.matrix, np.eye(self.dimension + 1)):
                    continue
            parts.append(part)
        return Transform(tuple(parts), self.dimension)

    def displacement_on(self, grid: Grid) -> DisplacementField:
        """The whole map as one field in voxels of `grid`."""
        identity = spatial.identity_grid(grid.shape)
        points, frame = identity, grid.tensor_to_physical  # `frame @ points` are physical points, so far
        for part in self.parts:
            if isinstance(part, Affine):
                frame = part.matrix @ frame
                continue
            points = part.follow(_apply(part.grid.physical_to_tensor @ frame, points))
            frame = part.grid.tensor_to_physical
        return DisplacementField(_apply(grid.physical_to_tensor @ frame, points) - identity, grid)

    def jacobian_determinant(self, grid: Grid) -> Tensor:
        """Determinant of the whole map's derivative at the voxels of `grid`, `[1, 1, *S]`.

        Above 1 a fixed voxel covers more of the moving image; 0 or less is a folding.
        """
        return spatial.jacobian_determinant(self.displacement_on(grid).values)

    def to_sitk(self) -> sitk.Transform:
        """The same as a SimpleITK transform, composite where there are several parts."""
        if len(self.parts) == 1:
            return self.parts[0].to_sitk()
        composite = sitk.CompositeTransform(self.dimension)
        for part in reversed(self.parts):  # ITK applies the part that was added last first
            composite.AddTransform(part.to_sitk())
        return composite

    @classmethod
    def from_sitk(cls, transform: sitk.Transform) -> Transform:
        """Take over a SimpleITK transform: linear ones, displacement fields, B-splines and composites of them.

        Raises:
            RuntimeError: of SimpleITK, where it is of another kind.
        """
        d = transform.GetDimension()
        kind = transform.GetTransformEnum()
        if kind == sitk.sitkIdentity:
            return cls((), d)
        if (
            transform.IsLinear()
        ):  # also composites of linear parts, and ITK's own base class, which SimpleITK does not know
            matrix = np.eye(d + 1)
            matrix[:-1, -1] = transform.TransformPoint([0.0] * d)
            for axis in range(d):
                matrix[:-1, axis] = np.array(transform.TransformPoint(np.eye(d)[axis].tolist())) - matrix[:-1, -1]
            return cls((Affine(matrix),))
        if kind == sitk.sitkComposite:
            composite = sitk.CompositeTransform(transform)
            count = composite.GetNumberOfTransforms()
            return cls.chained([cls.from_sitk(composite.GetNthTransform(n)) for n in reversed(range(count))])
        if kind == sitk.sitkDisplacementField:
            image = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
            return cls((DisplacementField.from_sitk(image),))
        return cls((BSpline.from_sitk(sitk.BSplineTransform(transform)),))

    @classmethod
    def read(cls, path: str | Path) -> Transform:
        """Read an ITK transform (.h5, .tfm, .txt, .mat) or a displacement image (.nrrd, .mha, …; see `io.fields`).

        Raises:
            InputError: there is no such file, or it holds no transform from fixed to moving points.
        """
        path = Path(path)
        if not path.exists():
            raise InputError(f"There is no file {path}.")
        try:
            if suffix_of(path) in FIELD_ENDINGS:
                given = fields.read(path)
                part = DisplacementField.from_sitk(given.image)
                return cls((part.inverse() if given.backward else part,))
            found = cls.from_sitk(transforms.read(path))
        except (RuntimeError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path} cannot be read as a transform: it is damaged, or holds more than ITK's linear transforms, "
                "displacement fields and B-splines; save it as a displacement image, for example with 3D Slicer's "
                "module Transforms."
            ) from error
        if not all(map(_is_finite, found.parts)):
            raise InputError(f"{path} holds a transform with a number that is not finite: save it again.")
        return found

    def write(self, path: str | Path, *, grid: Grid | None = None) -> None:
        """Write an ITK transform, or by an image's ending the displacement in LPS millimetres on `grid`.

        Raises:
            InputError: the ending is unknown, no grid is known, the folder cannot be written or the disk is full.
        """
        path = Path(path)
        ending = suffix_of(path)
        if ending in FIELD_ENDINGS:
            grids = [p.grid for p in self.parts if isinstance(p, DisplacementField)]
            if grid is None and not grids:
                raise InputError("The transform has no grid of its own: give the grid to write its displacement on.")
            write_image(self.displacement_on(grid or grids[0]).to_image(), path)
            return
        if ending not in TRANSFORM_ENDINGS + MATRIX_ENDINGS:
            raise InputError(f"'{path}' ends in neither {', '.join(TRANSFORM_ENDINGS + FIELD_ENDINGS)}.")
        if ending in MATRIX_ENDINGS and [type(p) for p in self.parts] != [Affine]:
            raise InputError(f"A {ending} file holds one affine transform and no more: write '{path.stem}.h5' instead.")
        size = sum(8 * p.values[0].numel() for p in self.parts if isinstance(p, DisplacementField))
        with complete(path, size=size) as temporary:
            sitk.WriteTransform(self.to_sitk(), str(temporary))


def _is_finite(part: Affine | DisplacementField | BSpline) -> bool:
    if isinstance(part, Affine):
        return bool(np.isfinite(part.matrix).all())
    return bool((part.values if isinstance(part, DisplacementField) else part.control.values).isfinite().all())


def _map_points(part: DisplacementField | BSpline, points: np.ndarray) -> np.ndarray:
    """Image `[N, d]` of physical points `[N, d]` of a part that follows coordinates of its grid."""
    index = torch.from_numpy(part.grid.index(points)[:, ::-1].copy())
    coordinates = index.T.reshape(1, part.dimension, *[1] * (part.dimension - 1), -1)
    moved = (part.follow(coordinates) - coordinates).reshape(part.dimension, -1).T
    matrix = torch.from_numpy(part.grid.tensor_to_physical[:-1, :-1])
    return points + (moved @ matrix.T).numpy()


def _apply(matrix: np.ndarray, points: Tensor) -> Tensor:
    """A homogeneous matrix applied to `[1, d, *S]`, summed in an order that keeps float32 near its rounding."""
    linear = torch.from_numpy(matrix[:-1, :-1]).to(points)
    offset = torch.from_numpy(matrix[:-1, -1]).to(points).view(1, -1, *[1] * (points.ndim - 2))
    return torch.einsum("pt,bt...->bp...", linear, points) + offset
