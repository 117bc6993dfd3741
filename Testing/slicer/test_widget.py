"""The real panel on the real scene with the real worker process, clicked through as a user would."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("OMP_NUM_THREADS", "1")
slicer = pytest.importorskip("slicer", reason="3D Slicer's core is not installed: pip install slicer-core")
pytest.importorskip("slicer.util")
pytest.importorskip("PySide6.QtUiTools", reason="Qt is not installed: pip install PySide6-Essentials")

import host as desktop
import vtk
from RecurrentRegistrationSlicer.process import WorkerProcess, libraryFolder
from slicer_scene import boot

SIZE = (22, 20, 18)
LONG = 400  # steps of a run that is disturbed before its end


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[desktop.Host]:
    """The module, opened once for all tests of this file: its worker stays warm."""
    boot(tmp_path_factory.mktemp("slicer"))
    desktop.install()
    panel = desktop.Host()
    panel.open()
    yield panel
    invented = panel.invented()
    panel.close()
    assert not invented


@pytest.fixture
def ui(panel: desktop.Host) -> Any:
    """The widgets of the panel over an empty scene."""
    if panel.widget.logic.busy:
        panel.widget.logic.cancel()
        panel.until(lambda: not panel.widget.logic.busy)
    slicer.mrmlScene.Clear(False)
    return panel.widget.ui


def volume(name: str, shift: float = 0.0, array: np.ndarray | None = None) -> Any:
    """A volume node with a lop-sided blob, `shift` voxels from the middle."""
    k, j, i = np.mgrid[tuple(slice(n) for n in SIZE)].astype(float)
    radius = np.sqrt((k - 11) ** 2 + 1.4 * (j - 10) ** 2 + (i - 9 - shift) ** 2)
    blob = 90 / (1 + np.exp(radius - 6)) + 60 / (1 + np.exp(2 * (radius - 3))) + j
    return slicer.util.addVolumeFromArray(blob.astype(np.float32) if array is None else array, name=name)


def choose(ui: Any, fixed: Any, moving: Any, **settings: Any) -> None:
    """Choose two volumes, and what makes a run short, or long enough to be disturbed."""
    ui.fixedSelector.setCurrentNode(fixed)
    ui.movingSelector.setCurrentNode(moving)
    for name, value in ({"initial": "none", "linear": "none", "device": "cpu"} | settings).items():
        setattr(parameters(), name, value)


def parameters() -> Any:
    """The parameters of the panel."""
    from RecurrentRegistrationSlicer.panel.parameters import Parameters

    return Parameters(slicer.mrmlScene.GetSingletonNode("RecurrentRegistration", "vtkMRMLScriptedModuleNode"))


def nodes() -> list[str]:
    """What is in the scene."""
    scene = slicer.mrmlScene
    found = [scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())]
    return sorted(f"{node.GetID()} {node.GetName()}" for node in found)


def running(panel: desktop.Host, steps: int = 3) -> Callable[[], bool]:
    """Whether a run has made some steps."""
    return lambda: panel.widget.logic.run is not None and len(panel.widget.logic.run.keptSteps) >= steps


def idle(panel: desktop.Host) -> Callable[[], bool]:
    """Whether nothing is under way."""
    return lambda: not panel.widget.logic.busy


def test_an_empty_scene_says_what_to_do(panel, ui):
    assert not ui.applyButton.enabled
    assert "fixed" in ui.checkLabel.text
    assert all(not button.enabled for button in (ui.cancelButton, ui.stopButton, ui.acceptButton, ui.revertButton))
    assert ui.methodSection.collapsed
    assert ui.moreInputsSection.collapsed


def test_the_worker_fills_methods_and_devices(panel, ui):
    panel.until(lambda: ui.methodCombo.count > 5)
    ui.methodCombo.currentIndex = ui.methodCombo.findData("refine")
    assert parameters().method == "refine"
    assert "<b>" in ui.cardLabel.text
    assert "GB free" in ui.deviceCombo.itemText(ui.deviceCombo.findData("cpu"))
    choose(ui, volume("A"), volume("B", 2))
    ui.estimateButton.click()
    panel.until(lambda: "GB" in ui.memoryLabel.text)


def test_a_method_ends_by_itself_where_nothing_is_gained(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=LONG, stop="auto")
    ui.applyButton.click()
    panel.until(idle(panel))
    run = panel.widget.logic.run
    assert run.state == "done"
    assert 4 < run.made < LONG


def test_choose_apply_watch_stop_continue_accept_revert(panel, ui):
    fixed, moving = volume("Fixed"), volume("Moving", 2)
    choose(ui, fixed, moving, steps=LONG)
    assert ui.applyButton.enabled
    assert ui.checkLabel.text == "Ready."
    before = nodes()

    ui.applyButton.click()
    assert not ui.applyButton.enabled
    panel.until(running(panel, 4))
    run = panel.widget.logic.run
    assert moving.GetParentTransformNode() is not None
    assert ui.progressBar.maximum == LONG
    assert "step" in ui.progressBar.format

    second = run.keptSteps[2]
    ui.stepSlider.value = second + 0.4
    assert run.selectedStep == second
    assert f"Step {second} " in ui.stepLabel.text
    panel.until(lambda: run.keptSteps[-1] > second)
    assert run.selectedStep == second  # who looks at a step is not dragged along

    ui.stopButton.click()
    assert panel.until(idle(panel)) < 1
    assert run.state == "stopped"
    made = run.made
    assert 4 <= made < LONG

    ui.continueBox.value = 3
    ui.continueButton.click()
    panel.until(idle(panel))
    assert run.made == made + 3
    ui.refineMoreBox.value = 2
    ui.refineButton.click()
    panel.until(idle(panel))
    assert run.made == made + 5

    ui.stepSlider.value = float(run.keptSteps[-2])
    ui.acceptButton.click()
    panel.until(lambda: run.phase == "write")
    assert "Writing" in ui.progressBar.format
    assert "being written" in ui.statusLabel.text
    assert ui.cancelButton.enabled
    panel.until(lambda: run.result is not None)
    assert run.result.step == run.selectedStep
    assert "Finished" in ui.progressBar.format
    assert "Done" in ui.statusLabel.text
    assert moving.GetParentTransformNode().GetID() == run.result.transformNode.GetID()
    warped, target, start = (slicer.util.arrayFromVolume(n) for n in (run.result.warpedNode, fixed, moving))
    assert np.abs(warped - target).mean() < 0.5 * np.abs(start - target).mean()
    assert not ui.resultsSection.collapsed
    assert run.result.transformNode.GetName() in ui.resultLabel.text

    ui.revertButton.click()
    panel.until(idle(panel))
    assert moving.GetParentTransformNode() is None
    assert nodes() == before


@pytest.mark.parametrize(("method", "sent"), [("auto", False), ("refine", False), ("riir", True)])
def test_weights_are_for_the_method_that_takes_them(panel, ui, method, sent):
    from RecurrentRegistrationSlicer.panel.parameters import settings

    panel.until(lambda: ui.methodCombo.count > 5)
    parameters().weights = "model.safetensors"  # chosen for another method before
    parameters().method = method
    assert ui.weightsEdit.enabled == sent
    assert ("weights" in settings(parameters(), panel.widget.logic.methods)) == sent


def test_chosen_weights_are_sent_before_the_worker_is_ready(panel, ui):
    from RecurrentRegistrationSlicer.panel.parameters import settings

    parameters().weights, parameters().method = "model.safetensors", "riir"
    assert settings(parameters(), [])["weights"] == "model.safetensors"


def test_no_more_than_five_clicks_and_no_expert_option(panel, ui):
    fixed, moving = volume("Fixed"), volume("Moving", 2)
    parameters().linear = parameters().initial = "none"  # only to be quick
    parameters().steps = 8
    clicks = 0
    for selector, node in ((ui.fixedSelector, fixed), (ui.movingSelector, moving)):
        selector.setCurrentNode(node)
        clicks += 1
    ui.applyButton.click()
    panel.until(running(panel, 1))
    panel.until(idle(panel))
    ui.stepSlider.value = float(panel.widget.logic.run.keptSteps[-1])
    ui.acceptButton.click()
    clicks += 3
    panel.until(lambda: panel.widget.logic.run.result is not None)
    assert clicks <= 5


def test_cancel_is_prompt_and_takes_the_scene_back(panel, ui):
    fixed, moving = volume("Fixed"), volume("Moving", 2)
    choose(ui, fixed, moving, steps=LONG)
    before = nodes()
    for condition in (running(panel, 2), lambda: panel.widget.logic.busy):
        ui.applyButton.click()
        panel.until(condition)
        ui.cancelButton.click()
        assert panel.until(idle(panel)) < 1
        assert nodes() == before
        assert moving.GetParentTransformNode() is None


def test_a_volume_deleted_while_it_runs(panel, ui):
    fixed, moving = volume("Fixed"), volume("Moving", 2)
    choose(ui, fixed, moving, steps=LONG)
    ui.applyButton.click()
    panel.until(running(panel, 2))
    slicer.mrmlScene.RemoveNode(moving)
    assert panel.until(idle(panel)) < 2
    assert "reverted" in ui.statusLabel.text
    assert "moving volume" in ui.checkLabel.text
    assert not [node for node in nodes() if "Registration of" in node]


def test_the_steps_deleted_while_it_runs(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=LONG)
    ui.applyButton.click()
    panel.until(running(panel, 2))
    slicer.mrmlScene.RemoveNode(panel.widget.logic.run.sequenceNode)
    panel.until(running(panel, 2))  # the next step begins a new sequence
    ui.stopButton.click()
    assert panel.until(idle(panel)) < 2


def test_the_scene_closed_while_it_runs(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=LONG)
    ui.applyButton.click()
    panel.until(running(panel, 2))
    slicer.mrmlScene.Clear(False)
    assert panel.until(idle(panel)) < 2
    assert panel.widget.logic.run is None
    assert not ui.applyButton.enabled
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=3)
    ui.applyButton.click()
    panel.until(running(panel, 3))
    panel.until(idle(panel))


def spoiled(value: float) -> np.ndarray:
    """Voxels of which one is not a number."""
    array = np.random.default_rng(0).random(SIZE, dtype=np.float32)
    array[3, 4, 5] = value
    return array


def bent(volumeNode: Any) -> Any:
    """The volume under a transform that is not linear."""
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    points = [vtk.vtkPoints(), vtk.vtkPoints()]
    for point in ((0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9)):
        points[0].InsertNextPoint(point)
        points[1].InsertNextPoint(point[0] + point[1] ** 2 / 20, *point[1:])
    spline.SetSourceLandmarks(points[0])
    spline.SetTargetLandmarks(points[1])
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Bent")
    parent.SetAndObserveTransformToParent(spline)
    volumeNode.SetAndObserveTransformNodeID(parent.GetID())
    return volumeNode


def placed(volumeNode: Any, matrix: np.ndarray) -> Any:
    """The volume with this matrix from its indices to RAS."""
    volumeNode.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return volumeNode


def mask(name: str, size: tuple[int, int, int], value: int, spacing: float = 1.0) -> Any:
    """A label map of one value."""
    node = slicer.util.addVolumeFromArray(
        np.full(size, value, np.uint8), name=name, nodeClassName="vtkMRMLLabelMapVolumeNode"
    )
    node.SetSpacing(spacing, spacing, spacing)
    return node


def points(name: str, count: int) -> Any:
    """A markups node."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for n in range(count):
        node.AddControlPoint(n, n, n)
    return node


