"""Several registrations in one scene, and what is done to their nodes: what was accepted is never lost."""

from __future__ import annotations

import gc
import os
import shutil
import time
import weakref
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="3D Slicer's core is not installed: pip install slicer-core")

import slicer
import slicer.util
from blobs import ENDLESS, FEW, look, pair, volumeNode
from RecurrentRegistrationSlicer import checks, display, errors, quality, results
from RecurrentRegistrationSlicer.frame import matrixFromArray
from RecurrentRegistrationSlicer.logic import RegistrationError, RegistrationLogic
from RecurrentRegistrationSlicer.process import WorkerProcess
from RecurrentRegistrationSlicer.requests import PREFIX
from RecurrentRegistrationSlicer.steps import Steps
from test_logic import kinds, until

SHORT = {**FEW, "steps": 2}
RESULT = ("transformNode", "warpedNode", "jacobianNode", "reportNode")


def made(logic: Any, fixed: Any, moving: Any, **settings: Any) -> Any:
    """A run with its steps, not accepted."""
    run = logic.registerVolumes(fixed, moving, wait=False, **{**SHORT, **settings})
    logic.wait()
    return run


def accepted(logic: Any, fixed: Any, moving: Any, **settings: Any) -> Any:
    """A run with a result."""
    logic.registerVolumes(fixed, moving, **{**SHORT, **settings})
    return logic.run


def sentence(logic: Any) -> str:
    """The last that was told in words."""
    return next(event["text"] for event in reversed(logic.heard) if "text" in event)


@pytest.mark.parametrize("which", ["fixed", "moving"])
@pytest.mark.parametrize("shown", [1, 2])
def test_a_result_outlives_its_volumes(logic, scene, which, shown):
    volumes = dict(zip(("fixed", "moving"), pair(), strict=True))
    run = accepted(logic, volumes["fixed"], volumes["moving"])
    logic.selectStep(shown)
    result, steps = run.result, run.stepTransformNode
    scene.RemoveNode(volumes[which])
    assert all(getattr(result, name).GetScene() is scene for name in RESULT)
    assert result.jacobianNode.GetDisplayNode().GetColorNode().GetScene() is scene
    assert steps.GetScene() is None
    assert slicer.util.getNodesByClass("vtkMRMLSequenceNode") == []
    assert (logic.run, logic.runs()) == (None, [])
    assert (logic.heard[-1]["event"], logic.heard[-1]["accepted"]) == ("removed", True)
    if which == "fixed":
        assert volumes["moving"].GetParentTransformNode() is result.transformNode


def test_a_volume_of_another_run_is_deleted(logic, scene):
    fixed, moving = pair()
    first = accepted(logic, fixed, moving)
    second = made(logic, volumeNode("Other", -2.0), moving)
    scene.RemoveNode(fixed)
    assert first.result.warpedNode.GetScene() is scene
    assert logic.runs() == [second]
    assert logic.run is second
    assert second.canContinue


def test_another_run_is_looked_at_meanwhile(logic, scene):
    fixed, moving = pair()
    first = accepted(logic, fixed, moving)
    second = made(logic, volumeNode("Other", -2.0), moving)
    folder = second.folder
    assert moving.GetParentTransformNode() is second.stepTransformNode
    logic.adopt(logic.runs()[0])
    assert logic.run is first
    assert moving.GetParentTransformNode() is first.result.transformNode
    logic.selectStep(1)
    assert moving.GetParentTransformNode() is first.stepTransformNode
    logic.adopt(logic.runs()[1])
    assert logic.run is second
    assert moving.GetParentTransformNode() is second.stepTransformNode
    assert (second.state, second.canContinue) == ("done", True)
    logic.continueRun(1)
    logic.wait()
    logic.acceptStep()
    logic.wait()
    assert second.result.step == 3
    assert "coarser" not in " ".join(second.result.report["notes"])
    logic.revert()
    until(logic, lambda: not logic._worker.pending)
    assert not folder.exists()


def test_an_earlier_run_taken_back_leaves_the_worker_its_own(logic):
    fixed, moving = pair()
    first = accepted(logic, fixed, moving)
    second = made(logic, volumeNode("Other", -2.0), moving)
    logic.adopt(first)
    logic.revert()
    until(logic, lambda: not logic._worker.pending)
    logic.adopt(second)
    logic.continueRun(1)
    logic.wait()
    assert (second.made, second.state) == (3, "done")


