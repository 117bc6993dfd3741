"""What the worker found as transform nodes.

The worker's map pulls: it goes from fixed to moving points, LPS millimetres. In Slicer it is a node's transform
**from** parent, in the frame the moving node lives in: put between the moving node and its own parent, it brings the
moving image onto the fixed one. Fields are interpolated **linearly**, as ITK and the worker do (Slicer's own reader
takes cubic); outside of its grid VTK repeats a field's edge, where ITK displaces nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util import numpy_support

from RecurrentRegistrationSlicer.frame import ROLE, Frame, matrixFromArray


@dataclass(frozen=True)
class Field:
    """Displacements `[k, j, i, 3]` in millimetres on a grid; the matrix `index` takes (i, j, k) to points."""

    vectors: np.ndarray
    index: np.ndarray


Part = Field | np.ndarray  # a field, or a homogeneous matrix


def readParts(path: str | Path, frame: Frame) -> list[Part]:
    """The parts of a transform file of the worker, the first to be applied first, in three dimensions."""
    parts = [_part(transform) for transform in _flat(sitk.ReadTransform(str(path)))]
    if frame.offset:
        parts.append(_shift(frame.offset))
    return parts


def sampled(path: str | Path, frame: Frame, grid: dict) -> Field:
    """A transform file of the worker as one field.

    Args:
        path: the file.
        frame: of the pair.
        grid: size, spacing, origin and direction, as the worker names them.
    """
    kind = sitk.sitkVectorFloat32
    transform = sitk.ReadTransform(str(path))
    image = sitk.TransformToDisplacementField(transform, kind, *(grid[n] for n in _GRID))
    return lifted(sitk.GetArrayFromImage(image), indexOf(grid), frame)


_GRID = ("size", "origin", "spacing", "direction")


def indexOf(grid: dict) -> np.ndarray:
    """Matrix of a grid of the worker, from index to millimetres; 2D ones lie in the plane z = 0."""
    d = len(grid["size"])
    matrix = np.eye(4)
    matrix[:d, :d] = np.reshape(grid["direction"], (d, d)) * np.array(grid["spacing"])
    matrix[:d, 3] = grid["origin"]
    return matrix


def coarser(grid: dict, spacing: float | None) -> dict:
    """A grid with the same outer nodes, about `spacing` millimetres apart, never finer than it was."""
    if spacing is None:
        return grid
    spans = [(n - 1) * s for n, s in zip(grid["size"], grid["spacing"], strict=True)]
    fine = zip(spans, grid["size"], strict=True)
    size = [min(n, int(np.ceil(span / spacing - 1e-6)) + 1) for span, n in fine]
    steps = [s / (n - 1) if n > 1 else o for s, n, o in zip(spans, size, grid["spacing"], strict=True)]
    return {**grid, "size": size, "spacing": steps}


def lifted(vectors: np.ndarray, index: np.ndarray, frame: Frame) -> Field:
    """A field in three dimensions; one in a plane also carries the way from the fixed slice to the moving one."""
    if vectors.ndim == 3:
        vectors = np.pad(vectors, ((0, 0), (0, 0), (0, 1)))[np.newaxis]
    if frame.offset:
        vectors[..., 2] += frame.offset
    return Field(vectors, index)


def vtkTransformOf(parts: list[Part], basis: np.ndarray) -> vtk.vtkAbstractTransform:
    """Parts in the worker's coordinates as one VTK transform in those of a node.

    Args:
        parts: the first is applied first; their arrays may be changed and are kept.
        basis: from the worker's coordinates to the node's.
    """
    made = [
        gridTransform(part, basis) if isinstance(part, Field) else _linear(basis @ part @ np.linalg.inv(basis))
        for part in parts
    ]
    if len(made) == 1:
        return made[0]
    composite = vtk.vtkGeneralTransform()
    composite.PostMultiply()
    for transform in made:
        composite.Concatenate(transform)
    return composite


def gridTransform(field: Field, basis: np.ndarray) -> vtk.vtkAbstractTransform:
    """A field as Slicer's grid transform; the array itself is kept, turned into the node's coordinates."""
    index, linear = basis @ field.index, basis[:3, :3].astype(field.vectors.dtype)
    vectors = field.vectors
    if np.array_equal(linear, np.diag(np.diag(linear))):
        vectors *= np.diag(linear)
    else:
        vectors[:] = vectors @ linear.T
    image = vtk.vtkImageData()
    image.SetDimensions(*vectors.shape[2::-1])
    spacing = np.linalg.norm(index[:3, :3], axis=0)
    image.SetSpacing(*spacing)
    image.SetOrigin(*index[:3, 3])
    scalars = numpy_support.numpy_to_vtk(vectors.reshape(-1, 3))
    scalars.SetName("Displacement")
    image.GetPointData().SetScalars(scalars)
    direction = np.eye(4)
    direction[:3, :3] = index[:3, :3] / spacing
    transform = slicer.vtkOrientedGridTransform()
    transform.SetGridDirectionMatrix(matrixFromArray(direction))
    transform.SetDisplacementGridData(image)
    transform.SetInterpolationModeToLinear()
    return transform


def updateTransform(node, fromParent: vtk.vtkAbstractTransform, *, role: str) -> None:
    """Give a transform node what it pulls by, and mark it as put there by a run."""
    node.SetAttribute(ROLE, role)
    node.SetAndObserveTransformFromParent(fromParent)


def setReferences(node, fixedNode, movingNode) -> None:
    """Note whose transform it is, as Slicer's registration modules do."""
    node.SetNodeReferenceID(slicer.vtkMRMLTransformNode.GetMovingNodeReferenceRole(), movingNode.GetID())
    node.SetNodeReferenceID(slicer.vtkMRMLTransformNode.GetFixedNodeReferenceRole(), fixedNode.GetID())


def mapPoints(points: np.ndarray, transform: vtk.vtkAbstractTransform) -> np.ndarray:
    """Points `[N, 3]` through a VTK transform."""
    return np.array([transform.TransformPoint(*point) for point in points]).reshape(-1, 3)


def _flat(transform: sitk.Transform) -> list[sitk.Transform]:
    if transform.GetTransformEnum() != sitk.sitkComposite:
        return [transform]
    composite = sitk.CompositeTransform(transform)
    parts = [composite.GetNthTransform(n) for n in reversed(range(composite.GetNumberOfTransforms()))]
    return [flat for part in parts for flat in _flat(part)]


def _part(transform: sitk.Transform) -> Part:
    d = transform.GetDimension()
    if transform.IsLinear():
        matrix = np.eye(4)
        matrix[:d, 3] = transform.TransformPoint([0.0] * d)
        for axis in range(d):
            matrix[:d, axis] = np.array(transform.TransformPoint(np.eye(d)[axis].tolist())) - matrix[:d, 3]
        return matrix
    image = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
    grid = {name: getattr(image, f"Get{name.title()}")() for name in _GRID}
    vectors = sitk.GetArrayFromImage(image).astype(np.float32)
    if d == 2:
        vectors = np.pad(vectors, ((0, 0), (0, 0), (0, 1)))[np.newaxis]
    return Field(vectors, indexOf(grid))


def _shift(offset: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[2, 3] = offset
    return matrix


def _linear(matrix: np.ndarray) -> vtk.vtkTransform:
    transform = vtk.vtkTransform()
    transform.SetMatrix(matrixFromArray(matrix))
    return transform
