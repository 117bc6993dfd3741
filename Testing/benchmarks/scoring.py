"""The one judge of every method: a displacement image on the fixed grid against all that is known about the pair.

Built on SimpleITK and NumPy alone, so that nothing under test takes part in the judgement.
"""

from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from manifest import Link, Pair


def score(pair: Pair, displacement: Path) -> dict[str, float | int | dict[str, float] | list[float]]:
    """Return every measure that the pair's ground truth allows; lengths in mm, folding over the whole grid."""
    judge = Judge(pair, sitk.ReadImage(str(displacement), sitk.sitkVectorFloat64))
    return judge.overlap() | judge.landmarks() | judge.distance() | judge.similarity() | judge.regularity()


class Judge:
    """The measures of one result. displacement: LPS mm on the fixed grid, u(x) = moving point − x."""

    def __init__(self, pair: Pair, displacement: sitk.Image) -> None:
        self.pair = pair
        self.fixed = sitk.ReadImage(str(pair.fixed), sitk.sitkFloat32)
        self.displacement = displacement
        if not same_grid(displacement, self.fixed):
            raise ValueError("the displacement is not on the grid of the fixed image")

    @cached_property
    def transform(self) -> sitk.Transform:
        return sitk.DisplacementFieldTransform(sitk.Image(self.displacement))  # takes over the copy it is given

    @cached_property
    def moving(self) -> sitk.Image:
        return sitk.ReadImage(str(self.pair.moving), sitk.sitkFloat32)

    @cached_property
    def region(self) -> np.ndarray:
        """Where deformation and errors are averaged: the given region, the fixed mask, or the foreground."""
        if self.pair.region is not None:
            image, through = (
                sitk.ReadImage(str(self.pair.region.file)),
                chain(self.pair.region.through, self.fixed.GetDimension()),
            )
        elif self.pair.fixed_mask is not None:
            image, through = sitk.ReadImage(str(self.pair.fixed_mask)), sitk.Transform()
        else:
            return sitk.GetArrayFromImage(foreground(self.fixed)) > 0
        return self._on_fixed_grid(image != 0, through) > 0

    def _on_fixed_grid(self, image: sitk.Image, transform: sitk.Transform, *, nearest: bool = True) -> np.ndarray:
        interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
        return sitk.GetArrayFromImage(sitk.Resample(image, self.fixed, transform, interpolator, 0))

    def overlap(self) -> dict:
        """Dice per structure and their mean, labels warped by nearest neighbour; Dice of the foregrounds."""
        body = self._on_fixed_grid(foreground(self.moving), self.transform)
        result: dict = {"foreground_dice": dice(sitk.GetArrayViewFromImage(foreground(self.fixed)) > 0, body > 0)}
        if self.pair.fixed_labels is None or self.pair.moving_labels is None:
            return result
        moving = sitk.Cast(sitk.ReadImage(str(self.pair.moving_labels)), sitk.sitkUInt16)
        fixed_labels = sitk.Cast(sitk.ReadImage(str(self.pair.fixed_labels)), sitk.sitkUInt16)
        fixed = self._on_fixed_grid(fixed_labels, sitk.Transform())
        warped = self._on_fixed_grid(moving, self.transform)
        structures = self.pair.structures
        if structures is None:
            common = np.intersect1d(fixed, sitk.GetArrayViewFromImage(moving))
            structures = {str(value): (int(value), int(value)) for value in common if value}
        each = {
            name: dice(fixed == of_fixed, warped == of_moving) for name, (of_fixed, of_moving) in structures.items()
        }
        return result | {"dice": float(np.mean(list(each.values()))), "dice_each": each}

    def landmarks(self) -> dict:
        """Target registration error in mm."""
        if self.pair.fixed_points is None or self.pair.moving_points is None:
            return {}
        fixed = read_points(self.pair.fixed_points, self.fixed)
        moving = read_points(self.pair.moving_points, self.moving)
        mapped = [self.transform.TransformPoint(point) for point in fixed]
        errors = np.linalg.norm(np.subtract(mapped, moving), axis=1)
        return {"tre": errors.mean().item(), "tre_max": errors.max().item(), "tre_each": errors.tolist()}

    def distance(self) -> dict:
        """Distance to the known mapping over the region, mm."""
        if self.pair.reference_field is not None:
            truth = sitk.ReadImage(str(self.pair.reference_field), sitk.sitkVectorFloat64)
        elif self.pair.reference:
            truth = sitk.TransformToDisplacementField(
                chain(self.pair.reference, self.fixed.GetDimension()),
                sitk.sitkVectorFloat64,
                self.fixed.GetSize(),
                self.fixed.GetOrigin(),
                self.fixed.GetSpacing(),
                self.fixed.GetDirection(),
            )
        else:
            return {}
        difference = sitk.GetArrayViewFromImage(truth) - sitk.GetArrayViewFromImage(self.displacement)
        errors = np.linalg.norm(difference[self.region], axis=-1)
        return {"distance": errors.mean().item(), "distance_p95": np.percentile(errors, 95).item()}

    def similarity(self) -> dict:
        """Correlation and mutual information (nats) of fixed and warped within the mask, where moving is defined."""
        warped = self._on_fixed_grid(self.moving, self.transform, nearest=False)
        everywhere = sitk.Image(self.moving.GetSize(), sitk.sitkUInt8) + 1
        everywhere.CopyInformation(self.moving)
        seen = self._on_fixed_grid(everywhere, self.transform) > 0
        mask = self.region if self.pair.fixed_mask is not None else np.ones_like(seen)
        inside = mask & seen
        fixed = sitk.GetArrayViewFromImage(self.fixed)
        result = {"seen_percent": 100 * seen[self.region].mean().item()}
        if inside.sum() < 2:
            return result | {"ncc": 0.0, "mattes_mi": 0.0}
        return result | {
            "ncc": np.corrcoef(fixed[inside], warped[inside])[0, 1].item(),
            "mattes_mi": mutual_information(self.fixed, warped, inside),
        }

    def regularity(self) -> dict:
        """Folded voxels of the whole grid; standard deviation of log|J| over the region (|J| of at least 1e-9)."""
        determinant = jacobian_determinant(self.displacement)
        inside = determinant[self.region]
        return {
            "folding_voxels": int((determinant <= 0).sum()),
            "folding_percent": 100 * (determinant <= 0).mean().item(),
            "std_log_jacobian": np.log(np.maximum(inside, 1e-9)).std().item(),
            "jacobian_min": inside.min().item(),
            "jacobian_max": inside.max().item(),
        }