def test_a_preview_that_is_off_stays_off(logic):
    fixed, moving = pair()
    first = accepted(logic, fixed, moving)
    made(logic, volumeNode("Other", -2.0), moving)
    logic.showWarped(False)
    logic.adopt(first)
    assert moving.GetParentTransformNode() is None


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_volume_ends_where_the_user_had_it(logic, scene, order):
    fixed, moving = pair()
    own = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Own")
    moving.SetAndObserveTransformNodeID(own.GetID())
    runs = [accepted(logic, fixed, moving), accepted(logic, fixed, moving)]
    for number in order:
        logic.adopt(runs[number])
        logic.revert()
    assert moving.GetParentTransformNode() is own
    assert logic.runs() == []


def test_a_refused_run_leaves_the_one_before(logic, scene):
    fixed, moving = pair()
    run = made(logic, fixed, moving)
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Nothing")
    segmentation.GetSegmentation().AddEmptySegment("empty")
    with pytest.raises(RegistrationError, match="empty"):
        logic.registerVolumes(fixed, moving, wait=False, fixedMask=segmentation, **SHORT)
    assert logic.run is run
    assert run.stepTransformNode.GetScene() is scene
    assert len(list(logic._folder.iterdir())) == 1
    logic.continueRun(1)
    logic.wait()
    assert run.made == 3


def test_a_new_run_takes_what_was_not_accepted_and_leaves_what_was_saved(logic, scene):
    fixed, moving = pair()
    first = made(logic, fixed, moving)
    logic._known.clear()  # as if the scene had been opened with it
    logic.run = None
    restored = logic.runs()[0]
    second = made(logic, volumeNode("Other", -2.0), volumeNode("Another", 2.0))
    assert restored.stepTransformNode.GetScene() is scene
    third = made(logic, second.fixedNode, second.movingNode)
    assert second.node.GetScene() is None
    assert [run.node for run in logic.runs()] == [first.node, third.node]


@pytest.mark.parametrize("command", ["continue", "refine", "accept"])
def test_cancelling_what_is_done_to_a_run_keeps_the_run(logic, scene, command):
    fixed, moving = pair()
    run = accepted(logic, fixed, moving)
    if command == "accept":
        logic.acceptStep(1, inverse=True)
    else:
        (logic.continueRun if command == "continue" else logic.refineRun)(100_000)
        until(logic, lambda: run.made > 3)
    began = time.monotonic()
    logic.cancel()
    logic.wait()
    assert time.monotonic() - began < 1
    assert run.result.step in (1, 2)  # the writing may have been quicker
    assert all(getattr(run.result, name).GetScene() is scene for name in RESULT)
    assert (logic.run, run.canContinue, run.phase) == (run, True, "")
    logic.acceptStep()
    logic.wait()
    assert run.result.step == run.made


def test_cancelling_nothing_does_nothing(logic):
    run = accepted(logic, *pair())
    logic.cancel()
    assert run.result.transformNode.GetScene() is not None


def test_a_result_that_is_not_applied(logic):
    fixed, moving = pair()
    result = logic.registerVolumes(fixed, moving, apply=False, **SHORT)
    assert moving.GetParentTransformNode() is None
    assert result.transformNode is not None
    logic.acceptStep(transform="none")
    logic.wait()
    assert moving.GetParentTransformNode() is None


def test_a_hardened_volume_is_not_deformed_again(logic, scene):
    fixed, moving = pair()
    run = accepted(logic, fixed, moving)
    moving.HardenTransform()
    for action in (lambda: logic.acceptStep(1), lambda: logic.showWarped(True)):
        with pytest.raises(RegistrationError, match="was changed since it was registered"):
            action()
    assert moving.GetParentTransformNode() is None
    logic.revert()
    assert logic.heard[-1]["event"] == "reverted"
    assert logic.heard[-1]["changed"]
    assert run.node.GetScene() is None


@pytest.mark.parametrize("change", ["place", "voxels"])
def test_any_change_of_the_moving_volume_is_seen(logic, change):
    fixed, moving = pair()
    accepted(logic, fixed, moving)
    if change == "place":
        moving.SetOrigin(0, 0, 0)
    else:
        slicer.util.arrayFromVolume(moving)[:] += 1
    with pytest.raises(RegistrationError, match="was changed"):
        logic.acceptStep()


