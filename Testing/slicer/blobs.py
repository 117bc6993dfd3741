"""Small pairs that a worker registers in a moment."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import slicer.util
from RecurrentRegistrationSlicer.frame import matrixFromArray

FEW = {"linear": "none", "initial": "none", "steps": 6, "device": "cpu"}
LONG = {**FEW, "steps": 400}  # of which every tenth can be shown
ENDLESS = {**FEW, "steps": 100_000}


def blob(shift: float = 0.0, flat: bool = False) -> np.ndarray:
    """A lop-sided blob, `[k, j, i]`; `shift` (mm) moves it along i."""
    n = 20
    k, j, i = np.mgrid[: 1 if flat else n, :n, :n] * 2.0 - (n - 1)
    if flat:
        k = np.zeros_like(i)
    radius = np.sqrt((i - shift) ** 2 + (0.8 * j) ** 2 + (1.2 * k) ** 2)
    return (80 / (1 + np.exp(radius - 12)) + 60 / (1 + np.exp(2 * (radius - 5))) + j + 20).astype(np.float32)


def volumeNode(name: str, shift: float = 0.0, flat: bool = False) -> Any:
    """The blob as a volume node with voxels of 2 mm around the origin."""
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    matrix[:3, 3] = (-19, -19, 0 if flat else -19)
    node = slicer.util.addVolumeFromArray(blob(shift, flat), name=name)
    node.SetIJKToRASMatrix(matrixFromArray(matrix))
    node.CreateDefaultDisplayNodes()
    return node


def pair(flat: bool = False) -> tuple[Any, Any]:
    """A fixed volume and one that is moved by 3 mm."""
    return volumeNode("Fixed", flat=flat), volumeNode("Moving", 3.0, flat)


def look(scene: Any) -> dict[str, Any]:
    """Everything in a scene that a user could see change: nodes, parents, what the views show."""
    nodes = [scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())]
    shown = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    placed = [node for node in nodes if node.IsA("vtkMRMLTransformableNode")]
    return {
        "nodes": sorted(node.GetID() for node in nodes),
        "parents": {node.GetID(): node.GetTransformNodeID() for node in placed},
        "volumes": [(node.GetBackgroundVolumeID(), node.GetForegroundVolumeID()) for node in shown],
        "fade": [node.GetForegroundOpacity() for node in shown],
        "views": [node.GetFieldOfView() for node in slicer.util.getNodesByClass("vtkMRMLSliceNode")],
    }
