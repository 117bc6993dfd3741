"""The Python interface with the real worker and the real scene."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="3D Slicer's core is not installed: pip install slicer-core")

import slicer
import slicer.util
import vtk
from blobs import ENDLESS, FEW, LONG, blob, look, pair, volumeNode
from RecurrentRegistrationSlicer import display, sampling
from RecurrentRegistrationSlicer.logic import RegistrationError, RegistrationLogic
from RecurrentRegistrationSlicer.process import WorkerProcess
from RecurrentRegistrationSlicer.quality import Progress


def until(logic: Any, happened: Callable[[], Any], timeout: float = 240) -> None:
    """Pump until something has happened."""
    began = time.monotonic()
    while not happened():
        logic.pump()
        time.sleep(0.002)
        assert time.monotonic() - began < timeout


def kinds(logic: Any) -> list[str]:
    """The events that listeners have been told."""
    return [event["event"] for event in logic.heard]


def error(result: Any) -> float:
    """Mean difference between the warped and the fixed image, as a part of what it was before."""
    inner = (slice(4, -4),) * 3
    warped = slicer.util.arrayFromVolume(result.warpedNode)
    return float(np.abs(warped - blob())[inner].mean() / np.abs(blob(3.0) - blob())[inner].mean())


def test_a_script_registers_and_takes_it_back(logic, scene):
    fixed, moving = pair()
    before = look(scene)
    result = logic.registerVolumes(fixed, moving, **{**FEW, "steps": 12}, displacement=True, inverse=True)
    assert error(result) < 0.4
    assert result.step == 12
    assert moving.GetParentTransformNode() is result.transformNode
    assert result.warpedNode.GetDisplayNode().GetColorNode() is moving.GetDisplayNode().GetColorNode()
    length = slicer.util.arrayFromVolume(result.displacementNode)
    assert 1.5 < length.max() < 6
    assert result.reportNode.GetTable().GetValueByName(3, "Value").ToString() == "12"
    assert result.report["inputs"]["moving"]["path"] == "Moving"
    for found in (result.inverseNode, result.jacobianNode):
        assert found.GetScene() is scene
    logic.revert()
    assert look(scene) == before


def test_steps_come_while_it_runs(logic, scene):
    fixed, moving = pair()
    run = logic.registerVolumes(fixed, moving, wait=False, **FEW)
    assert run.state == "starting"
    until(logic, lambda: run.keptSteps)
    assert moving.GetParentTransformNode() is run.stepTransformNode
    logic.wait()
    assert run.state == "done"
    assert run.keptSteps == list(range(7))
    assert run.selectedStep == 6
    assert [record["index"] for record in run.records] == list(range(1, 7))
    told = [event for event in logic.heard if event["event"] == "step"]
    assert [event["shown"] for event in told] == [True] * 6
    assert kinds(logic)[-1] == "done"
    assert {"phase", "note", "step", "done"} <= set(kinds(logic))
    composite = scene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    assert [composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()] == [fixed.GetID(), moving.GetID()]
    assert not list((run.folder / "steps").iterdir())


def test_the_slider_moves_the_image_and_says_so(logic, scene):
    run = logic.registerVolumes(*pair(), wait=False, **FEW)
    logic.wait()
    modified = []
    event = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
    run.movingNode.AddObserver(event, lambda *_: modified.append(1))
    images = []
    for step in (0, 3, 6):
        logic.selectStep(step)
        assert run.selectedStep == step
        images.append(sampling.warpedAtStep(run))
    assert len(modified) >= 3
    assert np.array_equal(images[0], slicer.util.arrayFromVolume(run.movingNode))
    errors = [np.abs(image - blob()).mean() for image in images]
    assert errors[0] > max(errors[1:])
    assert errors[1] != errors[2]
    marked = slicer.util.getNode("*marks").GetTable()
    assert marked.GetValueByName(0, "Step").ToDouble() == 6


def test_continue_refine_and_go_back(logic):
    run = logic.registerVolumes(*pair(), wait=False, **FEW)
    logic.wait()
    logic.continueRun(2)
    logic.wait()
    assert run.keptSteps[-1] == 8
    logic.refineRun(1)
    logic.wait()
    assert (run.keptSteps[-1], run.selectedStep) == (9, 9)
    logic.continueRun(1, step=4)
    logic.wait()
    assert run.keptSteps == [0, 1, 2, 3, 4, 5]
    assert [record["index"] for record in run.records] == [1, 2, 3, 4, 5]
    logic.acceptStep(3)
    logic.wait()
    first = run.result.transformNode
    assert run.result.step == 3
    logic.acceptStep(5, jacobian=False)
    logic.wait()
    assert run.result.transformNode is first
    assert run.result.jacobianNode is None
    assert run.movingNode.GetParentTransformNode() is first
    logic.showWarped(False)
    logic.selectStep(4)
    assert run.movingNode.GetParentTransformNode() is None
    logic.showWarped(True)
    assert run.movingNode.GetParentTransformNode() is run.stepTransformNode
    logic.selectStep(5)
    assert run.movingNode.GetParentTransformNode() is first  # the accepted step is the result, as fine as it is
    logic.showWarped(False)
    logic.showWarped(True)
    assert run.movingNode.GetParentTransformNode() is first
    logic.selectStep(2)
    assert run.movingNode.GetParentTransformNode() is run.stepTransformNode
    assert not [node for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode") if "Jacobian" in node.GetName()]


def test_stopping_is_prompt_and_keeps_the_steps(logic):
    run = logic.registerVolumes(*pair(), wait=False, **ENDLESS)
    until(logic, lambda: run.made >= 2)
    began = time.monotonic()
    logic.stop()
    logic.wait()
    assert time.monotonic() - began < 1
    assert run.state == "stopped"
    made = run.made
    logic.acceptStep()
    logic.wait()
    assert run.result.step == made
    logic.continueRun(1)
    logic.wait()
    assert run.made == made + 1


PHASES = {
    "starting": FEW,
    "read": ENDLESS,
    "align": {"device": "cpu", "initial": "none", "linear": "rigid"},
    "prepare": {"device": "cpu"},  # the search for a linear start, before its first step
    "deform": ENDLESS,
    "refine": {**FEW, "steps": 1, "refine": 10_000},
}


@pytest.mark.parametrize("phase", PHASES)
def test_cancelling_is_prompt_and_takes_the_scene_back(logic, scene, phase):
    volumes = pair()
    before = look(scene)
    logic.startWorker()
    until(logic, lambda: not logic._worker.pending)
    run = logic.registerVolumes(*volumes, wait=False, **PHASES[phase])
    if phase != "starting":
        until(logic, lambda: phase in [event.get("name") for event in logic.heard])
    began = time.monotonic()
    logic.cancel()
    assert look(scene) == before
    until(logic, lambda: "register" not in logic._worker.pending.values())
    assert time.monotonic() - began < 1
    assert run.state == "cancelled"


def test_twenty_runs_leave_nothing(logic, scene):
    volumes = pair(flat=True)
    before = look(scene)
    logic.startWorker()
    until(logic, lambda: logic.methods or not logic._worker.pending)
    process = logic._worker._process.pid
    for number in range(20):
        run = logic.registerVolumes(*volumes, wait=False, **{**FEW, "steps": 2})
        logic.wait()
        if number % 2:
            logic.acceptStep()
            logic.wait()
            assert run.result is not None
        logic.revert()
    until(logic, lambda: not logic._worker.pending)
    assert look(scene) == before
    assert logic._worker._process.pid == process
    assert list(logic._folder.iterdir()) == []


def test_slices_are_registered_as_slices(logic):
    fixed, moving = pair(flat=True)
    result = logic.registerVolumes(fixed, moving, **{**FEW, "steps": 10})
    assert slicer.util.arrayFromVolume(result.warpedNode).shape == (1, 20, 20)
    before = np.abs(blob(3.0, flat=True) - blob(flat=True)).mean()
    after = np.abs(slicer.util.arrayFromVolume(result.warpedNode) - blob(flat=True)).mean()
    assert after < 0.5 * before


def test_a_deleted_volume_ends_the_run(logic, scene):
    fixed, moving = pair()
    run = logic.registerVolumes(fixed, moving, wait=False, **ENDLESS)
    until(logic, lambda: run.made)
    scene.RemoveNode(fixed)
    assert kinds(logic)[-1] == "removed"
    assert logic.run is None
    assert moving.GetParentTransformNode() is None
    assert slicer.util.getNodesByClass("vtkMRMLSequenceNode") == []


def test_deleted_step_nodes_are_made_anew(logic, scene):
    run = logic.registerVolumes(*pair(), wait=False, **LONG)
    until(logic, lambda: run.keptSteps)
    scene.RemoveNode(run.tableNode)
    scene.RemoveNode(run.sequenceNode)
    assert run.keptSteps == []
    until(logic, lambda: run.keptSteps)
    logic.stop()
    logic.wait()
    assert run.state == "stopped"
    assert run.movingNode.GetParentTransformNode() is run.stepTransformNode
    assert run.tableNode.GetTable().GetNumberOfRows() == run.made


def test_a_closed_scene_ends_the_run(logic, scene):
    run = logic.registerVolumes(*pair(), wait=False, **ENDLESS)
    until(logic, lambda: run.made)
    scene.Clear(False)
    assert logic.run is None
    assert kinds(logic)[-1] == "removed"
    until(logic, lambda: not logic._worker.pending)
    assert logic.registerVolumes(*pair(), **{**FEW, "steps": 1}).step == 1


def test_a_killed_worker_is_told_and_started_again(logic):
    run = logic.registerVolumes(*pair(), wait=False, **LONG)
    until(logic, lambda: run.keptSteps)
    os.kill(logic._worker._process.pid, signal.SIGKILL)
    logic.wait()
    assert run.state == "failed"
    assert "ended from outside" in run.error
    assert run.keptSteps[:2] == [0, 10]
    assert not run.canContinue
    logic.selectStep(10)
    assert run.selectedStep == 10
    with pytest.raises(RegistrationError, match="no longer holds"):
        logic.continueRun(1)
    logic.acceptStep(10, inverse=True, displacement=True)  # the scene's own step is enough
    result = run.result
    assert result.step == 10
    assert run.movingNode.GetParentTransformNode() is result.transformNode
    assert np.abs(slicer.util.arrayFromVolume(result.warpedNode) - blob()).mean() < np.abs(blob(3.0) - blob()).mean()
    assert 0 < slicer.util.arrayFromVolume(result.jacobianNode).min() < 1
    there = result.transformNode.GetTransformFromParent().TransformPoint(1, 2, 3)
    back = result.inverseNode.GetTransformFromParent().TransformPoint(there)
    assert np.allclose(back, (1, 2, 3), atol=0.01)
    ended = next(event for event in logic.heard if event["event"] == "worker" and event["state"] == "ended")
    assert "ended from outside" in ended["text"]
    assert logic.registerVolumes(run.fixedNode, run.movingNode, **{**FEW, "steps": 1}).step == 1


def test_what_is_wrong_is_one_sentence(logic, scene):
    fixed, moving = pair()
    before = look(scene)
    for settings, words in (
        ({"method": "magic"}, "There is no method 'magic'"),
        ({"preset": "soup"}, "There is no preset"),
        ({"device": "cuda:7"}, "cuda"),
        ({"colour": "red"}, "There is no setting 'colour'"),
        ({"steps": 0}, "cannot be 0"),
    ):
        with pytest.raises(RegistrationError, match=words) as found:
            logic.registerVolumes(fixed, moving, **{**FEW, **settings})
        assert "\n" not in str(found.value)
        assert look(scene) == before
    with pytest.raises(RegistrationError, match="Choose the moving volume"):
        logic.registerVolumes(fixed, None)
    with pytest.raises(RegistrationError, match="register first"):
        logic.continueRun(1)


def test_the_memory_is_estimated(logic):
    fixed, moving = pair()
    logic.estimate(fixed, moving, **FEW)
    logic.wait()
    told = logic.heard[-1]
    assert told["event"] == "estimate"
    assert told["bytes"] > 1e8
    assert told["steps"] == 6
    logic.estimate(fixed, fixed, **FEW)
    assert logic.heard[-1]["event"] == "problem"


def test_landmarks_come_nearer(logic):
    fixed, moving = pair()
    nodes = []
    for name, shift in (("F", 0.0), ("M", 3.0)):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
        for point in ((8, 0, 0), (-8, 2, 0), (0, 6, -5)):
            node.AddControlPoint(vtk.vtkVector3d(point[0] + shift, *point[1:]))
        nodes.append(node)
    landmarks = {"fixedLandmarks": nodes[0], "movingLandmarks": nodes[1]}
    result = logic.registerVolumes(fixed, moving, **{**FEW, "steps": 9}, **landmarks)
    assert result.landmarks.before == pytest.approx(3.0)
    assert result.landmarks.after.mean() < 1.5
    assert "3.00 mm apart on average before" in result.landmarks.sentence


def markups(name: str, *points: tuple[float, float, float]) -> Any:
    """A list of landmarks, world RAS."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for point in points:
        node.AddControlPoint(vtk.vtkVector3d(*point), name)
    return node


