"""The selected step on the fixed grid, by SimpleITK: warped image, displacement, Jacobian determinant."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer.util
import vtk
from vtk.util import numpy_support

from RecurrentRegistrationSlicer.frame import FLIP, arrayFromMatrix, indexToWorld, toWorld
from RecurrentRegistrationSlicer.runs import Run

INTERPOLATORS = {  # the worker's, by their names
    "linear": sitk.sitkLinear,
    "nearest": sitk.sitkNearestNeighbor,
    "label": sitk.sitkLabelGaussian,
    "bspline": sitk.sitkBSpline3,
}


def warpedAtStep(run: Run, interpolation: str = "linear", background: float | None = None) -> np.ndarray:
    """The moving image `[k, j, i]` on the fixed grid, deformed by the selected step; as in `runs.Outputs`."""
    moving, size = slicer.util.arrayFromVolume(run.movingNode), run.fixedNode.GetImageData().GetDimensions()
    grid = _placed(sitk.Image(size, sitk.sitkUInt8), fixedIndex(run))
    matrix = vtk.vtkMatrix4x4()
    run.movingNode.GetIJKToRASMatrix(matrix)
    image = _placed(sitk.GetImageFromArray(moving), arrayFromMatrix(matrix))
    outside = float(moving.min()) if background is None else background
    warped = sitk.Resample(image, grid, _transform(run), INTERPOLATORS[interpolation], outside, image.GetPixelID())
    return sitk.GetArrayFromImage(warped)


def displacementAtStep(run: Run) -> np.ndarray:
    """The displacement `[k, j, i, 3]` of the selected step on the fixed grid, millimetres of the moving frame."""
    grid = _placed(sitk.Image(run.fixedNode.GetImageData().GetDimensions(), sitk.sitkUInt8), fixedIndex(run))
    where = grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
    return sitk.GetArrayFromImage(sitk.TransformToDisplacementField(_transform(run), sitk.sitkVectorFloat32, *where))


def jacobianOf(displacement: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Jacobian determinants `[k, j, i]` of a displacement on a grid with the matrix `index`; above 1 it expands."""
    slopes = np.zeros((*displacement.shape, 3), np.float32)  # along i, j, k
    for axis, count in enumerate(displacement.shape[:3]):
        if count > 1:
            slopes[..., 2 - axis] = np.gradient(displacement, axis=axis)
    return np.linalg.det(np.eye(3) + slopes @ np.linalg.inv(index[:3, :3]))


def fixedIndex(run: Run) -> np.ndarray:
    """From index to millimetres of the fixed volume, in the frame of the moving node (RAS)."""
    return np.linalg.inv(toWorld(run.movingNode)) @ FLIP @ indexToWorld(run.fixedNode)


def _transform(run: Run) -> sitk.Transform:
    """The selected step for SimpleITK, in the coordinates of the moving node."""
    if run.stepTransformNode is None:
        return sitk.Transform(3, sitk.sitkIdentity)
    grid = run.stepTransformNode.GetTransformFromParent()
    image = grid.GetDisplacementGrid()
    vectors = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    vectors = vectors.reshape(*image.GetDimensions()[::-1], 3).astype(float)
    index = arrayFromMatrix(grid.GetGridDirectionMatrix()) @ np.diag([*image.GetSpacing(), 1.0])
    index[:3, 3] = image.GetOrigin()
    return sitk.DisplacementFieldTransform(_placed(sitk.GetImageFromArray(vectors, isVector=True), index))


def _placed(image: Any, index: np.ndarray) -> Any:
    spacing = np.linalg.norm(index[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((index[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(index[:3, 3].tolist())
    return image
