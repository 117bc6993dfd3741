"""What is drawn while a real worker registers: the panel beside three slice views, each drawing counted by VTK itself.

python Testing/slicer/live.py 40 128 192     # prints the counts for cubes of these sizes
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "RecurrentRegistration")]

import numpy as np
import slicer
import slicer.util
import vtk
from views import SliceView

SIZE = (128, 128)
ORIENTATIONS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}


@dataclass
class Drawn:
    """What one view has drawn during a run.

    Attributes:
        steps: the step that was selected at each drawing.
        lags: for each step when it was first drawn, seconds after its event had come.
        turns: turns of the panel's timer that took events.
        seconds: from the first step to the last.
        kept: steps that can be shown, 0 among them.
        waiting: the longest queue.
    """

    steps: list[int] = field(default_factory=list)
    lags: dict[int, float] = field(default_factory=dict)
    turns: int = 0
    seconds: float = 0.0
    kept: list[int] = field(default_factory=list)
    waiting: int = 0

    def __str__(self) -> str:
        seen = len(set(self.steps) & set(self.kept))
        return (
            f"{seen} of {len(self.kept)} kept steps drawn in {self.seconds:.1f} s, {seen / self.seconds:.1f} a second; "
            f"{len(self.steps)} drawings in {self.turns} turns, longest queue {self.waiting}, "
            f"at most {max(self.lags.values()):.2f} s behind"
        )


def cube(size: int, shift: float, name: str) -> Any:
    """A volume node with a lop-sided blob, moved along i by `shift` voxels."""
    k, j, i = (np.ogrid[:size, :size, :size][n].astype(np.float32) - size / 2 for n in range(3))
    radius = np.sqrt((i - shift) ** 2 + (0.8 * j) ** 2 + (1.2 * k) ** 2)
    array = 80 / (1 + np.exp((radius - size / 3) / 2)) + 10 * np.sin(12 * (i - shift) / size) + j / 8 + 20
    return slicer.util.addVolumeFromArray(array.astype(np.float32), name=name)


def watch(panel: Any, size: int, **settings: Any) -> Drawn:
    """Register two cubes in the panel, and watch the red view."""
    fixed, moving = cube(size, 0.0, "Fixed"), cube(size, size / 20, "Moving")
    widget, drawn = panel.widget, Drawn()
    views = [SliceView(name, orientation, SIZE, fixed) for name, orientation in ORIENTATIONS.items()]
    widget.ui.fixedSelector.setCurrentNode(fixed)
    widget.ui.movingSelector.setCurrentNode(moving)
    for name, value in settings.items():
        setattr(widget._panel.parameters, name, value)
    logic, heard = widget.logic, {}
    take, pump = logic._take, logic.pump

    def taken(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["display"]:
            heard[event["index"]] = event["heard"]
        take(event)

    def pumped() -> int:
        drawn.waiting = max(drawn.waiting, len(logic._waiting))
        count = pump()
        drawn.turns += count > 0
        return count

    def ended(*_: Any) -> None:
        if logic.run is not None and logic.run.selectedStep is not None:
            step = logic.run.selectedStep
            drawn.steps.append(step)
            if step in heard:
                drawn.lags.setdefault(step, time.monotonic() - heard[step])

    logic._take, logic.pump = taken, pumped
    views[0].window.AddObserver(vtk.vtkCommand.EndEvent, ended)
    slicer.app.views[:] = views
    widget.ui.applyButton.click()
    panel.until(lambda: logic.run is not None and len(logic.run.keptSteps) > 1)
    drawn.seconds = panel.until(lambda: not logic.busy, seconds=1200)
    panel.until(lambda: not any(view.due for view in views))
    del logic._take, logic.pump
    slicer.app.views.clear()
    drawn.kept = logic.run.keptSteps
    return drawn


def main() -> None:
    """Print what is drawn for cubes of some sizes."""
    import host as desktop
    from slicer_scene import boot

    boot(Path(tempfile.mkdtemp()))
    desktop.install()
    panel = desktop.Host()
    panel.open()
    panel.until(lambda: panel.widget.logic.methods)
    for size in (int(word) for word in sys.argv[1:]):
        slicer.mrmlScene.Clear(False)
        print(f"{size}³: {watch(panel, size)}", flush=True)
        panel.widget.logic.revert()
        panel.until(lambda: not panel.widget.logic.busy)
    panel.close()


if __name__ == "__main__":
    main()
