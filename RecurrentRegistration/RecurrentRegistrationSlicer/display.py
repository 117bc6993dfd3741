"""How a run is looked at: moving over fixed, fade, difference, checkerboard, the warped grid, side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import slicer.util

from RecurrentRegistrationSlicer import volumes
from RecurrentRegistrationSlicer.errors import RegistrationError
from RecurrentRegistrationSlicer.frame import arrayFromMatrix, matrixFromArray, parentTransform
from RecurrentRegistrationSlicer.rendering import paused
from RecurrentRegistrationSlicer.results import removeNode
from RecurrentRegistrationSlicer.runs import Run
from RecurrentRegistrationSlicer.sampling import warpedAtStep

LAYERS = ("Background", "Foreground", "Label")
SIDE_BY_SIDE = slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView
GRID_LINES = 24  # along the longest side of the fixed image
COMPARISONS = ("difference", "checkerboard")


def views() -> dict[str, Any]:
    """What the slice views show and where they look, as plain numbers and names, to be restored."""
    layout = _layoutNode()
    return {
        "layout": None if layout is None else layout.GetViewArrangement(),
        "composites": {node.GetID(): _composition(node) for node in _nodes("vtkMRMLSliceCompositeNode")},
        "slices": {node.GetID(): _view(node) for node in _nodes("vtkMRMLSliceNode")},
    }


@paused()
def restore(stored: dict[str, Any] | None) -> None:
    """Make the views what they were when `views` was asked."""
    for name, fields in stored["composites"].items() if stored else ():
        node = slicer.mrmlScene.GetNodeByID(name)
        if node is not None:
            _compose(node, fields)
    for name, fields in stored["slices"].items() if stored else ():
        node = slicer.mrmlScene.GetNodeByID(name)
        if node is not None:
            _look(node, fields)
    layout = _layoutNode()
    if layout is not None and stored and stored["layout"] is not None:
        layout.SetViewArrangement(stored["layout"])


def arrange(run: Run) -> None:
    """Begin to look at a run: the preview, as a whole where the views showed another image; later nothing is fitted."""
    fixed = run.fixedNode.GetID()
    seen = [node.GetBackgroundVolumeID() for node in _nodes("vtkMRMLSliceCompositeNode")]
    showPreview(run)
    if fixed not in seen:
        fit()


@paused()
def showPreview(run: Run) -> None:
    """The moving volume, deformed by the selected step, over the fixed one; where the views look stays as it is."""
    for node in _nodes("vtkMRMLSliceCompositeNode"):
        node.SetBackgroundVolumeID(run.fixedNode.GetID())
        node.SetForegroundVolumeID(run.movingNode.GetID())
        node.SetForegroundOpacity(0.5)


def fit() -> None:
    """Let the slice views show the whole of what is in them."""
    slicer.app.applicationLogic().FitSliceToAll()


@paused()
def setFade(value: float) -> None:
    """From the fixed image alone (0) to the moving image alone (1)."""
    for node in _nodes("vtkMRMLSliceCompositeNode"):
        node.SetForegroundOpacity(value)


def showGrid(run: Run, on: bool) -> None:
    """The grid of the fixed image as the selected step deforms it, in slice and 3D views."""
    _showTransform(run, on, slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID)


def showGlyphs(run: Run, on: bool) -> None:
    """Arrows from fixed points to where the selected step takes them, in slice views."""
    _showTransform(run, on, slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GLYPH)


def isWarped(run: Run) -> bool:
    """Whether the moving volume is shown deformed, by a step or a result."""
    node = run.movingNode
    return node is not None and node.GetParentTransformNode() is not parentTransform(node)


def isGridShown(run: Run) -> bool:
    """Whether the views show the grid."""
    return _isTransformShown(run, slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID)


def areGlyphsShown(run: Run) -> bool:
    """Whether the views show the arrows."""
    return _isTransformShown(run, slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GLYPH)


@paused()
def showSideBySide(run: Run) -> None:
    """Fixed and moving image in two linked views; `leaveSideBySide` goes back."""
    layout = _layoutNode()
    if layout is None:
        raise RegistrationError("There is no layout to change.")
    run.keep("sideBySide", views())
    layout.SetViewArrangement(SIDE_BY_SIDE)
    for node in _nodes("vtkMRMLSliceCompositeNode"):
        shown = {"Red": run.fixedNode, "Yellow": run.referred("warped") or run.movingNode}.get(node.GetLayoutName())
        node.SetLinkedControl(True)
        if shown is not None:
            node.SetBackgroundVolumeID(shown.GetID())
            node.SetForegroundVolumeID(None)
    red, yellow = (slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceNode{name}") for name in ("Red", "Yellow"))
    if red is not None and yellow is not None:
        _look(yellow, _view(red))


@paused()
def leaveSideBySide(run: Run) -> None:
    """Back to what the views showed before; where they look stays as it is, but for the view that followed another."""
    stored = run.kept("sideBySide")
    if stored:
        places = {name: place for name, place in stored["slices"].items() if name == "vtkMRMLSliceNodeYellow"}
        restore({**stored, "slices": places})


@paused()
def compare(run: Run, kind: str | None, tiles: int = 8) -> Any:
    """Show a volume that compares the fixed image with the moving one at the selected step.

    Args:
        run: the run.
        kind: "difference", "checkerboard", or None to go back to the moving image over the fixed one.
        tiles: of the checkerboard along the longest side.

    Returns:
        The volume node; None for no comparison.
    """
    if kind is None:
        removeNode(run.referred("comparison"))
        showPreview(run)
        return None
    if kind not in COMPARISONS:
        raise RegistrationError(f"There is no comparison '{kind}': choose {' or '.join(COMPARISONS)}.")
    fixed = _scaled(slicer.util.arrayFromVolume(run.fixedNode))
    moving = _scaled(warpedAtStep(run))
    array = fixed - moving if kind == "difference" else np.where(_board(fixed.shape, tiles), fixed, moving)
    node = run.referred("comparison")
    if node is None:
        node = volumes.addVolume(array, run.fixedNode, f"{run.movingNode.GetName()} compared")
        run.refer("comparison", node)
    else:
        volumes.updateVolume(node, array, run.fixedNode)
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(-1.0 if kind == "difference" else 0.0, 1.0)
    for composite in _nodes("vtkMRMLSliceCompositeNode"):
        composite.SetBackgroundVolumeID(node.GetID())
        composite.SetForegroundVolumeID(None)
    return node


def _scaled(array: np.ndarray) -> np.ndarray:
    """Intensities from 0 to 1 between the 1st and the 99th percentile, float32."""
    low, high = np.percentile(array[tuple(slice(None, None, max(1, n // 64)) for n in array.shape)], (1, 99))
    return np.clip((array.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)


def _board(shape: tuple[int, ...], tiles: int) -> np.ndarray:
    """Where the first of two images is shown in a checkerboard."""
    side = max(1, max(shape) // tiles)
    squares = [np.arange(n) // side for n in shape]
    return (squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]) % 2 == 0


@paused()
def _showTransform(run: Run, on: bool, mode: int) -> None:
    node = run.stepTransformNode
    if node is None:
        return
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    shown = node.GetDisplayNode()
    spans = [
        n * s for n, s in zip(run.fixedNode.GetImageData().GetDimensions(), run.fixedNode.GetSpacing(), strict=True)
    ]
    shown.SetVisualizationMode(mode)
    shown.SetGridSpacingMm(max(spans) / GRID_LINES)
    shown.SetGlyphSpacingMm(max(spans) / GRID_LINES)
    shown.SetAndObserveRegionNode(run.fixedNode)
    shown.SetVisibility(on)
    shown.SetVisibility2D(on)
    shown.SetVisibility3D(on and mode == slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID)


def _isTransformShown(run: Run, mode: int) -> bool:
    shown = run.stepTransformNode.GetDisplayNode() if run.stepTransformNode is not None else None
    return shown is not None and bool(shown.GetVisibility()) and shown.GetVisualizationMode() == mode


def _nodes(kind: str) -> list[Any]:
    return list(slicer.util.getNodesByClass(kind))


def _layoutNode() -> Any:
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")


def _composition(node: Any) -> dict[str, Any]:
    volumes = {layer: getattr(node, f"Get{layer}VolumeID")() for layer in LAYERS}
    opacities = {layer: getattr(node, f"Get{layer}Opacity")() for layer in LAYERS[1:]}
    return {"volumes": volumes, "opacities": opacities, "linked": node.GetLinkedControl()}


def _compose(node: Any, fields: dict[str, Any]) -> None:
    for layer, volume in fields["volumes"].items():
        known = volume is not None and slicer.mrmlScene.GetNodeByID(volume) is not None
        getattr(node, f"Set{layer}VolumeID")(volume if known else None)
    for layer, opacity in fields["opacities"].items():
        getattr(node, f"Set{layer}Opacity")(opacity)
    node.SetLinkedControl(fields["linked"])


def _view(node: Any) -> dict[str, Any]:
    matrix = arrayFromMatrix(node.GetSliceToRAS()).tolist()
    return {"matrix": matrix, "field": list(node.GetFieldOfView()), "origin": list(node.GetXYZOrigin())}


def _look(node: Any, fields: dict[str, Any]) -> None:
    node.GetSliceToRAS().DeepCopy(matrixFromArray(np.array(fields["matrix"])))
    node.SetFieldOfView(*fields["field"])
    node.SetXYZOrigin(*fields["origin"])
    node.UpdateMatrices()