def test_a_guide_is_corrected_at_once_and_a_step_back_undoes_it(logic):
    run = logic.registerVolumes(*pair(), wait=False, **FEW)
    logic.wait()
    logic.guideRun(fixedLandmarks=markups("vein", (6, 4, 2)), movingLandmarks=markups("vein", (9, 8, 2)))
    logic.wait()
    (told,) = [event for event in logic.heard if event["event"] == "guided"]
    (now,) = told["agreement"]["landmarks"]
    assert now["name"] == "vein"
    assert now["before_mm"] == pytest.approx(5)
    assert now["after_mm"] > 2
    logic.correctRun()
    logic.wait()
    (corrected,) = [event for event in logic.heard if event["event"] == "step" and event["phase"] == "correct"]
    assert corrected["index"] == run.selectedStep == 7
    assert corrected["landmarks_mm"]["vein"] < 0.5
    column = run.tableNode.GetTable().GetColumnByName("Landmark error (mm)")
    assert np.isnan(column.GetVariantValue(5).ToDouble())
    assert column.GetVariantValue(6).ToDouble() == pytest.approx(corrected["landmark_error_mm"])
    assert run.referred("landmarkSeries").GetYColumnName() == "Landmark error (mm)"
    assert run.referred("overlapSeries") is None
    assert Progress(run.node).records[-1]["landmark_error_mm"] == pytest.approx(corrected["landmark_error_mm"])
    logic.correctRun(fixedLandmarks=markups("far", (600, 4, 2)), movingLandmarks=markups("far", (9, 8, 2)))
    logic.wait()
    assert "outside the fixed image" in run.error
    assert run.keptSteps[-1] == 7
    logic.continueRun(1, step=6)
    logic.wait()
    assert run.keptSteps == list(range(8))
    with pytest.raises(RegistrationError, match="1 fixed and 0 moving"):
        logic.guideRun(fixedLandmarks=markups("alone", (6, 4, 2)))
    with pytest.raises(RegistrationError, match="no 'landmarks'"):
        logic.guideRun(landmarks=None)


