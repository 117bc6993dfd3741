"""What a user sees: slice and 3D views drawn without a screen, and compared by what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="3D Slicer's core is not installed: pip install slicer-core")
pytest.importorskip("slicer.util")

import views
from RecurrentRegistrationSlicer import display
from RecurrentRegistrationSlicer.logic import RegistrationLogic
from slicer_scene import boot

if not views.canRender():
    pytest.skip("this machine cannot draw without a screen (EGL is missing)", allow_module_level=True)

SIZE = (160, 140)


@pytest.fixture(scope="module")
def logic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistrationLogic]:
    """A registration with a dozen steps, by the real worker, as it is being looked at."""
    boot(tmp_path_factory.mktemp("slicer"))
    logic = RegistrationLogic()
    settings = {"initial": "none", "linear": "none", "steps": 12, "device": "cpu"}
    logic.registerVolumes(ball("Fixed", 0), ball("Moving", 3), wait=False, **settings)
    logic.wait()
    yield logic
    logic.shutdown()


@pytest.fixture(scope="module")
def view(logic: RegistrationLogic) -> views.SliceView:
    """An axial slice through both volumes."""
    return views.SliceView("Red", "Axial", SIZE, logic.run.fixedNode)


def ball(name: str, shift: float) -> Any:
    """A volume with a lop-sided blob, `shift` voxels of 2 mm from the middle."""
    k, j, i = np.mgrid[:20, :22, :24].astype(float)
    radius = np.sqrt((k - 10) ** 2 + 1.3 * (j - 11) ** 2 + (i - 11 - shift) ** 2)
    blob = 90 / (1 + np.exp(radius - 6)) + 60 / (1 + np.exp(2 * (radius - 3)))
    node = slicer.util.addVolumeFromArray(blob.astype(np.float32), name=name)
    node.SetSpacing(2, 2, 2)
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(*np.percentile(blob, (1, 99)))
    return node


def apart(first: np.ndarray, second: np.ndarray) -> float:
    """Mean difference of two pictures, in grey values."""
    return float(np.abs(first.astype(float) - second).mean())


def coloured(picture: np.ndarray) -> int:
    """Number of pixels that are not grey: the images are grey, grid and arrows are not."""
    return int((np.ptp(picture.astype(int), axis=2) > 40).sum())


def alone(view: views.SliceView, fade: float) -> np.ndarray:
    """The fixed (0) or the moving (1) volume alone."""
    display.setFade(fade)
    return view.picture()


def test_each_step_brings_the_moving_volume_nearer(logic, view):
    target = alone(view, 0)
    assert target.max() > 200
    logic.selectStep(0)
    before = apart(alone(view, 1), target)
    logic.selectStep(logic.run.keptSteps[len(logic.run.keptSteps) // 2])
    between = apart(alone(view, 1), target)
    logic.selectStep(logic.run.keptSteps[-1])
    after = apart(alone(view, 1), target)
    assert after < between < before
    assert after < 0.35 * before


def test_fade(logic, view):
    logic.selectStep(0)
    pictures = [alone(view, value).astype(float) for value in (0, 0.5, 1)]
    assert apart(pictures[1], (pictures[0] + pictures[2]) / 2) < 2
    assert apart(pictures[0], pictures[2]) > 5


def test_the_warped_grid(logic, view):
    logic.selectStep(0)
    plain = alone(view, 0)
    assert coloured(plain) == 0
    display.showGrid(logic.run, True)
    logic.selectStep(logic.run.keptSteps[-1])
    bent = view.picture()
    assert coloured(bent) > 300
    logic.selectStep(logic.run.keptSteps[1])
    assert apart(view.picture(), bent) > 1  # the grid follows the step
    display.showGrid(logic.run, False)
    assert apart(view.picture(), plain) == 0


def test_arrows(logic, view):
    logic.selectStep(logic.run.keptSteps[-1])
    plain = alone(view, 0)
    display.showGlyphs(logic.run, True)
    assert coloured(view.picture()) > 100
    display.showGlyphs(logic.run, False)
    assert apart(view.picture(), plain) == 0


def test_the_grid_in_3d(logic):
    space = views.SpaceView(SIZE)
    logic.selectStep(logic.run.keptSteps[-1])
    assert coloured(space.picture()) == 0
    display.showGrid(logic.run, True)
    picture = space.picture()
    assert coloured(picture) > 1000
    rows, columns = np.nonzero(np.ptp(picture.astype(int), axis=2) > 40)
    assert np.ptp(rows) > SIZE[1] / 3
    assert np.ptp(columns) > SIZE[0] / 3
    display.showGrid(logic.run, False)
    assert coloured(space.picture()) == 0


def test_difference_and_checkerboard(logic, view):
    spread, disagreement = {}, {}
    target = alone(view, 0)
    for step in (0, logic.run.keptSteps[-1]):
        logic.selectStep(step)
        display.compare(logic.run, "difference")
        spread[step] = view.picture()[30:-30, 40:-40].astype(float).std()  # without the edge of the volume
        display.compare(logic.run, "checkerboard")
        disagreement[step] = apart(view.picture(), target)
        display.compare(logic.run, None)
    last = logic.run.keptSteps[-1]
    assert spread[last] < 0.6 * spread[0]
    assert disagreement[last] < 0.5 * disagreement[0]  # where two volumes agree, their checkerboard looks like either
