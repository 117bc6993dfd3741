"""Draw the extension's screenshots: two brains registered by the real panel, its slice and 3D views, the panel itself.

python Testing/slicer/pictures.py demo/data/mni152.nii.gz demo/data/colin27.nii.gz
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "RecurrentRegistration")]

import host as desktop
import SimpleITK as sitk
import slicer
import slicer.util
from PIL import Image, ImageDraw, ImageFont
from slicer_scene import boot
from views import SliceView

SIZE = (420, 540)
GAP = 4
FOLDER = ROOT / "Resources" / "Screenshots"
ORIENTATIONS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}


def main() -> None:
    """Register two files and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fixed", type=Path)
    parser.add_argument("moving", type=Path)
    parser.add_argument("--spacing", type=float, default=0.0, help="working resolution in mm; 0 for the default")
    chosen = parser.parse_args()
    boot(Path(tempfile.mkdtemp()))
    desktop.install()
    fixed, moving = (_loaded(path) for path in (chosen.fixed, chosen.moving))
    panel = desktop.Host()
    widget = panel.open()
    parameters = widget._panel.parameters
    parameters.spacing = chosen.spacing
    parameters.fixedVolume, parameters.movingVolume = fixed, moving
    views = {name: SliceView(name, orientation, SIZE, fixed) for name, orientation in ORIENTATIONS.items()}
    widget.ui.applyButton.click()
    panel.until(lambda: not widget.logic.busy, seconds=1800)
    FOLDER.mkdir(exist_ok=True)
    _steps(widget, views).save(FOLDER / "steps.png", optimize=True)
    _window(panel, views).save(FOLDER / "panel.png", optimize=True)
    panel.close()


def _loaded(path: Path) -> Any:
    image = sitk.ReadImage(str(path))
    node = slicer.util.addVolumeFromArray(sitk.GetArrayFromImage(image), name=path.name.partition(".")[0])
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.diag([-1, -1, 1, 1]) @ matrix))
    array = slicer.util.arrayFromVolume(node)
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(float(array.min()), float(np.percentile(array[array > 0], 99)))
    return node


def _steps(widget: Any, views: dict[str, SliceView]) -> Image.Image:
    """Three steps: the moving volume with the warped grid, and the difference from the fixed one."""
    ui, kept = widget.ui, widget.logic.run.keptSteps
    chosen = {kept[0]: "before", kept[len(kept) // 4]: "on the way", kept[-1]: "last step"}
    rows: list[list[Image.Image]] = [[], []]
    for step, words in chosen.items():
        ui.stepSlider.value = float(step)
        ui.fadeSlider.value = 1.0
        ui.gridBox.checked = True
        rows[0].append(_labelled(views["Red"].picture(), f"Step {step}: {words}"))
        ui.gridBox.checked = False
        ui.compareCombo.currentIndex = ui.compareCombo.findData("difference")
        rows[1].append(_labelled(views["Red"].picture(), "Fixed minus moving"))
        ui.compareCombo.currentIndex = 0
    return _tiled(rows)


def _window(panel: desktop.Host, views: dict[str, SliceView]) -> Image.Image:
    """The panel beside four views, after the last step was accepted."""
    widget = panel.widget
    ui, run = widget.ui, widget.logic.run
    ui.stepSlider.value = float(run.keptSteps[-1])
    ui.fadeSlider.value = 0.5
    ui.acceptButton.click()
    panel.until(lambda: run.result is not None and not widget.logic.busy, seconds=300)
    run.elapsed = 0.0  # not told: it is of this machine, and of all that it did meanwhile
    widget.update()
    over = [_labelled(views[name].picture(), "Moving over fixed") for name in ("Red", "Green")]
    ui.fadeSlider.value = 1.0
    ui.gridBox.checked = True
    grid = _labelled(views["Yellow"].picture(), "Moving, with the grid")
    ui.gridBox.checked = False
    ui.fadeSlider.value = 0.5
    composite = slicer.mrmlScene.GetSingletonNode("Yellow", "vtkMRMLSliceCompositeNode")
    composite.SetBackgroundVolumeID(run.result.jacobianNode.GetID())
    composite.SetForegroundVolumeID(None)
    volume = _labelled(views["Yellow"].picture(), "Volume change (Jacobian)")
    tiles = _tiled([[over[0], grid], [over[1], volume]])
    panel.parent.resize(460, max(tiles.height, panel.parent.sizeHint().height()))
    file = Path(tempfile.mkdtemp()) / "panel.png"
    panel.until(lambda: panel.parent.grab().save(str(file)))
    side = Image.open(file).convert("RGB")
    whole = Image.new("RGB", (side.width + GAP + tiles.width, max(side.height, tiles.height)), "black")
    whole.paste(side, (0, 0))
    whole.paste(tiles, (side.width + GAP, 0))
    return whole


def _labelled(picture: np.ndarray, text: str) -> Image.Image:
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text((10, 8), text, fill="white", font=ImageFont.load_default(18))
    return image


def _tiled(rows: list[list[Image.Image]]) -> Image.Image:
    width, height = rows[0][0].size
    whole = Image.new("RGB", ((width + GAP) * len(rows[0]) - GAP, (height + GAP) * len(rows) - GAP), "white")
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            whole.paste(image, (c * (width + GAP), r * (height + GAP)))
    return whole


if __name__ == "__main__":
    main()