def test_an_unchanged_volume_is_known_again_when_the_scene_is_opened(logic, scene, tmp_path):
    fixed, moving = pair()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    index = np.eye(4)
    index[:3, :3] = turn * (0.7, 1.1, 2.3)
    for node in (fixed, moving):
        node.SetIJKToRASMatrix(matrixFromArray(index))
    accepted(logic, fixed, moving)
    assert scene.WriteToMRB(str(tmp_path / "run.mrb"))
    scene.Clear(False)
    assert scene.ReadFromMRB(str(tmp_path / "run.mrb"))
    logic.adopt(logic.runs()[0])
    logic.acceptStep(1)
    assert logic.run.result.step == 1


def heart(scene: Any) -> Any:
    """A sequence of four frames."""
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Heart")
    for n, shift in enumerate((3.0, 0.0, -3.0, 1.0)):
        node = volumeNode("frame", shift, flat=True)
        sequence.SetDataNodeAtValue(node, str(n))
        scene.RemoveNode(node)
    return sequence


@pytest.mark.parametrize("how", ["stop", "cancel", "close"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_sequence_is_stopped(logic, scene, how, earlier):
    if earlier:
        accepted(logic, *pair(flat=True))
    action = {"stop": logic.stop, "cancel": logic.cancel, "close": lambda: scene.Clear(False)}[how]
    begun = []

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "frame":
            begun.append(event["frame"])

    logic.listeners.append(watch)
    sequence = heart(scene)
    pump, ticks = logic.pump, []

    def pumped() -> int:
        if len(begun) == 2 and logic.busy:
            ticks.append(1)
            if len(ticks) == 3:
                action()
        return pump()

    logic.pump = pumped
    with pytest.raises(RegistrationError):
        logic.registerSequence(sequence, 1, **{**FEW, "steps": 400})
    logic.pump = pump
    assert begun == [0, 2]
    assert not [node for node in slicer.util.getNodesByClass("vtkMRMLTransformNode") if "Heart" in node.GetName()]


def test_an_estimate_that_is_interrupted_says_so_and_leaves_no_file(logic):
    fixed, moving = pair()
    run = made(logic, fixed, moving)
    logic.estimate(fixed, moving, **FEW)
    logic.stop()
    logic.revert()
    until(logic, lambda: not logic._worker.pending)
    assert [event for event in kinds(logic) if event in ("problem", "estimate")]
    assert run.folder is None
    assert list(logic._folder.iterdir()) == []


def test_errors_go_with_the_next_action(logic):
    run = made(logic, *pair())
    logic.acceptStep(2, interpolation="curly")
    logic.wait()
    assert "curly" in run.error
    assert run.state == "done"
    logic.acceptStep()
    assert run.error == ""
    logic.wait()
    assert (run.state, run.result.step) == ("done", 2)


@pytest.mark.parametrize("failure", [MemoryError(), OSError(28, "No space left on device"), RuntimeError("ITK: no")])
def test_what_fails_while_nodes_are_made_is_told(logic, monkeypatch, failure):
    def broken(*_: Any) -> None:
        raise failure

    run = made(logic, *pair())
    monkeypatch.setattr(results, "load", broken)
    logic.acceptStep()
    logic.wait()
    assert logic.heard[-1]["event"] == "error"
    assert sentence(logic) == run.error == errors.sentence(failure)
    assert run.canContinue


def test_a_batch_goes_on_after_any_failure(logic, monkeypatch):
    fixed, moving = pair(flat=True)
    load, failures = results.load, [MemoryError()]

    def broken(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return load(*arguments)

    monkeypatch.setattr(results, "load", broken)
    found = logic.registerPairs([(fixed, moving), (fixed, moving)], **SHORT)
    assert [type(each).__name__ for each in found] == ["RegistrationError", "Result"]
    assert "memory" in str(found[0])


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "label", "bspline"])
def test_a_step_of_the_scene_is_resampled_as_the_worker_would(logic, interpolation):
    fixed, moving = pair()
    run = made(logic, fixed, moving)
    asked = {"interpolation": interpolation, "background": -777.0}
    logic.acceptStep(2, **asked)
    logic.wait()
    expected = slicer.util.arrayFromVolume(run.result.warpedNode).copy()
    run.canContinue = False
    logic.acceptStep(2, **asked)
    assert "coarser" in run.result.report["notes"][-1]
    found = slicer.util.arrayFromVolume(run.result.warpedNode)
    assert (found == -777).any()
    assert np.median(np.abs(found - expected)) < 0.5
    if interpolation == "nearest":
        assert set(np.unique(found)) <= {*np.unique(slicer.util.arrayFromVolume(moving)), -777.0}


def test_nobody_keeps_a_logic_alive(scene):
    logic = RegistrationLogic(WorkerProcess())
    logic.registerVolumes(*pair(flat=True), **SHORT)
    process, folder, gone = logic._worker._process, logic._folder, weakref.ref(logic)
    del logic
    gc.collect()
    assert gone() is None
    assert process.wait(20) == 0
    assert not folder.exists()
    scene.RemoveNode(slicer.util.getNode("Moving"))  # nobody hears of it


def test_files_that_an_earlier_session_left_are_swept(logic, tmp_path, monkeypatch):
    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path), raising=False)
    old, young, other = (tmp_path / name for name in (f"{PREFIX}old", f"{PREFIX}young", "Other"))
    for folder in (old, young, other):
        folder.mkdir()
    for folder in (old, other):
        os.utime(folder, (0, 0))
    logic._newFolder()
    assert [folder.exists() for folder in (old, young, other)] == [False, True, True]