def same_grid(a: sitk.Image, b: sitk.Image) -> bool:
    """Whether two images lie on the same lattice, to a thousandth of a millimetre."""
    return (
        a.GetSize() == b.GetSize()
        and np.allclose(a.GetSpacing(), b.GetSpacing(), atol=1e-5)
        and np.allclose(a.GetOrigin(), b.GetOrigin(), atol=1e-3)
        and np.allclose(a.GetDirection(), b.GetDirection(), atol=1e-5)
    )


def chain(links: tuple[Link, ...], dimension: int) -> sitk.Transform:
    """One transform of ITK files, the first of which acts first."""
    transforms = []
    for link in links:
        transform = sitk.ReadTransform(str(link.file))
        transforms.append(transform.GetInverse() if link.inverse else transform)
    if not transforms:
        return sitk.Transform(dimension, sitk.sitkIdentity)
    return sitk.CompositeTransform(transforms[::-1])  # SimpleITK applies the last first


def foreground(image: sitk.Image) -> sitk.Image:
    """Otsu's foreground with its holes filled."""
    return sitk.BinaryFillhole(sitk.OtsuThreshold(image, 0, 1))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice overlap of two masks; 0 where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 0.0


def read_points(path: Path, image: sitk.Image) -> list[tuple[float, ...]]:
    """Physical points of an elastix file: a line `index` or `point`, a count, then one point a line."""
    kind, _, *rows = path.read_text().split("\n")
    values = [tuple(float(value) for value in row.split()) for row in rows if row.strip()]
    if kind.strip() == "index":
        return [image.TransformContinuousIndexToPhysicalPoint(value) for value in values]
    return values


def mutual_information(fixed: sitk.Image, warped: np.ndarray, inside: np.ndarray) -> float:
    """Mattes mutual information (50 bins) over the given voxels, in nats."""
    moving = sitk.GetImageFromArray(warped)
    mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    moving.CopyInformation(fixed)
    mask.CopyInformation(fixed)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricFixedMask(mask)
    method.SetInitialTransform(sitk.Transform(fixed.GetDimension(), sitk.sitkIdentity))
    return -method.MetricEvaluate(fixed, moving)


def jacobian_determinant(displacement: sitk.Image) -> np.ndarray:
    """Determinant of ∂(x + u)/∂x by central differences, with spacing and direction cosines; array [z, y, x]."""
    dimension = displacement.GetDimension()
    direction = np.array(displacement.GetDirection()).reshape(dimension, dimension)
    to_index = np.linalg.inv(direction * displacement.GetSpacing()).astype(np.float32)
    u = sitk.GetArrayViewFromImage(displacement).astype(np.float32)
    # J[c][d] = δ_cd + Σ_a ∂u_c/∂index_a · ∂index_a/∂x_d; array axes run z, y, x.
    rows = []
    for c in range(dimension):
        by_index = np.gradient(u[..., c])[::-1]
        rows.append(
            [np.float32(c == d) + sum(by_index[a] * to_index[a, d] for a in range(dimension)) for d in range(dimension)]
        )
    if dimension == 2:
        return rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