FAR = np.array([[1, 0, 0, 900.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
# what is chosen beside a good fixed volume, and words of the sentence beside the button
FORBIDDEN: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "none chosen": (lambda: {"movingVolume": None}, "Choose the moving volume"),
    "without voxels": (
        lambda: {"movingVolume": slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")},
        "is empty",
    ),
    "infinite": (lambda: {"movingVolume": volume("Inf", array=spoiled(np.inf))}, "infinite"),
    "constant": (lambda: {"movingVolume": volume("Flat", array=np.ones(SIZE, np.float32))}, "constant"),
    "a single slice": (lambda: {"movingVolume": volume("2D", array=spoiled(0)[:1])}, "single slice"),
    "colour": (
        lambda: {
            "movingVolume": slicer.util.addVolumeFromArray(
                np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8),
                name="RGB",
                nodeClassName="vtkMRMLVectorVolumeNode",
            )
        },
        "colour|Choose the moving",  # no selector offers it
    ),
    "the same twice": (lambda: {"movingVolume": slicer.util.getNode("Fixed")}, "are the same"),
    "singular axes": (
        lambda: {"movingVolume": placed(volume("Singular"), np.diag([1.0, 1.0, 0.0, 1.0]))},
        "do not span space",
    ),
    "apart, and not to be searched": (lambda: {"movingVolume": placed(volume("Far"), FAR)}, "do not overlap"),
    "under a non-linear transform": (lambda: {"movingVolume": bent(volume("Moving"))}, "harden"),
    "an empty mask": (lambda: {"fixedMask": mask("Nothing", SIZE, 0)}, "mask of the fixed image is empty"),
    "an empty segmentation": (
        lambda: {"movingMask": slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Nothing")},
        "mask of the moving image is empty",
    ),
    "landmarks in one volume": (lambda: {"fixedLandmarks": points("F", 2)}, "landmarks in both"),
    "unlike landmarks": (
        lambda: {"fixedLandmarks": points("F", 2), "movingLandmarks": points("M", 3)},
        "2 fixed and 3 moving",
    ),
}


def sentence(text: str, words: str) -> None:
    """Check that a text is one sentence, of which these words are a part."""
    assert re.search(words, text), text
    assert text.lstrip("'")[0].isupper()
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 250


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_forbids_a_run_is_said_beside_the_button(name, panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2))
    assert ui.applyButton.enabled
    make, words = FORBIDDEN[name]
    for parameter, node in make().items():
        setattr(parameters(), parameter, node)
    assert not ui.applyButton.enabled
    sentence(ui.checkLabel.text, words)
    assert ui.applyButton.toolTip == ui.checkLabel.text


# what only the worker finds out: settings, and words of its sentence
REFUSED = {
    "unknown method": ({"method": "magic"}, "no method 'magic'"),
    "unknown images": ({"preset": "pet"}, "no preset 'pet'|pet"),
    "a device that is not there": ({"device": "cuda:77"}, "cuda:77"),
    "weights that are not there": (
        {"method": "rwcnet", "weights": "/nowhere/w.safetensors"},
        "weights|no file|nowhere",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_worker_refuses_is_said_below_the_button(name, panel, ui):
    settings, words = REFUSED[name]
    choose(ui, volume("Fixed"), volume("Moving", 2), **settings)
    ui.applyButton.click()
    panel.until(idle(panel))
    sentence(ui.statusLabel.text, words)
    assert ui.applyButton.enabled


def test_a_volume_with_a_voxel_that_is_not_a_number(panel, ui):
    choose(ui, volume("Fixed"), volume("NaN", array=spoiled(np.nan)))
    if ui.applyButton.enabled:
        ui.applyButton.click()
        panel.until(idle(panel))
    sentence(ui.statusLabel.text or ui.checkLabel.text, "NaN")


def test_a_mask_of_another_grid_and_the_same_image_twice_go_through(panel, ui):
    fixed = volume("Fixed")
    choose(ui, fixed, volume("Copy"), steps=2)
    parameters().fixedMask = mask("Coarse", (7, 7, 7), 1, spacing=3)
    ui.applyButton.click()
    panel.until(idle(panel))
    assert panel.widget.logic.run.state == "done"
    assert "are the same" in ui.logText.toPlainText()


def test_too_little_memory(panel, ui, monkeypatch):
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from RecurrentRegistrationLib.pipeline import memory
from RecurrentRegistrationLib.worker import process
memory.available = lambda device: 2**20
process.serve()
"""
    poor = WorkerProcess([sys.executable, "-c", code, str(libraryFolder())])
    monkeypatch.setattr(panel.widget.logic, "_worker", poor)
    choose(ui, volume("Fixed"), volume("Moving", 2))
    ui.applyButton.click()
    panel.until(idle(panel))
    poor.close()
    sentence(ui.statusLabel.text, "memory")


def test_a_disk_that_cannot_be_written(panel, ui, monkeypatch, tmp_path):
    choose(ui, volume("Fixed"), volume("Moving", 2))
    before = nodes()
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setattr(panel.widget.logic, "_folder", tmp_path / "file")
    ui.applyButton.click()
    sentence(ui.statusLabel.text, "write|written|folder|space")
    assert nodes() == before
    assert ui.applyButton.enabled


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that kills")
def test_the_worker_killed_while_it_runs(panel, ui):
    fixed, moving = volume("Fixed"), volume("Moving", 2)
    choose(ui, fixed, moving, steps=LONG)
    ui.applyButton.click()
    panel.until(running(panel, 3))
    run = panel.widget.logic.run
    os.kill(panel.widget.logic._worker._served, signal.SIGKILL)
    panel.until(idle(panel))
    assert run.state == "failed"
    assert ui.statusLabel.text.endswith(".")
    assert len(run.keptSteps) >= 3
    ui.stepSlider.value = float(run.keptSteps[1])
    assert run.selectedStep == run.keptSteps[1]
    assert parameters().fixedVolume.GetID() == fixed.GetID()
    parameters().steps = 3
    ui.revertButton.click()
    assert ui.applyButton.enabled
    ui.applyButton.click()
    panel.until(running(panel, 3))
    panel.until(idle(panel))


def test_a_scene_saved_and_opened_again(panel, ui, tmp_path):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=6)
    parameters().makeInverse = True
    ui.applyButton.click()
    panel.until(running(panel, 3))
    panel.until(idle(panel))
    ui.acceptButton.click()
    panel.until(lambda: panel.widget.logic.run.result is not None)
    told, kept = ui.resultLabel.text, panel.widget.logic.run.keptSteps
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    assert ui.fixedSelector.currentNode() is None
    assert slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    run = panel.widget.logic.run
    assert run.state == "restored"
    assert run.keptSteps == kept
    assert ui.fixedSelector.currentNode().GetName() == "Fixed"
    assert ui.inverseBox.checked
    assert ui.stepsBox.value == 6
    assert ui.resultLabel.text == told
    assert ui.progressBar.format == f"Finished · {run.made} steps"
    ui.stepSlider.value = 1.0
    assert run.selectedStep == 1
    assert "Step 1 (" in ui.stepLabel.text
    assert ui.revertButton.enabled
    assert not ui.continueButton.enabled  # the worker no longer holds it
    ui.acceptButton.click()  # but a step in the scene is enough
    assert run.result.step == 1


def test_compare(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=4)
    ui.applyButton.click()
    panel.until(running(panel, 3))
    panel.until(idle(panel))
    composite = slicer.mrmlScene.GetSingletonNode("Red", "vtkMRMLSliceCompositeNode")
    ui.fadeSlider.value = 0.25
    assert composite.GetForegroundOpacity() == 0.25
    run = panel.widget.logic.run
    for kind in ("checkerboard", "difference"):
        ui.compareCombo.currentIndex = ui.compareCombo.findData(kind)
        assert composite.GetBackgroundVolumeID() == run.referred("comparison").GetID()
        assert not ui.fadeSlider.enabled
    first = slicer.util.arrayFromVolume(run.referred("comparison")).copy()
    ui.stepSlider.value = 0.0
    assert not np.array_equal(first, slicer.util.arrayFromVolume(run.referred("comparison")))
    ui.compareCombo.currentIndex = ui.compareCombo.findData("side by side")
    yellow = slicer.mrmlScene.GetSingletonNode("Yellow", "vtkMRMLSliceCompositeNode")
    assert yellow.GetBackgroundVolumeID() == run.movingNode.GetID()
    ui.compareCombo.currentIndex = 0
    assert composite.GetBackgroundVolumeID() == run.fixedNode.GetID()
    assert run.referred("comparison") is None
    ui.playButton.checked = True
    panel.until(lambda: run.selectedStep == run.keptSteps[-1])
    panel.until(lambda: not ui.playButton.checked)
    ui.previewBox.checked = False
    assert run.movingNode.GetParentTransformNode() is None
    ui.previewBox.checked = True
    assert run.movingNode.GetParentTransformNode() is not None


def finished(panel: desktop.Host) -> Any:
    """Press Apply and wait; the run."""
    panel.widget.ui.applyButton.click()
    panel.until(running(panel, 2))
    panel.until(idle(panel))
    return panel.widget.logic.run


def test_another_run_begins_in_the_plain_view(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=2)
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    before = layout.GetViewArrangement()
    finished(panel)
    ui.acceptButton.click()
    panel.until(lambda: panel.widget.logic.run.result is not None)
    ui.compareCombo.currentIndex = ui.compareCombo.findData("side by side")
    assert layout.GetViewArrangement() != before
    ui.applyButton.click()
    assert ui.compareCombo.currentIndex == 0
    assert layout.GetViewArrangement() == before
    panel.until(running(panel, 2))
    panel.until(idle(panel))
    ui.compareCombo.currentIndex = ui.compareCombo.findData("side by side")
    ui.runCombo.currentIndex = 0
    assert panel.widget.logic.run.result is not None
    assert ui.compareCombo.currentIndex == 0
    assert layout.GetViewArrangement() == before


def test_an_earlier_run_is_there_again_after_the_later_was_reverted(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=2)
    first = finished(panel)
    ui.acceptButton.click()
    panel.until(lambda: first.result is not None)
    assert "is the result" in ui.statusLabel.text
    second = finished(panel)
    assert second.node is not first.node
    ui.revertButton.click()
    assert panel.widget.logic.run.node is first.node
    assert ui.resultLabel.text.startswith("Step 2 is the result")
    assert ui.acceptButton.enabled
    ui.revertButton.click()
    assert panel.widget.logic.run is None
    assert not panel.widget.logic.runs()


def test_reverting_leaves_the_result_that_was_shown(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=2)
    moving = parameters().movingVolume
    for _ in range(2):
        run = finished(panel)
        ui.acceptButton.click()
        panel.until(lambda run=run: run.result is not None)
    ui.runCombo.currentIndex = 0
    shown = moving.GetParentTransformNode()
    finished(panel)
    ui.revertButton.click()
    assert "as it was" in ui.statusLabel.text
    assert moving.GetParentTransformNode() is shown
    assert ui.runCombo.currentIndex == 0


def test_reverting_ends_the_comparison(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=2)
    first = finished(panel)
    ui.acceptButton.click()
    panel.until(lambda: first.result is not None)
    finished(panel)
    ui.compareCombo.currentIndex = ui.compareCombo.findData("checkerboard")
    ui.revertButton.click()
    assert panel.widget.logic.run is first
    assert ui.compareCombo.currentIndex == 0
    assert ui.fadeSlider.enabled


def test_the_panel_is_entered_while_an_estimate_is_made(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=2)
    finished(panel)
    logic = panel.widget.logic
    logic.run = None
    ui.estimateButton.click()
    assert logic.busy
    panel.widget.enter()
    panel.until(idle(panel))


def test_a_result_of_a_failed_run_says_so(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=2)
    run = finished(panel)
    run.state, run.error, run.canContinue = "failed", "The worker ended.", False
    ui.acceptButton.click()
    assert "is the result" in ui.statusLabel.text


def test_boxes_tell_what_the_scene_shows(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=2)
    shown = lambda: [box.checked for box in (ui.previewBox, ui.gridBox, ui.glyphsBox)]  # noqa: E731
    first = finished(panel)
    assert shown() == [True, False, False]
    ui.gridBox.checked = True
    ui.glyphsBox.checked = True
    ui.previewBox.checked = False
    assert shown() == [False, False, True]
    ui.stepSlider.value = 1.0
    assert shown() == [False, False, True]
    ui.acceptButton.click()
    panel.until(lambda: first.result is not None)
    assert shown() == [True, False, True]  # the result deforms it
    finished(panel)
    assert shown() == [True, False, False]
    ui.runCombo.currentIndex = 0
    assert shown() == [True, False, True]


def test_without_torch(panel, ui, monkeypatch):
    from RecurrentRegistrationSlicer import setup

    choose(ui, volume("Fixed"), volume("Moving", 2))
    monkeypatch.setattr(setup, "ready", lambda: False)
    monkeypatch.setattr(setup, "missing", lambda: ["torch"])
    ui.refreshSetupButton.click()
    assert not ui.applyButton.enabled
    assert "Setup" in ui.checkLabel.text
    assert ui.installButton.enabled
    monkeypatch.undo()
    ui.refreshSetupButton.click()
    assert ui.applyButton.enabled
    assert not ui.installButton.enabled


def test_the_sentence_follows_what_is_done_to_the_nodes(panel, ui):
    choose(ui, volume("Fixed"), bent(volume("Moving")))
    assert not ui.applyButton.enabled
    slicer.util.getNode("Moving").SetAndObserveTransformNodeID(None)
    panel.until(lambda: ui.checkLabel.text == "Ready.", seconds=2)
    assert ui.applyButton.enabled
    parameters().fixedLandmarks, parameters().movingLandmarks = points("F", 3), points("M", 2)
    assert "3 fixed and 2 moving" in ui.checkLabel.text
    slicer.util.getNode("M").AddControlPoint(1, 2, 3)
    panel.until(lambda: ui.applyButton.enabled, seconds=2)


def test_a_background_that_is_no_number(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=3)
    ui.applyButton.click()
    panel.until(running(panel, 2))
    panel.until(idle(panel))
    ui.backgroundEdit.text = "dark"
    ui.acceptButton.click()
    sentence(ui.statusLabel.text, "'dark'")
    assert panel.widget.logic.run.result is None
    ui.backgroundEdit.text = "-1000"
    ui.acceptButton.click()
    panel.until(lambda: panel.widget.logic.run.result is not None)


def test_the_folder_of_the_weights_is_told_and_opened(panel, ui, monkeypatch, tmp_path):
    folder, opened = tmp_path / "Gewichte für später" / "Models", []
    monkeypatch.setenv("RECURRENT_REGISTRATION_MODELS", str(folder))
    monkeypatch.setattr(sys.modules["qt"].QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    ui.refreshSetupButton.click()
    assert str(folder) in ui.setupLabel.text
    ui.openWeightsButton.click()
    assert opened == [str(folder)]
    assert folder.is_dir()  # there is nothing to open otherwise
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("RECURRENT_REGISTRATION_MODELS", str(tmp_path / "file" / "Models"))
    ui.openWeightsButton.click()
    sentence(ui.statusLabel.text, "folder of the weights")
    assert len(opened) == 1
    monkeypatch.setenv("RECURRENT_REGISTRATION_MODELS", str(folder))
    (folder / "mine").mkdir()
    (folder / "mine" / "card.json").write_text("{}", encoding="utf-8")
    ui.refreshSetupButton.click()
    assert ui.weightsTable.rowCount == 1
    assert "damaged" in ui.weightsTable.item(0, 3).text()


@pytest.mark.parametrize(
    ("names", "words"),
    [((), "none are on this computer"), (("one",), "choose one.*: one$"), (("one", "two"), "choose one.*: one, two$")],
)
def test_the_weights_of_a_method_are_told(panel, ui, monkeypatch, tmp_path, names, words):
    monkeypatch.setenv("RECURRENT_REGISTRATION_MODELS", str(tmp_path))
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text('{"method": "rwcnet"}', encoding="utf-8")
    choose(ui, volume("Fixed"), volume("Moving", 2), method="rwcnet")
    assert re.search(words, ui.cardLabel.text, re.MULTILINE)
    assert [ui.weightsCombo.itemData(n) for n in range(ui.weightsCombo.count)] == ["", *names]
    if names:
        ui.weightsCombo.currentIndex = 1
        assert (parameters().weights, ui.weightsEdit.currentPath) == (names[0], names[0])
        parameters().weights = ""


def test_what_slicer_shows_of_the_module(panel, ui, monkeypatch):
    connected, registered = [], []
    monkeypatch.setattr(slicer.app, "connect", lambda *arguments: connected.append(arguments), raising=False)
    parent = SimpleNamespace()
    panel.module.RecurrentRegistration(parent)
    assert (parent.title, parent.categories) == ("Recurrent Registration", ["Registration"])
    assert connected[0][0] == "startupCompleted()"
    logic = SimpleNamespace(registerCustomSampleDataSource=lambda **source: registered.append(source))
    monkeypatch.setitem(sys.modules, "SampleData", SimpleNamespace(SampleDataLogic=logic))
    connected[0][1]()
    for source in registered:
        each = [source[name] for name in ("uris", "fileNames", "nodeNames", "checksums")]
        assert len({type(value) for value in each}) == 1
        assert len({len(value) if isinstance(value, list) else 1 for value in each}) == 1
        checksums, uris = np.atleast_1d(source["checksums"]), np.atleast_1d(source["uris"])
        assert all(uri.endswith(sha.removeprefix("SHA256:")) for sha, uri in zip(checksums, uris, strict=True))
    assert len(registered) == 2


def refuse(*command: Any, **options: Any) -> None:
    """Start no process: it would take seconds."""
    raise OSError("no process")


def test_reload_takes_everything_anew(panel, ui, monkeypatch):
    ours = {name: module for name, module in sys.modules.items() if name.startswith("RecurrentRegistration")}
    monkeypatch.setattr(subprocess, "Popen", refuse)
    reloaded = desktop.Host()
    old = reloaded.open()
    old.onReload()
    fresh = {name: module for name, module in sys.modules.items() if name.startswith("RecurrentRegistrationSlicer")}
    new = reloaded.widget
    sys.modules.update(ours)
    assert new is not old
    assert "RecurrentRegistrationSlicer.panel.run" in fresh
    assert not [name for name in fresh if fresh[name] is ours.get(name)]
    assert not old._timer.active  # the old panel is dead …
    assert new._timer.active  # … and the new one, which nobody enters, is alive
    choose(new.ui, volume("Fixed"), volume("Moving", 2))
    assert new.ui.checkLabel.text == "Ready."
    reloaded.close()


def test_the_module_s_own_test(panel, ui):
    panel.module.RecurrentRegistrationTest().runTest()


def test_stopped_before_the_deformation_there_is_nothing_to_continue(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=2)
    run = finished(panel)
    assert ui.continueButton.enabled
    run.stoppedIn = "align"
    panel.widget.update()
    assert not ui.continueButton.enabled
    assert not ui.refineButton.enabled
    assert ui.acceptButton.enabled


def test_step_0_is_nothing_to_accept(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=2)
    run = finished(panel)
    ui.stepSlider.value = 0.0
    assert run.selectedStep == 0
    assert not ui.acceptButton.enabled
    ui.stepSlider.value = 1.0
    assert ui.acceptButton.enabled


def test_after_reverting_slider_and_boxes_are_as_before_and_no_node_stays(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=2)
    before = nodes()
    finished(panel)
    for kind in ("checkerboard", "difference"):
        ui.compareCombo.currentIndex = ui.compareCombo.findData(kind)
        assert panel.widget.logic.run.referred("comparison").GetName() == "Moving compared"
        ui.compareCombo.currentIndex = 0
    ui.glyphsBox.checked = True
    ui.gridBox.checked = True
    ui.revertButton.click()
    assert nodes() == before
    assert ui.stepSlider.maximum == 1
    assert not any(box.checked for box in (ui.previewBox, ui.gridBox, ui.glyphsBox))


def test_runs_of_one_pair_are_numbered(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=2)
    for _ in range(2):
        run = finished(panel)
        ui.acceptButton.click()
        panel.until(lambda run=run: run.result is not None)
    names = [ui.runCombo.itemText(n) for n in range(ui.runCombo.count)]
    assert names == ["Moving onto Fixed", "Moving onto Fixed (2)"]


def test_a_hardened_volume_is_no_longer_shown_as_deformed(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=2)
    finished(panel)
    assert ui.previewBox.checked
    parameters().movingVolume.HardenTransform()
    panel.until(lambda: not ui.previewBox.checked, seconds=2)


def test_a_run_that_a_script_removes_is_not_blamed_on_a_volume(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=2)
    run = finished(panel)
    slicer.mrmlScene.RemoveNode(run.node)
    assert "deleted" not in ui.statusLabel.text
    assert "removed from the scene" in ui.statusLabel.text
    assert ui.runCombo.count == 0


def test_volumes_that_come_later_are_chosen(panel, ui):
    fixed, moving = volume("Fixed"), volume("Moving", 2)
    panel.until(lambda: ui.fixedSelector.currentNode() is not None, seconds=2)
    assert (parameters().fixedVolume.GetID(), parameters().movingVolume.GetID()) == (fixed.GetID(), moving.GetID())


def test_why_an_installation_failed_is_said_beside_its_button(panel, ui, monkeypatch):
    from RecurrentRegistrationSlicer import errors, setup

    def fail() -> str:
        raise errors.RegistrationError("monai could not be installed: no network.")

    monkeypatch.setattr(setup, "missing", lambda: ["monai"])
    monkeypatch.setattr(setup, "install", fail)
    ui.refreshSetupButton.click()
    ui.installButton.click()
    assert "no network" in ui.setupLabel.text
    monkeypatch.undo()
    monkeypatch.setattr(setup, "install", lambda: "")
    ui.installButton.enabled = True
    ui.installButton.click()
    assert "no network" not in ui.setupLabel.text


def test_the_report_names_what_is_needed_to_do_it_again(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=2)
    parameters().fixedMask = mask("Inside", SIZE, 1)
    run = finished(panel)
    ui.acceptButton.click()
    panel.until(lambda: run.result is not None)
    table = run.result.reportNode.GetTable()
    rows = {table.GetValue(n, 0).ToString(): table.GetValue(n, 1).ToString() for n in range(table.GetNumberOfRows())}
    assert re.fullmatch(r"Fixed, 18×20×22, SHA-256 [0-9a-f]{64}", rows["Fixed volume"])
    assert rows["Given: fixedMask"] == "Inside"
    assert rows["Option: steps"] == "2"
    assert rows["Version: SimpleITK"]
    words = rows["Command line"].split()
    assert words[:4] == ["recurrent-registration", "register", "Fixed.nrrd", "Moving.nrrd"]
    flags = dict(zip(words[4::2], words[5::2], strict=True))
    assert flags == {
        "--output": "registered",
        "--steps": "2",
        "--linear": "none",
        "--initial": "none",
        "--device": "cpu",
        "--fixed-mask": "Inside.nrrd",
    }


def test_the_best_step_says_so(panel, ui):
    choose(ui, volume("Fixed"), volume("Moving", 2), steps=2)
    run = finished(panel)
    run.best = 1
    for step, said in ((1, True), (2, False)):
        ui.stepSlider.value = float(step)
        assert ("best" in ui.stepLabel.text) == said