def test_a_hardened_volume_is_not_deformed_by_another_run(logic):
    fixed, moving = pair()
    first = accepted(logic, fixed, moving)
    moving.HardenTransform()
    made(logic, volumeNode("Other", -2.0), moving)
    logic.adopt(first)
    assert moving.GetParentTransformNode() is None


@pytest.mark.parametrize("change", ["hardened", "cropped"])
def test_a_volume_that_is_changed_while_the_result_is_written(logic, change):
    fixed, moving = pair()
    run = made(logic, fixed, moving)
    logic.acceptStep()
    if change == "hardened":
        moving.HardenTransform()
    else:
        slicer.util.updateVolumeFromArray(fixed, slicer.util.arrayFromVolume(fixed)[2:, 2:, 2:].copy())
        fixed.SetOrigin(-15, -15, -15)
    logic.wait()
    assert run.result is None
    assert "since" in run.error
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == [fixed, moving]


def test_a_hardened_fixed_volume_is_where_it_was(logic, scene):
    fixed, moving = pair()
    own = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Own")
    own.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([1.0, 1.1, 1.0, 1.0])))
    fixed.SetAndObserveTransformNodeID(own.GetID())
    run = made(logic, fixed, moving)
    fixed.HardenTransform()
    logic.acceptStep()
    logic.wait()
    assert run.result is not None


@pytest.mark.parametrize("action", ["accept", "continue", "register"])
def test_a_worker_that_died_unheard(logic, worker, action):
    fixed, moving = pair(flat=True)
    run = made(logic, fixed, moving)
    events = worker._events
    worker._process.kill()
    while events.empty() or worker.isRunning:  # its last word is read by a thread, and comes before its end is known
        time.sleep(0.01)
    if action == "accept":
        logic.acceptStep()
        assert "coarser" in run.result.report["notes"][-1]
    elif action == "continue":
        with pytest.raises(RegistrationError, match="no longer holds"):
            logic.continueRun(1)
    else:
        run = made(logic, fixed, moving)
        assert logic._held is run
        worker._process.kill()
        until(logic, lambda: not worker.isRunning and not logic._held)
        assert not run.canContinue


def test_a_worker_that_cannot_be_started_leaves_everything(scene):
    fixed, moving = pair(flat=True)
    before = look(scene)
    logic = RegistrationLogic(WorkerProcess(["/nowhere/python"]))
    with pytest.raises(RegistrationError, match="cannot be started"):
        logic.registerVolumes(fixed, moving, **SHORT)
    assert (logic.run, look(scene)) == (None, before)
    logic.shutdown()


def test_a_refused_estimate_leaves_no_file(logic, scene):
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Nothing")
    segmentation.GetSegmentation().AddEmptySegment("empty")
    with pytest.raises(RegistrationError, match="empty"):
        logic.estimate(*pair(), fixedMask=segmentation, **FEW)
    assert list(logic._folder.iterdir()) == []


