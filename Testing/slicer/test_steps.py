"""The steps as a sequence: one node follows, files are taken over, memory stays bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="3D Slicer's core is not installed: pip install slicer-core")

import slicer
from RecurrentRegistrationSlicer.frame import FLIP, ROLE, Frame
from RecurrentRegistrationSlicer.steps import Steps

SOLID = Frame(3, np.eye(4))
GRID = {"size": [4, 5, 6], "spacing": [2, 2, 2], "origin": [-3, -4, -5], "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1]}


def written(folder: Path, x: float) -> dict[str, Any]:
    """A step of the worker that moves everything by x mm towards the left (LPS)."""
    path = folder / f"step-{x}.npy"
    vectors = np.zeros((*GRID["size"][::-1], 3), np.float32)
    vectors[..., 0] = x
    np.save(path, vectors)
    return {"path": str(path), **GRID}


@pytest.fixture
def steps(scene: Any, tmp_path: Path) -> Steps:
    """Three steps: nothing, 1 mm, 5 mm."""
    steps = Steps.create("Run")
    for index, x in ((1, 1.0), (5, 5.0)):
        steps.add(index, written(tmp_path, x), SOLID, FLIP)
    return steps


def moved(steps: Steps) -> float:
    """How far the node that shows a step moves a point towards the left."""
    return -steps.transformNode.GetTransformFromParent().TransformPoint(0, 0, 0)[0]


def test_the_node_follows_the_selection(steps):
    assert steps.indices == [0, 1, 5]
    for index, wanted in ((0, 0), (1, 1), (3, 1), (5, 5), (9, 5)):
        steps.select(index)
        assert moved(steps) == pytest.approx(wanted)
    assert steps.selected == 5


def test_one_node_is_all_that_the_scene_shows(steps, scene):
    nodes = [scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())]
    assert [node for node in nodes if node.IsA("vtkMRMLTransformNode")] == [steps.transformNode]
    assert steps.transformNode.GetAttribute(ROLE) == "step"
    assert steps.sequenceNode.GetIndexName() == "step"


def test_events_tell_of_every_selection(steps):
    heard = []
    steps.transformNode.AddObserver(slicer.vtkMRMLTransformNode.TransformModifiedEvent, lambda *_: heard.append(1))
    steps.select(1)
    steps.select(5)
    assert len(heard) == 2


def test_the_files_are_gone_and_the_steps_are_not(steps, tmp_path):
    assert not list(tmp_path.glob("*.npy"))
    steps.select(1)
    assert moved(steps) == pytest.approx(1)


def test_the_displacements_are_mapped_not_copied(steps):
    scalars = steps.sequenceNode.GetNthDataNode(2).GetTransformFromParent().GetDisplacementGrid().GetPointData()
    array = scalars.GetScalars()
    address = int(array.GetVoidPointer(0).split("_")[1], 16) if isinstance(array.GetVoidPointer(0), str) else None
    lines = Path("/proc/self/maps")
    if address is None or not lines.exists():
        pytest.skip("needs Linux to look at the memory")
    ranges = [line.split() for line in lines.read_text(encoding="utf-8").splitlines() if ".npy" in line]
    assert any(int(low, 16) <= address < int(high, 16) for low, high in (row[0].split("-") for row in ranges))


def test_later_steps_are_dropped(steps, tmp_path):
    steps.select(5)
    steps.forgetAfter(1)
    assert steps.indices == [0, 1]
    assert moved(steps) == pytest.approx(1)
    steps.add(2, written(tmp_path, 2.0), SOLID, FLIP)
    steps.select(2)
    assert moved(steps) == pytest.approx(2)


def test_somebody_else_may_turn_the_browser(steps):
    steps.browserNode.SetSelectedItemNumber(1)
    assert steps.selected == 1
    assert moved(steps) == pytest.approx(1)