def test_an_initial_transform_is_where_it_begins(logic):
    fixed, moving = volumeNode("Fixed"), volumeNode("Moving")
    away = np.eye(4)
    away[0, 3] = 60
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Away")
    parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(away))
    moving.SetAndObserveTransformNodeID(parent.GetID())
    back = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Back")
    back.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.linalg.inv(away)))
    result = logic.registerVolumes(fixed, moving, **{**FEW, "steps": 1}, initialTransform=back)
    assert np.abs(slicer.util.arrayFromVolume(result.warpedNode) - blob()).max() < 1
    assert result.transformNode.GetParentTransformNode() is parent


def test_the_linear_stage_alone_is_a_linear_transform(logic):
    fixed, moving = pair()
    result = logic.registerVolumes(fixed, moving, method="none", linear="rigid", initial="none", device="cpu")
    assert result.transformNode.IsLinear()
    assert result.report["method"] == "none"
    shift = np.array(result.transformNode.GetTransformFromParent().TransformPoint(0, 0, 0))
    assert np.abs(shift - (3, 0, 0)).max() < 0.7


def test_a_registered_volume_can_be_registered_again(logic, scene):
    fixed, moving = pair()
    first = logic.registerVolumes(fixed, moving, **FEW)
    before = look(scene)
    second = logic.registerVolumes(fixed, moving, **{**FEW, "steps": 2})
    assert moving.GetParentTransformNode() is second.transformNode
    assert second.transformNode.GetParentTransformNode() is None
    logic.revert()
    assert look(scene) == before
    assert moving.GetParentTransformNode() is first.transformNode