@pytest.mark.parametrize("how", ["stop", "close", "delete"])
def test_a_listener_stops_a_sequence_between_two_frames(logic, scene, how):
    begun = []
    sequence = heart(scene)
    actions = {"stop": logic.stop, "close": lambda: scene.Clear(False), "delete": lambda: scene.RemoveNode(sequence)}

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "frame":
            begun.append(event["frame"])
            if len(begun) == 2:
                actions[how]()

    logic.listeners.append(watch)
    with pytest.raises(RegistrationError):
        logic.registerSequence(sequence, 1, **SHORT)
    assert begun == [0, 2]


def test_frames_that_go_meanwhile_do_not_move_the_others(logic, scene):
    sequence = heart(scene)
    logic.listeners.append(lambda event: event.get("frame") == 2 and sequence.RemoveDataNodeAtValue("0"))
    found = logic.registerSequence(sequence, 1, **SHORT).sequenceNode
    maps = {value: found.GetDataNodeAtValue(value).GetTransformFromParent() for value in "0123"}
    shifts = [transform.TransformPoint(6, 0, 0)[0] - 6 for transform in maps.values()]
    assert np.sign(shifts).tolist() == [1, 0, -1, 1]


def test_a_sequence_registered_again_is_not_deformed_twice(logic, scene):
    sequence = heart(scene)
    logic.registerSequence(sequence, 1, **SHORT)
    found = logic.registerSequence(sequence, 2, **SHORT)
    assert found.transformNode.GetParentTransformNode() is None
    found.browserNode.SetSelectedItemNumber(3)
    assert checks.problem(volumeNode("Fixed", flat=True), found.browserNode.GetProxyNode(sequence)) is None


@pytest.mark.parametrize("applied", [True, False])
def test_a_deleted_step_transform_is_made_anew(logic, scene, applied):
    fixed, moving = pair()
    own = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Own")
    moving.SetAndObserveTransformNodeID(own.GetID())
    before = look(scene)
    run = made(logic, fixed, moving)
    results.removeNode(run.stepTransformNode)
    moving.SetAndObserveTransformNodeID(own.GetID())
    run.canContinue = False
    logic.acceptStep(apply=applied)
    assert not np.array_equal(slicer.util.arrayFromVolume(run.result.warpedNode), slicer.util.arrayFromVolume(moving))
    logic.selectStep(1)
    logic.showWarped(True)
    assert moving.GetParentTransformNode() is run.stepTransformNode
    assert run.stepTransformNode.GetParentTransformNode() is own
    logic.revert()
    assert look(scene) == before


def test_a_removed_run_takes_what_it_made(logic, scene):
    fixed, moving = pair()
    before = look(scene)
    run = made(logic, fixed, moving)
    scene.RemoveNode(run.node)
    assert (logic.run, look(scene)) == (None, before)


def test_a_run_of_what_another_one_made_ends_with_it(logic):
    fixed, moving = pair()
    first = accepted(logic, fixed, moving)
    made(logic, fixed, first.result.warpedNode)
    logic.adopt(first)
    logic.revert()
    assert logic.runs() == []
    assert "removed" in kinds(logic)


def test_an_unknown_interpolation_leaves_the_result_before(logic):
    run = accepted(logic, *pair())
    transform, run.canContinue = run.result.transformNode.GetTransformFromParent(), False
    with pytest.raises(RegistrationError, match="no interpolation 'curly'"):
        logic.acceptStep(1, interpolation="curly")
    assert run.result.transformNode.GetTransformFromParent() is transform


def test_a_background_that_the_voxels_cannot_hold(logic):
    fixed, moving = pair()
    slicer.util.updateVolumeFromArray(moving, slicer.util.arrayFromVolume(moving).astype(np.uint16))
    run = made(logic, fixed, moving)
    with pytest.raises(RegistrationError, match="from 0 to 65535"):
        logic.acceptStep(background=-1000)
    logic.acceptStep(background=0)
    logic.wait()
    assert run.result is not None


