"""A scene that was saved and opened again has the same steps and results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="3D Slicer's core is not installed: pip install slicer-core")

import slicer
import slicer.util
from blobs import FEW, pair
from RecurrentRegistrationSlicer import sampling
from RecurrentRegistrationSlicer.logic import RegistrationError

POINT = (6.0, 4.0, -2.0)


def reopened(scene: Any, path: str) -> None:
    """Save the scene as a bundle, close it and open the bundle."""
    assert scene.WriteToMRB(path)
    scene.Clear(False)
    assert scene.ReadFromMRB(path)


def shown(run: Any, steps: list[int]) -> list[np.ndarray]:
    """Where the transform node takes a point at some steps."""
    found = []
    for step in steps:
        run.steps.select(step)
        found.append(np.array(run.stepTransformNode.GetTransformFromParent().TransformPoint(*POINT)))
    return found


def test_steps_and_results_come_back(logic, scene, tmp_path):
    run = logic.registerVolumes(*pair(), wait=False, **FEW)
    logic.wait()
    logic.acceptStep(5, displacement=True)
    logic.wait()
    run.keep("notes", [*run.notes, 'Odd: 3 µm < "5" & \\ so on'])
    steps, records, before = run.keptSteps, run.records, shown(run, [0, 2, 6])
    report, notes = run.result.report, run.notes
    warped = slicer.util.arrayFromVolume(run.result.warpedNode).copy()
    jacobian = run.result.jacobianNode.GetDisplayNode().GetColorNode().GetName()
    moved = np.array(run.result.transformNode.GetTransformFromParent().TransformPoint(*POINT))
    reopened(scene, str(tmp_path / "run.mrb"))

    (again,) = logic.runs()
    assert again.state == "restored"
    assert again.keptSteps == steps
    assert np.abs(np.array(shown(again, [0, 2, 6])) - before).max() < 1e-4
    assert [record["stage"] for record in again.records] == [record["stage"] for record in records]
    for name in ("index", "similarity", "mean_update_mm", "folding"):
        assert np.allclose([record[name] for record in again.records], [record[name] for record in records], atol=1e-4)
    assert again.result.step == 5
    assert again.result.report == report
    assert again.notes == notes
    assert np.allclose(slicer.util.arrayFromVolume(again.result.warpedNode), warped)
    assert again.result.jacobianNode.GetDisplayNode().GetColorNode().GetName() == jacobian
    assert again.movingNode.GetParentTransformNode() is again.result.transformNode
    found = again.result.transformNode.GetTransformFromParent().TransformPoint(*POINT)
    assert np.abs(np.array(found) - moved).max() < 0.05  # Slicer reads fields with cubic interpolation
    assert again.chartNode.GetNumberOfPlotSeriesNodes() == 4


def test_a_restored_run_can_be_looked_at_and_taken_back(logic, scene, tmp_path):
    fixed, moving = pair()
    before = sorted(node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"))
    logic.registerVolumes(fixed, moving, wait=False, **FEW)
    logic.wait()
    reopened(scene, str(tmp_path / "run.mrb"))
    (run,) = logic.runs()
    logic.adopt(run)
    logic.selectStep(3)
    assert run.selectedStep == 3
    assert sampling.warpedAtStep(run).shape == (20, 20, 20)
    with pytest.raises(RegistrationError, match="no longer holds"):
        logic.continueRun(1)
    logic.acceptStep(3)
    assert run.result.step == 3
    logic.revert()
    after = sorted(node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"))
    assert after == before
    assert slicer.util.getNode("Moving").GetParentTransformNode() is None
