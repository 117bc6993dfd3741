"""What a user sees while a run is under way: drawings counted by VTK, views that keep their place, a steady panel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
slicer = pytest.importorskip("slicer", reason="3D Slicer's core is not installed: pip install slicer-core")
pytest.importorskip("slicer.util")
pytest.importorskip("PySide6.QtUiTools", reason="Qt is not installed: pip install PySide6-Essentials")

import host as desktop
import views
from live import watch
from slicer_scene import boot

if not views.canRender():
    pytest.skip("this machine cannot draw without a screen (EGL is missing)", allow_module_level=True)

QUICK = {"initial": "none", "linear": "none", "device": "cpu"}


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[desktop.Host]:
    """The module with a worker that is ready."""
    boot(tmp_path_factory.mktemp("slicer"))
    desktop.install()
    panel = desktop.Host()
    panel.open()
    panel.until(lambda: panel.widget.logic.methods)
    yield panel
    panel.close()


@pytest.fixture(scope="module")
def drawn(panel: desktop.Host) -> Any:
    """What was drawn during the registration of a small pair, which stays in the scene."""
    return watch(panel, 40, **QUICK, steps=60)


def test_the_picture_follows_the_worker(drawn):
    seen = set(drawn.steps) & set(drawn.kept)
    assert len(drawn.kept) > 10
    assert len(seen) > 0.3 * len(drawn.kept), drawn  # nearly all on a machine with nothing else to do
    assert drawn.steps == sorted(drawn.steps)
    assert drawn.steps[-1] == drawn.kept[-1]


def test_a_turn_of_the_timer_draws_once(drawn):
    assert len(drawn.steps) <= drawn.turns, drawn


def test_choosing_a_comparison_keeps_zoom_and_slice(panel, drawn):
    ui, red = panel.widget.ui, slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed")
    red.SetFieldOfView(11, 12, 1)
    red.SetSliceOffset(3)
    place = lambda: [*red.GetFieldOfView(), red.GetSliceOffset()]  # noqa: E731
    before = place()
    for kind in ("checkerboard", "difference", "side by side", ""):
        ui.compareCombo.currentIndex = ui.compareCombo.findData(kind)
        red.SetSliceOffset(red.GetSliceOffset() + 1)
        before[-1] += 1
        assert place() == pytest.approx(before)


def test_the_panel_keeps_its_width(panel, drawn):
    ui, run = panel.widget.ui, panel.widget.logic.run
    widths = {}

    def measure(name: str) -> None:
        panel.until(lambda: True)
        whole = panel.parent.layout().itemAt(0).widget()
        widths[name] = max(whole.minimumWidth, whole.minimumSizeHint().width())

    sections = ("inputs", "moreInputs", "method", "run", "log", "steps", "results", "compare", "setup")
    for name in sections:
        getattr(ui, f"{name}Section").collapsed = True
    measure("folded")
    for name in sections:
        getattr(ui, f"{name}Section").collapsed = False
        measure(name)
    for n in range(ui.methodCombo.count):
        ui.methodCombo.currentIndex = n
        measure(f"method {n}")
    ui.methodCombo.currentIndex = 0
    ui.stepSlider.value = float(run.keptSteps[2])
    measure("slider")
    ui.estimateButton.click()
    panel.until(lambda: not panel.widget.logic.busy)
    measure("estimate")
    ui.acceptButton.click()
    panel.until(lambda: run.result is not None)
    measure("accepted")
    for name in ("compareCombo", "runCombo", "presetCombo", "deviceCombo", "initialCombo"):
        getattr(ui, name).addItem("a choice with a very long name " * 5, "long")
    measure("long choices")
    ui.revertButton.click()
    measure("reverted")
    assert len(set(widths.values())) == 1, widths
