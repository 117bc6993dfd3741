"""Volume, label map and segmentation nodes as files for the worker, and images on the fixed grid as volume nodes."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer
import slicer.util
import vtk
from vtk.util import numpy_support

from RecurrentRegistrationSlicer.errors import RegistrationError
from RecurrentRegistrationSlicer.frame import (
    FLIP,
    Frame,
    arrayFromMatrix,
    indexToWorld,
    parentTransform,
    planeOf,
    toWorld,
)

SAMPLE = 100_000  # voxels, about, that a fingerprint looks at


def writeVolume(volumeNode, path: Path, frame: Frame) -> None:
    """Write a scalar volume as the worker is to see it: parent transforms applied, a single slice as a 2D image."""
    _write(slicer.util.arrayFromVolume(volumeNode), frame.seen(indexToWorld(volumeNode)), path, frame)


def writeLocal(volumeNode, path: Path, frame: Frame) -> None:
    """Write a scalar volume as it lies in its own coordinates, whatever it is under."""
    _write(slicer.util.arrayFromVolume(volumeNode), frame.seen(localIndex(volumeNode)), path, frame)


def localPlane(volumeNode) -> np.ndarray:
    """The plane of a single slice, in its own coordinates, LPS."""
    return planeOf(localIndex(volumeNode))


def localIndex(volumeNode) -> np.ndarray:
    """From a volume's index (i, j, k) to its own coordinates, LPS."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return FLIP @ arrayFromMatrix(matrix)


