"""Images over time: every frame of a sequence brought onto a chosen one, as a sequence of transforms beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from RecurrentRegistrationSlicer import volumes
from RecurrentRegistrationSlicer.errors import RegistrationError
from RecurrentRegistrationSlicer.frame import FLIP, ROLE, Frame, dimension, parentTransform
from RecurrentRegistrationSlicer.steps import LONGEST
from RecurrentRegistrationSlicer.transforms import Field, coarser, gridTransform, indexOf, sampled


@dataclass
class SequenceResult:
    """What the registration of a sequence leaves in the scene.

    Attributes:
        sequenceNode: a transform for each frame, under the frame's own index value.
        browserNode: shows a frame together with its transform.
        transformNode: the transform of the selected frame; the frame's volume is under it.
        reports: of the frames, None for the fixed one.
    """

    sequenceNode: Any
    browserNode: Any
    transformNode: Any
    reports: list[dict[str, Any] | None]


def frames(sequenceNode: Any, fixedFrame: int) -> list[Any]:
    """The volumes of a sequence.

    Raises:
        RegistrationError: there are fewer than two, other things than volumes, or no such frame.
    """
    count = sequenceNode.GetNumberOfDataNodes()
    nodes = [sequenceNode.GetNthDataNode(n) for n in range(count)]
    if count < 2 or not all(node.IsA("vtkMRMLScalarVolumeNode") for node in nodes):
        raise RegistrationError(f"'{sequenceNode.GetName()}' is not a sequence of two volumes or more.")
    if not 0 <= fixedFrame < count:
        raise RegistrationError(f"There is no frame {fixedFrame}: the sequence has 0 to {count - 1}.")
    return nodes


def register(
    sequenceNode: Any,
    fixedFrame: int,
    options: dict[str, Any],
    folder: Path,
    ask: Callable[..., dict[str, Any]],
    tell: Callable[..., None],
) -> SequenceResult:
    """Register every frame to one of them.

    Args:
        sequenceNode: of scalar volumes. The frames share whatever transform they are under, so it does not matter.
        fixedFrame: number of the frame that stays, from 0.
        options: of the worker.
        folder: for files; emptied at the end.
        ask: sends a request to the worker and waits for its end.
        tell: is told of each frame.
    """
    nodes = frames(sequenceNode, fixedFrame)
    values = [sequenceNode.GetNthIndexValue(n) for n in range(len(nodes))]  # frames may come and go meanwhile
    frame = _frame(nodes[fixedFrame])
    files = [folder / f"frame-{n}.nrrd" for n in range(len(nodes))]
    transforms: dict[int, Field] = {}
    reports: list[dict[str, Any] | None] = [None] * len(nodes)
    try:
        volumes.writeLocal(nodes[fixedFrame], files[fixedFrame], frame)
        fixed = volumes.grid(files[fixedFrame])
        grid = coarser(fixed, max(n * s for n, s in zip(fixed["size"], fixed["spacing"], strict=True)) / LONGEST)
        for n in (n for n in range(len(nodes)) if n != fixedFrame):
            tell("frame", frame=n, count=len(nodes))
            _checkThere(sequenceNode)
            volumes.writeLocal(nodes[n], files[n], frame)
            ask("register", fixed=str(files[fixedFrame]), moving=str(files[n]), options=options)
            reports[n] = ask("result", folder=str(folder / "result"))["report"]
            transforms[n] = sampled(folder / "result" / "transform.h5", frame, grid)
            files[n].unlink()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _checkThere(sequenceNode)
    size = np.pad(grid["size"], (0, 3 - frame.dimension), constant_values=1)
    transforms[fixedFrame] = Field(np.zeros((*size[::-1], 3), np.float32), indexOf(grid))
    return _shown(sequenceNode, {values[n]: transforms[n] for n in sorted(transforms)}, FLIP @ frame.world, reports)


def _checkThere(sequenceNode: Any) -> None:
    if sequenceNode.GetScene() is None:
        raise RegistrationError("The sequence is no longer in the scene: nothing was left to show the frames with.")


def _frame(volumeNode: Any) -> Frame:
    """Coordinates of the frames themselves, LPS; the plane of the slice in 2D."""
    if dimension(volumeNode) == 3:
        return Frame(3, np.eye(4))
    return Frame(2, volumes.localPlane(volumeNode))


def _shown(
    sequenceNode: Any, transforms: dict[str, Field], basis: np.ndarray, reports: list[dict[str, Any] | None]
) -> SequenceResult:
    scene, logic = slicer.mrmlScene, slicer.modules.sequences.logic()
    name = scene.GetUniqueNameByString(f"{sequenceNode.GetName()} registered")
    found = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    found.SetIndexName(sequenceNode.GetIndexName())
    found.SetIndexUnit(sequenceNode.GetIndexUnit())
    found.SetIndexType(sequenceNode.GetIndexType())
    for value, field in transforms.items():
        node = found.SetDataNodeAtValue(slicer.vtkMRMLTransformNode(), value)
        node.SetName(name)
        node.SetAttribute(ROLE, "result")  # the node that shows a frame takes over its attributes
        node.SetAndObserveTransformFromParent(gridTransform(field, basis))
    browserNode = logic.GetFirstBrowserNodeForSequenceNode(sequenceNode)
    if browserNode is None:
        browserNode = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{name}: browser")
        logic.AddSynchronizedNode(sequenceNode, None, browserNode)
    logic.AddSynchronizedNode(found, None, browserNode)
    volumeNode, transformNode = (browserNode.GetProxyNode(node) for node in (sequenceNode, found))
    parent = parentTransform(volumeNode)
    transformNode.SetAndObserveTransformNodeID(parent.GetID() if parent is not None else None)
    volumeNode.SetAndObserveTransformNodeID(transformNode.GetID())
    return SequenceResult(found, browserNode, transformNode, reports)