def test_steps_that_wait_to_be_shown_can_be_cancelled(logic, monkeypatch):
    add = Steps.add
    monkeypatch.setattr(Steps, "add", lambda *arguments: (time.sleep(0.1), add(*arguments)))
    run = logic.registerVolumes(*pair(flat=True), wait=False, **{**FEW, "steps": 30})
    until(logic, lambda: not logic._worker.pending)
    assert run.isRunning
    assert logic.busy
    logic.cancel()
    logic.wait()
    assert (run.state, logic.runs()) == ("cancelled", [])


def test_the_phase_is_known_again(logic):
    run = accepted(logic, *pair())
    logic.acceptStep(1)
    assert run.phase == "write"
    logic.wait()
    assert run.phase == ""
    logic.continueRun(1)
    assert run.phase == "deform"
    logic.wait()
    logic.continueRun(1)
    assert run.phase == "deform"
    logic.wait()
    assert run.phase == ""


def test_a_result_without_a_transform_hands_on_where_the_volume_was(logic, scene):
    fixed, moving = pair()
    own = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Own")
    moving.SetAndObserveTransformNodeID(own.GetID())
    first, second = accepted(logic, fixed, moving), accepted(logic, fixed, moving)
    logic.adopt(first)
    logic.acceptStep(transform="none")
    logic.adopt(second)
    logic.showWarped(True)
    logic.revert()
    assert moving.GetParentTransformNode() is own


def test_a_script_that_is_cancelled_takes_no_other_run_back(logic, scene):
    fixed, moving = pair()
    first = accepted(logic, fixed, moving)
    logic.listeners.append(lambda event: logic.adoptLatest() if event["event"] == "reverted" else None)  # as the panel
    logic.listeners.append(lambda event: logic.cancel() if event["event"] == "step" else None)
    with pytest.raises(RegistrationError, match="stopped"):
        logic.registerVolumes(fixed, moving, **ENDLESS)
    del logic.listeners[1:]
    assert logic.run is first
    assert first.result.transformNode.GetScene() is scene


def test_the_views_are_the_current_run_s(logic, scene):
    fixed = volumeNode("Saved")
    made(logic, fixed, volumeNode("With it", 2.0))
    logic._known.clear()  # as if the scene had been opened with it
    logic.run = None
    made(logic, *pair())
    before = display.views()
    scene.RemoveNode(fixed)
    assert display.views() == before


@pytest.mark.parametrize("step", [15, 20])
def test_steps_that_cannot_be_shown_are_no_start(logic, scene, step):
    run = made(logic, *pair(flat=True), steps=60)
    if step == 20:
        scene.RemoveNode(run.sequenceNode)
    with pytest.raises(RegistrationError, match="was not kept"):
        logic.continueRun(1, step=step)
    assert (run.made, run.state, logic.busy) == (60, "done", False)


def test_what_another_logic_accepted_outlives_its_volumes(scene, worker):
    panel, script = RegistrationLogic(worker), RegistrationLogic(worker)
    fixed, moving = pair()
    run = made(script, fixed, moving)
    panel.adopt(panel.runs()[-1])
    script.acceptStep()
    script.wait()
    script.disconnect()
    scene.RemoveNode(fixed)
    assert all(getattr(run.result, name).GetScene() is scene for name in RESULT)
    assert (panel.run, panel.runs()) == (None, [])
    until(script, lambda: not worker.pending)
    panel.disconnect()


def test_the_latest_run_that_leaves_the_scene_as_it_is(logic):
    fixed, moving = pair()
    first, second = accepted(logic, fixed, moving), accepted(logic, fixed, moving)
    for run, expected in ((first, first), (second, second)):
        logic.adopt(run)
        shown = moving.GetParentTransformNode()
        logic.run = None
        logic.adoptLatest()
        assert logic.run is expected
        assert moving.GetParentTransformNode() is shown


def test_many_steps_are_not_read_for_each_node_that_goes(logic, monkeypatch):
    made(logic, *pair(flat=True))
    logic._known.clear()
    logic.run = None
    read = []
    monkeypatch.setattr(quality.Progress, "_stored", lambda self: read.append(self) or [])
    slicer.mrmlScene.RemoveNode(volumeNode("Any"))
    assert read == []


def test_a_folder_that_somebody_tidied_up(logic):
    fixed, moving = pair(flat=True)
    accepted(logic, fixed, moving)
    shutil.rmtree(logic._folder)
    assert made(logic, fixed, moving).made == 2