def test_pairs_one_after_the_other(logic):
    fixed, moving = pair(flat=True)
    solid = volumeNode("Solid")
    found = logic.registerPairs([(fixed, moving), (fixed, solid), (moving, fixed)], **{**FEW, "steps": 1})
    assert [getattr(each, "step", None) for each in found] == [1, None, 1]
    assert "give two of the same kind" in str(found[1])


def test_a_sequence_of_volumes(logic, scene):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Heart")
    sequence.SetIndexName("time")
    for n, shift in enumerate((3.0, 0.0, -3.0)):
        node = volumeNode("frame", shift, flat=True)
        sequence.SetDataNodeAtValue(node, str(n))
        scene.RemoveNode(node)
    found = logic.registerSequence(sequence, 1, **{**FEW, "steps": 8})
    assert [report is None for report in found.reports] == [False, True, False]
    assert found.sequenceNode.GetNumberOfDataNodes() == 3
    shifts = []
    for n in range(3):
        found.browserNode.SetSelectedItemNumber(n)
        shifts.append(found.transformNode.GetTransformFromParent().TransformPoint(6, 0, 0)[0] - 6)
    assert shifts[0] > 1
    assert shifts[1] == 0
    assert shifts[2] < -1
    volume = found.browserNode.GetProxyNode(sequence)
    assert volume.GetParentTransformNode() is found.transformNode
    with pytest.raises(RegistrationError, match="no frame 7"):
        logic.registerSequence(sequence, 7)