def fingerprint(volumeNode) -> dict:
    """What a volume holds and where, as far as a later look needs it; it survives saving."""
    array = slicer.util.arrayFromVolume(volumeNode)
    sample = np.ascontiguousarray(array.ravel()[:: max(1, array.size // SAMPLE)])
    return {"index": localIndex(volumeNode).tolist(), "shape": list(array.shape), "voxels": zlib.crc32(sample)}


def isUnchanged(volumeNode, known: dict | None) -> bool:
    """Whether a volume is still what its fingerprint says; True where there is none."""
    return _agrees(volumeNode, fingerprint, known)


def place(volumeNode) -> dict:
    """Where the voxels of a volume are in the world."""
    return {"index": indexToWorld(volumeNode).tolist(), "size": list(volumeNode.GetImageData().GetDimensions())}


def isPlaced(volumeNode, known: dict | None) -> bool:
    """Whether a volume still has its voxels where `place` found them; True where it was not asked."""
    return _agrees(volumeNode, place, known)


def _agrees(volumeNode, describe: Callable[..., dict], known: dict | None) -> bool:
    """Whether a volume is described as it was before, up to rounding."""
    if known is None:
        return True
    if volumeNode.GetImageData() is None:
        return False
    found = describe(volumeNode)
    return {**found, "index": known["index"]} == known and np.allclose(found["index"], known["index"], atol=1e-4)


def writeMask(maskNode, path: Path, frame: Frame) -> None:
    """Write where a label map is not zero, or where a segmentation has a segment.

    Raises:
        RegistrationError: the node holds nothing.
    """
    if maskNode.IsA("vtkMRMLSegmentationNode"):
        array, index = _labels(maskNode)
    else:
        array, index = slicer.util.arrayFromVolume(maskNode), indexToWorld(maskNode)
    if not array.any():
        raise RegistrationError(f"The mask '{maskNode.GetName()}' is empty: mark some voxels or leave it out.")
    _write((array != 0).astype(np.uint8), frame.seen(index), path, frame)


def writeLabels(labelNode, path: Path, frame: Frame) -> None:
    """Write a label map, or the segments of a segmentation with their names; where segments overlap, a later one wins.

    Raises:
        RegistrationError: the node holds nothing.
    """
    names: list[str] = []
    if labelNode.IsA("vtkMRMLSegmentationNode"):
        array, index = _labels(labelNode)
        segments = labelNode.GetSegmentation()
        names = [segments.GetNthSegment(n).GetName() for n in range(segments.GetNumberOfSegments())]
    else:
        array, index = slicer.util.arrayFromVolume(labelNode), indexToWorld(labelNode)
    if not array.any():
        raise RegistrationError(f"The labels '{labelNode.GetName()}' are empty: mark some voxels or leave them out.")
    told = {}
    for n, name in enumerate(names):
        told |= {f"Segment{n}_ID": f"Segment_{n + 1}", f"Segment{n}_Name": name}
        told |= {f"Segment{n}_LabelValue": str(n + 1), f"Segment{n}_Layer": "0"}
    _write(array.astype(np.uint16), frame.seen(index), path, frame, told)


def writeMatrix(fixedToMoving: np.ndarray, path: Path, frame: Frame) -> None:
    """Write a linear map from fixed to moving points (world, LPS) as a transform file for the worker."""
    d = frame.dimension
    matrix = np.linalg.inv(frame.world) @ fixedToMoving @ frame.world
    if d == 2 and np.abs(matrix[2, :2]).max() > 1e-3:
        raise RegistrationError("The initial transform turns the moving slice out of the fixed one's plane.")
    transform = sitk.AffineTransform(d)
    transform.SetMatrix(matrix[:d, :d].ravel().tolist())
    transform.SetTranslation(matrix[:d, 3].tolist())
    sitk.WriteTransform(transform, str(path))


def addVolume(array: np.ndarray, referenceNode, name: str, kind: str = "vtkMRMLScalarVolumeNode"):
    """A new volume node with an array `[k, j, i]` on the grid, and under the parent, of another one."""
    taken = slicer.mrmlScene.GetFirstNodeByName(name) is not None  # else the scene would count up from nodes long gone
    name = slicer.mrmlScene.GetUniqueNameByString(name) if taken else name
    node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
    updateVolume(node, array, referenceNode)
    node.CreateDefaultDisplayNodes()
    return node


def updateVolume(node, array: np.ndarray, referenceNode) -> None:
    """Give a volume node an array `[k, j, i]` on the grid, and the parent, of another one."""
    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape[::-1])
    scalars = numpy_support.numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True)
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    node.CopyOrientation(referenceNode)
    node.SetAndObserveImageData(image)
    parent = parentTransform(referenceNode)
    node.SetAndObserveTransformNodeID(parent.GetID() if parent is not None else None)


def readArray(path: str | Path) -> np.ndarray:
    """The voxels `[k, j, i]` of a file that the worker wrote, `[k, j, i, 3]` for vectors; a 2D image is one slice."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    return array[np.newaxis] if image.GetDimension() == 2 else array


def grid(path: str | Path) -> dict:
    """Size, spacing, origin and direction of an image in a file, as the worker names them."""
    image = sitk.ReadImage(str(path))
    return {name: list(getattr(image, f"Get{name.title()}")()) for name in ("size", "spacing", "origin", "direction")}


def _write(array: np.ndarray, index: np.ndarray, path: Path, frame: Frame, told: dict[str, str] | None = None) -> None:
    d = frame.dimension
    if d == 2 and array.shape[0] != 1:
        raise RegistrationError("The images are single slices, but the mask is not: draw it on the slice.")
    image = sitk.GetImageFromArray(array if d == 3 else array[0])
    spacing = np.linalg.norm(index[:d, :d], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((index[:d, :d] / spacing).ravel().tolist())
    image.SetOrigin(index[:d, 3].tolist())
    for key, text in (told or {}).items():
        image.SetMetaData(key, text)
    sitk.WriteImage(image, str(path))


def _labels(segmentationNode) -> tuple[np.ndarray, np.ndarray]:
    """All segments of a segmentation in one array, and its matrix from index to the world, LPS."""
    empty = RegistrationError(f"The segmentation '{segmentationNode.GetName()}' is empty: draw a segment.")
    copy = slicer.vtkMRMLSegmentationNode()  # the node itself shall not get a representation that it did not have
    copy.GetSegmentation().DeepCopy(segmentationNode.GetSegmentation())
    if copy.GetSegmentation().GetNumberOfSegments() == 0 or not copy.CreateBinaryLabelmapRepresentation():
        raise empty
    merged = slicer.vtkOrientedImageData()
    copy.GenerateMergedLabelmapForAllSegments(merged, slicer.vtkSegmentation.EXTENT_UNION_OF_EFFECTIVE_SEGMENTS)
    scalars = merged.GetPointData().GetScalars()
    if scalars is None or scalars.GetNumberOfTuples() == 0:
        raise empty
    first, matrix = np.array(merged.GetExtent())[::2], vtk.vtkMatrix4x4()
    merged.GetImageToWorldMatrix(matrix)
    shift = np.eye(4)
    shift[:3, 3] = first
    array = numpy_support.vtk_to_numpy(scalars).reshape(merged.GetDimensions()[::-1])
    return array, FLIP @ toWorld(segmentationNode) @ arrayFromMatrix(matrix) @ shift
