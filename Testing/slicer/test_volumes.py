"""What the worker is given: volumes, masks from label maps and segmentations, under whatever transforms."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="3D Slicer's core is not installed: pip install slicer-core")

import SimpleITK as sitk
import slicer
import slicer.util
import vtk
from blobs import FEW, blob, pair, volumeNode
from RecurrentRegistrationSlicer import checks, guiding, setup, volumes
from RecurrentRegistrationSlicer.errors import RegistrationError
from RecurrentRegistrationSlicer.frame import FLIP, Frame, indexToWorld, matrixFromArray
from registered import GRIDS, turned
from registered import volumeNode as placedNode
from vtk.util import numpy_support

from RecurrentRegistrationLib.pipeline.guide_files import read_labels

ROOT = Path(__file__).resolve().parents[2]
SOLID = Frame(3, np.eye(4))


def under(node: Any, matrix: np.ndarray) -> Any:
    """Put a node under a new linear transform."""
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    parent.SetMatrixTransformToParent(matrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(parent.GetID())
    return parent


def bent(node: Any) -> None:
    """Put a node under a new transform that is not linear."""
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Bend")
    parent.SetAndObserveTransformFromParent(vtk.vtkThinPlateSplineTransform())
    node.SetAndObserveTransformNodeID(parent.GetID())


def segmentation(array: np.ndarray, reference: Any, parent: np.ndarray | None = None) -> Any:
    """A segmentation node of two segments: the lower and the upper half of a mask."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    for name, part in (("lower", slice(None, 10)), ("upper", slice(10, None))):
        half = np.zeros_like(array)
        half[part] = array[part]
        segment = slicer.vtkSegment()
        segment.SetName(name)
        binary = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
        segment.AddRepresentation(binary, oriented(half, reference))
        node.GetSegmentation().AddSegment(segment)
    if parent is not None:
        under(node, parent)
    return node