def test_comparisons_replace_each_other(logic):
    run = logic.registerVolumes(*pair(), wait=False, **FEW)
    logic.wait()
    difference = display.compare(run, "difference")
    array = slicer.util.arrayFromVolume(difference).copy()
    logic.selectStep(0)
    assert display.compare(run, "difference") is difference
    assert np.abs(slicer.util.arrayFromVolume(difference)).mean() > 1.2 * np.abs(array).mean()
    board = slicer.util.arrayFromVolume(display.compare(run, "checkerboard", tiles=4))
    fixed, moving = (display._scaled(image) for image in (blob(), blob(3.0)))
    assert np.allclose(board[10, 10, :10], np.hstack([fixed[10, 10, :5], moving[10, 10, 5:10]]))
    composite = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    assert composite.GetBackgroundVolumeID() == difference.GetID()
    display.compare(run, None)
    assert composite.GetBackgroundVolumeID() == run.fixedNode.GetID()
    assert difference.GetScene() is None


def test_grid_and_side_by_side(logic):
    run = logic.registerVolumes(*pair(), wait=False, **FEW)
    logic.wait()
    display.showGrid(run, True)
    shown = run.stepTransformNode.GetDisplayNode()
    assert (shown.GetVisibility2D(), shown.GetVisualizationMode()) == (1, shown.VIS_MODE_GRID)
    display.showGlyphs(run, True)
    assert (shown.GetVisibility3D(), shown.GetVisualizationMode()) == (0, shown.VIS_MODE_GLYPH)
    display.showGlyphs(run, False)
    assert not shown.GetVisibility()
    before = display.views()
    display.showSideBySide(run)
    yellow = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceCompositeNodeYellow")
    assert yellow.GetBackgroundVolumeID() == run.movingNode.GetID()
    assert yellow.GetLinkedControl()
    display.leaveSideBySide(run)
    assert display.views() == before


def test_what_the_worker_offers_is_known_even_after_a_cancel_while_it_starts(scene):
    logic = RegistrationLogic(WorkerProcess())
    logic.registerVolumes(*pair(flat=True), wait=False, **FEW)
    logic.cancel()
    until(logic, lambda: logic.methods and logic.devices)
    assert logic.devices[0]["name"] == "cpu"
    logic.shutdown()


def test_shutting_down_leaves_no_process_and_no_file(scene, tmp_path: Path):
    logic = RegistrationLogic(WorkerProcess())
    run = logic.registerVolumes(*pair(flat=True), wait=False, **ENDLESS)
    until(logic, lambda: run.made)
    process = logic._worker._process
    logic.shutdown()
    assert process.poll() is not None
    assert not list(tmp_path.glob("RecurrentRegistration-*"))
