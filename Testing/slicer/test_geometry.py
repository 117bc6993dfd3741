"""Every way a header can be awkward, every parent transform: the nodes of a result do what the known map does.

Points are compared at the voxels of the fixed image, where interpolation (linear here, cubic where Slicer has read a
file) changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="3D Slicer's core is not installed: pip install slicer-core")

import SimpleITK as sitk
import slicer
import slicer.util
import vtk
from geometry import AWKWARD, GRIDS
from RecurrentRegistrationSlicer.frame import FLIP, Frame, indexToWorld, planeOf, toWorld
from RecurrentRegistrationSlicer.steps import Steps
from registered import (
    PARENTS,
    Pair,
    accepted,
    display,
    fixedPoints,
    mapped,
    pair,
    turned,
    volumeNode,
)

SOLID = [name for name in AWKWARD if not name.startswith("2D")]
FLAT = [name for name in AWKWARD if name.startswith("2D")]
CASES = [
    *[(geometry, "no parent") for geometry in SOLID],
    *[("anisotropic", parents) for parents in PARENTS if parents != "no parent"],
    ("left-handed oblique", "both under transforms"),
    ("2D oblique", "no parent"),
]


@pytest.fixture(params=CASES, ids=lambda case: ", ".join(case))
def case(request: Any, scene: Any) -> Pair:
    """A pair of nodes with a known map."""
    return pair(*request.param)


def throughNode(node: Any, points: np.ndarray) -> np.ndarray:
    """World points (LPS) through a transform node and all above it, to where a node below it lives (RAS)."""
    transform = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(transform)
    return np.array([transform.TransformPoint(*point) for point in points @ FLIP[:3, :3]])


def expected(pair: Pair, points: np.ndarray) -> np.ndarray:
    """Where the moving node has those points (RAS, its own coordinates)."""
    below = np.linalg.inv(toWorld(pair.movingNode)) @ FLIP
    return pair.map(points) @ below[:3, :3].T + below[:3, 3]


@pytest.mark.parametrize("kind", ["composite", "grid"])
def test_the_transform_node_maps_points_as_the_known_map(case, tmp_path, kind):
    _, result = accepted(case, tmp_path, transform=kind)
    points = fixedPoints(case)
    assert case.movingNode.GetParentTransformNode() is result.transformNode
    assert np.abs(throughNode(result.transformNode, points) - expected(case, points)).max() < 1e-3


def test_the_references_say_whose_transform_it_is(scene, tmp_path):
    _, result = accepted(pair("regular", "no parent"), tmp_path)
    node = result.transformNode
    roles = node.GetMovingNodeReferenceRole(), node.GetFixedNodeReferenceRole()
    assert [node.GetNodeReference(role).GetName() for role in roles] == ["Moving", "Fixed"]


@pytest.mark.parametrize("ending", [".h5", ".nrrd"])
def test_files_give_the_same_map(case, tmp_path, ending):
    _, result = accepted(case, tmp_path, transform="composite" if ending == ".h5" else "grid")
    node, points = result.transformNode, fixedPoints(case)
    path = str(tmp_path / f"saved{ending}")
    assert stored(node, path).WriteData(node)
    again = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    assert stored(again, path).ReadData(again)
    above = node.GetParentTransformNode()
    again.SetAndObserveTransformNodeID(above.GetID() if above is not None else None)
    assert np.abs(throughNode(again, points) - expected(case, points)).max() < 1e-3

    if ending == ".h5":
        itk = sitk.ReadTransform(path)
    else:
        itk = sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
    below = FLIP @ np.linalg.inv(toWorld(case.movingNode)) @ FLIP  # world to the moving node's frame, LPS
    starts = points @ below[:3, :3].T + below[:3, 3]
    found = np.array([itk.TransformPoint(point.tolist()) for point in starts]) @ FLIP[:3, :3]
    assert np.abs(found - expected(case, points)).max() < 1e-3


def stored(node: Any, path: str) -> Any:
    """A storage node for a transform node."""
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(path)
    slicer.mrmlScene.AddNode(storage)
    return storage


def test_a_saved_scene_gives_the_same_map(scene, tmp_path):
    case = pair("left-handed oblique", "both under transforms")
    _, result = accepted(case, tmp_path)
    points = fixedPoints(case)
    wanted, name = expected(case, points), result.transformNode.GetName()
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene.Clear(False)
    assert scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    node = slicer.util.getFirstNodeByName(name, "vtkMRMLTransformNode")
    assert slicer.util.getNode("Moving").GetParentTransformNode() is node
    assert np.abs(throughNode(node, points) - wanted).max() < 1e-3


# Slices have a map in their plane, which SimpleITK cannot apply to a volume.
@pytest.mark.parametrize(("geometry", "parents"), [case for case in CASES if GRIDS[case[0]].size[2:] > (1,)])
def test_the_warped_volume_is_what_simpleitk_resamples(scene, tmp_path, geometry, parents):
    case = pair(geometry, parents)
    _, result = accepted(case, tmp_path)
    fixed, moving = (itkImage(node) for node in (case.fixedNode, case.movingNode))
    low = float(slicer.util.arrayFromVolume(case.movingNode).min())
    wanted = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, case.transform.to_sitk(), sitk.sitkLinear, low))
    assert np.abs(slicer.util.arrayFromVolume(result.warpedNode) - wanted).max() < 1e-3
    assert np.allclose(indexToWorld(result.warpedNode), indexToWorld(case.fixedNode))


def itkImage(node: Any) -> sitk.Image:
    """A volume node in the world, by SimpleITK alone."""
    image = sitk.GetImageFromArray(slicer.util.arrayFromVolume(node))
    index = indexToWorld(node)
    spacing = np.linalg.norm(index[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(index[:3, 3].tolist())
    image.SetDirection((index[:3, :3] / spacing).ravel().tolist())
    return image


def test_slicers_own_resampling_agrees_with_the_warped_volume(scene, tmp_path):
    """The moving volume under the transform, pulled onto the fixed grid by Slicer, is the warped volume."""
    case = pair("oblique", "moving under a turn", movingGeometry="regular")
    _, result = accepted(case, tmp_path)
    resample = slicer.vtkSlicerVolumesLogic.ResampleVolumeToReferenceVolume
    found = slicer.util.arrayFromVolume(resample(case.movingNode, case.fixedNode))
    warped = slicer.util.arrayFromVolume(result.warpedNode)
    inside = found != 0  # Slicer's background
    assert inside.mean() > 0.1
    assert np.median(np.abs(found - warped)[inside]) < 1e-3


def test_the_jacobian_volume_is_that_of_the_known_map(case, tmp_path):
    _, result = accepted(case, tmp_path)
    array = slicer.util.arrayFromVolume(result.jacobianNode)
    size = case.fixedNode.GetImageData().GetDimensions()
    inner = tuple(slice(1, -1) if n > 1 else slice(None) for n in size[::-1])
    points = fixedPoints(case)
    step = 1e-3
    sides = [(case.map(points + step * axis) - case.map(points - step * axis)) / (2 * step) for axis in np.eye(3)]
    determinant = np.linalg.det(np.stack(sides, axis=-1))
    wanted = determinant.reshape([max(1, n - 2) for n in size]).transpose(2, 1, 0)
    assert np.abs(array[inner] - wanted).max() < 0.01
    assert result.jacobianNode.GetDescription().startswith("Jacobian determinant: above 1")


def test_landmarks_go_through_the_node_by_the_inverse(case, tmp_path):
    _, result = accepted(case, tmp_path)
    points = fixedPoints(case)[::37]
    markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    for point in expected(case, points):
        markups.AddControlPoint(vtk.vtkVector3d(*point))
    markups.SetAndObserveTransformNodeID(result.transformNode.GetID())
    found = np.array([markups.GetNthControlPointPositionWorld(n) for n in range(len(points))]) @ FLIP[:3, :3]
    assert np.abs(found - points).max() < 5e-3


def test_the_inverse_node_brings_the_fixed_image_onto_the_moving_one(case, tmp_path):
    _, result = accepted(case, tmp_path, inverse=True)
    points = middle(case)
    below = np.linalg.inv(toWorld(case.fixedNode)) @ FLIP
    wanted = points @ below[:3, :3].T + below[:3, 3]
    assert np.abs(throughNode(result.inverseNode, case.map(points)) - wanted).max() < 0.1


def middle(case: Pair) -> np.ndarray:
    """Points deep inside the fixed image, whose counterparts are inside too."""
    size = case.fixedNode.GetImageData().GetDimensions()
    axes = [np.arange(n // 2 - 1, n // 2 + 2) if n > 1 else np.zeros(1) for n in size]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    matrix = indexToWorld(case.fixedNode)
    return index @ matrix[:3, :3].T + matrix[:3, 3]


def test_every_step_obeys_the_same(case, tmp_path):
    steps = Steps.create("Steps")
    basis = case.frame.into(toWorld(case.movingNode))
    for index, part in ((3, 0.5), (7, 1.0)):
        steps.add(index, display(case, case.grid, tmp_path / f"{index}.npy", part), case.frame, basis)
    above = case.movingNode.GetParentTransformNode()
    steps.transformNode.SetAndObserveTransformNodeID(above.GetID() if above is not None else None)
    points = fixedPoints(case)
    assert steps.indices == [0, 3, 7]
    below = np.linalg.inv(toWorld(case.movingNode)) @ FLIP
    shift = case.frame.world[:3, 2] * case.frame.offset
    for index, part in ((0, 0.0), (3, 0.5), (7, 1.0)):
        steps.select(index)
        target = points + part * (case.map(points) - shift - points) + (shift if index else 0)
        wanted = target @ below[:3, :3].T + below[:3, 3]
        assert np.abs(throughNode(steps.transformNode, points) - wanted).max() < 1e-3


@pytest.mark.parametrize("geometry", FLAT)
def test_slices_anywhere_in_space(scene, tmp_path, geometry):
    """Two parallel slices, turned into space, some millimetres apart."""
    space = turned(35, (10, -20, 30)) @ turned(-20, (0, 0, 0))
    fixedNode = volumeNode(GRIDS[geometry], "Fixed", space)
    movingNode = volumeNode(GRIDS[geometry], "Moving", space, offset=4.0)
    case = mapped(fixedNode, movingNode, Frame.of(fixedNode, movingNode))
    assert abs(case.frame.offset) == pytest.approx(4)
    _, result = accepted(case, tmp_path)
    points = fixedPoints(case)
    assert np.abs(throughNode(result.transformNode, points) - expected(case, points)).max() < 1e-3
    assert result.warpedNode.GetImageData().GetDimensions() == fixedNode.GetImageData().GetDimensions()


def test_the_plane_of_a_slice_is_upright():
    plane = planeOf(np.array([[0, 2, 0, 5], [3, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1.0]]))
    assert np.linalg.det(plane) == pytest.approx(1)
    assert np.allclose(plane[:3, 3], [5, 6, 7])


def test_a_coarser_grid_is_close_and_small(scene, tmp_path: Path):
    case = pair("anisotropic", "no parent")
    _, result = accepted(case, tmp_path, transform="grid", spacing=3.5)
    points = fixedPoints(case)
    image = result.transformNode.GetTransformFromParent().GetDisplacementGrid()
    assert np.prod(image.GetDimensions()) < np.prod(case.grid.size) / 2
    assert np.abs(throughNode(result.transformNode, points) - expected(case, points)).max() < 0.15