def oriented(array: np.ndarray, reference: Any) -> Any:
    """An array as the image of a segment on a volume's grid."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*array.shape[::-1])
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(array.astype(np.uint8).ravel(), deep=True))
    matrix = vtk.vtkMatrix4x4()
    reference.GetIJKToRASMatrix(matrix)
    image.SetGeometryFromImageToWorldMatrix(matrix)
    return image


@pytest.mark.parametrize("geometry", ["oblique", "permuted", "left-handed oblique"])
def test_a_file_lies_where_the_volume_does(scene, tmp_path, geometry):
    node = placedNode(GRIDS[geometry], "Volume", turned(30, (5, 6, 7)))
    volumes.writeVolume(node, tmp_path / "volume.nrrd", SOLID)
    image = sitk.ReadImage(str(tmp_path / "volume.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(image), slicer.util.arrayFromVolume(node))
    index = indexToWorld(node)
    for corner in ((0, 0, 0), (3, 0, 0), (0, 4, 0), (1, 2, 5)):
        wanted = index[:3, :3] @ corner + index[:3, 3]
        assert np.allclose(image.TransformIndexToPhysicalPoint(corner), wanted, atol=1e-4)


@pytest.mark.parametrize("scalar", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_any_scalar_type(scene, tmp_path, scalar):
    node = slicer.util.addVolumeFromArray(blob().astype(scalar))
    volumes.writeVolume(node, tmp_path / "volume.nrrd", SOLID)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "volume.nrrd"))), blob().astype(scalar))


@pytest.mark.parametrize("parent", [None, turned(20, (4, 0, -6))], ids=["no parent", "under a turn"])
def test_a_mask_from_all_segments(scene, tmp_path, parent):
    reference = volumeNode("Reference")
    wanted = blob() > 60
    node = segmentation(wanted, reference, parent)
    before = scene.GetNumberOfNodes()
    volumes.writeMask(node, tmp_path / "mask.nrrd", SOLID)
    assert scene.GetNumberOfNodes() == before
    image = sitk.ReadImage(str(tmp_path / "mask.nrrd"))
    if parent is not None:
        reference.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    index = indexToWorld(reference)
    found = np.zeros(wanted.shape, bool)
    for k, j, i in np.argwhere(sitk.GetArrayFromImage(image)):
        point = np.array(image.TransformIndexToPhysicalPoint((int(i), int(j), int(k))))
        voxel = np.rint(np.linalg.inv(index)[:3, :3] @ (point - index[:3, 3])).astype(int)
        found[tuple(voxel[::-1])] = True
    assert np.array_equal(found, wanted)


def test_a_mask_from_a_label_map(scene, tmp_path):
    node = slicer.util.addVolumeFromArray(
        (blob() > 60).astype(np.int16) * 5, nodeClassName="vtkMRMLLabelMapVolumeNode", name="Labels"
    )
    volumes.writeMask(node, tmp_path / "mask.nrrd", SOLID)
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nrrd")))
    assert array.dtype == np.uint8
    assert np.array_equal(array, blob() > 60)


def test_masks_are_used(logic):
    fixed, moving = pair()
    mask = segmentation(blob() > 60, fixed)
    result = logic.registerVolumes(fixed, moving, **{**FEW, "steps": 2}, fixedMask=mask)
    assert "fixed_mask" in result.report["inputs"]


def test_what_is_wrong_with_the_inputs_is_said_at_once(scene):
    fixed, moving = volumeNode("Fixed"), volumeNode("Moving", 2.0)
    assert checks.problem(fixed, moving) is None
    assert checks.notice(fixed, moving) is None
    flat = volumeNode("Flat", flat=True)
    constant = slicer.util.addVolumeFromArray(np.ones((5, 6, 7), np.float32), name="Constant")
    broken = slicer.util.addVolumeFromArray(np.full((5, 6, 7), np.inf, np.float32), name="Broken")
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    colour = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Colour")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 4, 4)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    colour.SetAndObserveImageData(image)
    nothing = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Nothing")
    removed = volumeNode("Removed")
    scene.RemoveNode(removed)
    for images, settings, words in (
        ((None, moving), {}, "Choose the fixed volume"),
        ((fixed, None), {}, "Choose the moving volume"),
        ((fixed, fixed), {}, "are the same"),
        ((fixed, removed), {}, "no longer in the scene"),
        ((fixed, empty), {}, "is empty"),
        ((fixed, scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Beating")), {}, "'Beating' is a sequence"),
        ((scene.AddNewNodeByClass("vtkMRMLModelNode", "Bone"), moving), {}, "'Bone' is not a volume"),
        ((fixed, constant), {}, "is constant"),
        ((fixed, broken), {}, "infinite"),
        ((fixed, colour), {}, "in colour"),
        ((fixed, flat), {}, "give two of the same kind"),
        ((fixed, moving), {"fixedMask": nothing}, "mask of the fixed image is empty"),
        (
            (fixed, moving),
            {"movingMask": scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")},
            "moving image is empty",
        ),
        ((fixed, moving), {"fixedLandmarks": scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")}, "both images"),
    ):
        text = checks.problem(*images, **settings)
        assert text is not None
        assert words in text
        assert "\n" not in text


def test_volumes_far_apart(scene):
    fixed, moving = volumeNode("Fixed"), volumeNode("Moving")
    far = np.eye(4)
    far[2, 3] = 500
    under(moving, far)
    assert "do not overlap" in checks.problem(fixed, moving, initial="none")
    assert checks.problem(fixed, moving) is None
    assert "searches" in checks.notice(fixed, moving)


def test_a_fixed_volume_that_was_registered_before(logic):
    fixed, moving, third = volumeNode("Fixed"), volumeNode("Moving", 2.0), volumeNode("Third", 1.0)
    logic.registerVolumes(fixed, moving, linear="none", initial="none", device="cpu", steps=1)
    assert checks.problem(moving, third) is None
    assert "before its own registration" in checks.notice(moving, third)
    assert checks.notice(fixed, moving) is None


def test_parents_that_are_not_linear(scene):
    fixed, moving = volumeNode("Fixed"), volumeNode("Moving")
    bent(moving)
    assert checks.problem(fixed, moving).startswith("'Moving' is under a non-linear transform: harden it first")
    parent = moving.GetParentTransformNode()
    moving.SetAndObserveTransformNodeID(None)
    assert "is not linear" in checks.problem(fixed, moving, initialTransform=parent)


def test_slices_that_cross(scene):
    fixed, moving = volumeNode("Fixed", flat=True), volumeNode("Moving", flat=True)
    assert checks.problem(fixed, moving) is None
    under(moving, turned(30, (0, 0, 0)))
    assert "parallel planes" in checks.problem(fixed, moving)


def test_a_mask_of_several_slices_does_not_fit_a_slice(scene, tmp_path):
    frame = Frame.of(volumeNode("Fixed", flat=True), volumeNode("Moving", flat=True))
    mask = slicer.util.addVolumeFromArray(np.ones((3, 20, 20), np.uint8), nodeClassName="vtkMRMLLabelMapVolumeNode")
    with pytest.raises(RegistrationError, match="draw it on the slice"):
        volumes.writeMask(mask, tmp_path / "mask.nrrd", frame)


def test_packages_are_looked_for_without_importing_them(monkeypatch):
    assert setup.ready()
    assert [part.name for part in setup.status()] == ["torch", *setup.PACKAGES.values(), "numba"]
    monkeypatch.setattr(setup.importlib.metadata, "version", lambda name: "2.2.1" if name == "torch" else "1.0")
    assert setup.missing() == ["torch"]
    assert "too old" in setup.status()[0].text
    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: None)
    assert not setup.ready()
    with pytest.raises(RegistrationError, match="extension PyTorch"):
        setup.install()


def test_weights_are_shown_and_deleted(tmp_path, monkeypatch):
    monkeypatch.setenv(setup.MODELS, str(tmp_path))
    for name, summary in (("good", "For brains."), ("bad", "For lungs.")):
        (tmp_path / name).mkdir()
        (tmp_path / name / setup.WEIGHTS).write_bytes(name.encode())
        card = {"summary": summary, "sha256": hashlib.sha256(b"good").hexdigest()}
        (tmp_path / name / setup.CARD).write_text(json.dumps(card), encoding="utf-8")
    bad, good = setup.weights()
    assert (good.name, good.size, good.text) == ("good", 4, "For brains.")
    assert "damaged" in bad.text
    (good.folder / setup.WEIGHTS).write_bytes(b"changed")
    assert "damaged" in setup.weights()[1].text
    (good.folder / setup.WEIGHTS).write_bytes(b"good")
    setup.deleteWeights("bad")
    assert [each.name for each in setup.weights()] == ["good"]
    with pytest.raises(RegistrationError, match="no weights 'bad'"):
        setup.deleteWeights("bad")


def test_setup_installs_what_the_library_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["fast"]
    names = {re.split(r"[<>=]", line)[0]: line for line in declared}
    assert names["torch"] == f"torch{setup.TORCH}"
    ours = {"torch", *setup.SLICERS, *setup.PACKAGES.values(), *setup.FAST.values()}
    assert set(names) == ours - {"scipy"}  # which the others bring


def test_installing_leaves_the_packages_of_slicer_alone(monkeypatch):
    asked = []
    packaging = types.SimpleNamespace(pip_ensure=lambda packages, requester: asked.append(packages))
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    monkeypatch.setattr(setup, "_torch", lambda: setup.Part("torch", "2.13", True, ""))
    parts = {"numba": setup.Part("numba", None, False, "")}
    monkeypatch.setattr(setup, "_part", lambda module, package: parts.get(package, setup.Part(package, "1", True, "")))
    assert setup.ready()  # it is only slower without
    with pytest.raises(RegistrationError, match="numba"):
        setup.install()
    pins = {f"{name}=={importlib.metadata.version(name)}" for name in setup.SLICERS}
    assert [set(packages) for packages in asked] == [{"numba"} | pins]


def test_segments_keep_their_names_and_places(scene, tmp_path):
    reference = volumeNode("Fixed")
    mask = (blob() > 60).astype(np.uint8)
    node = segmentation(mask, reference, turned(30, (4, -5, 6)))
    told = guiding.fields(guiding.Guide(fixedLabels=node, movingLabels=node, labels=["upper"]), SOLID, tmp_path)
    assert told["labels"] == ["upper"]
    labels = read_labels(told["fixed_labels"])
    assert list(labels) == ["lower", "upper"]
    index = np.argwhere(labels["upper"].inside)[:, ::-1]
    found = labels["upper"].volume.grid.physical(index).mean(axis=0)
    upper = np.argwhere(mask[10:])[:, ::-1] + [0, 0, 10]
    ras = np.append(upper.mean(axis=0) * 2 - 19, 1)
    assert found == pytest.approx((FLIP @ turned(30, (4, -5, 6)) @ ras)[:3], abs=1e-3)
    empty = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Empty")
    volumes.updateVolume(empty, np.zeros_like(mask), reference)
    with pytest.raises(RegistrationError, match="are empty"):
        guiding.fields(guiding.Guide(fixedLabels=empty), SOLID, tmp_path)
