"""The steps of a run as Slicer's sequence: one transform node shows the step that the browser has selected.

The displacements stay in files that the system maps into memory when they are looked at and may drop again; their
grid is at most `LONGEST` nodes long, so that a step of any image takes 11 MB at most.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import slicer

from RecurrentRegistrationSlicer.frame import ROLE, Frame
from RecurrentRegistrationSlicer.transforms import Field, gridTransform, indexOf, lifted

LONGEST = 96  # nodes along the longest side of a step's grid


class Steps:
    """A sequence node, the browser that selects in it, and the transform node that follows.

    Args:
        sequenceNode: holds a transform for each kept step, and no displacement as step 0.
        browserNode: selects one.
    """

    def __init__(self, sequenceNode, browserNode) -> None:
        self.sequenceNode, self.browserNode = sequenceNode, browserNode

    @classmethod
    def create(cls, name: str) -> Steps:
        """Nodes for the steps of a new run."""
        scene = slicer.mrmlScene
        sequenceNode = scene.AddNewNodeByClass("vtkMRMLSequenceNode", scene.GetUniqueNameByString(f"{name}: steps"))
        sequenceNode.SetIndexName("step")
        sequenceNode.SetIndexUnit("")
        sequenceNode.SetIndexTypeFromString("numeric")
        browserNode = scene.AddNewNodeByClass(
            "vtkMRMLSequenceBrowserNode", scene.GetUniqueNameByString(f"{name}: browser")
        )
        return cls(sequenceNode, browserNode)

    @property
    def transformNode(self):
        """The node that shows the selected step; None before the first step."""
        return self.browserNode.GetProxyNode(self.sequenceNode)

    @property
    def indices(self) -> list[int]:
        """The steps that can be selected, 0 (nothing displaced) first."""
        count = self.sequenceNode.GetNumberOfDataNodes()
        return [round(float(self.sequenceNode.GetNthIndexValue(n))) for n in range(count)]

    @property
    def selected(self) -> int | None:
        """The step that is shown; None before the first."""
        item, indices = self.browserNode.GetSelectedItemNumber(), self.indices
        return indices[item] if 0 <= item < len(indices) else None

    def add(self, index: int, display: dict, frame: Frame, basis: np.ndarray) -> None:
        """Take over a displacement that the worker wrote; the file is gone when nobody looks at it any more.

        Args:
            index: of the step.
            display: `path` and grid, as the worker tells them.
            frame: of the pair.
            basis: from the worker's coordinates to those of the moving node.
        """
        path = Path(display["path"])
        vectors, grid = np.load(path, mmap_mode="r+"), indexOf(display)
        if self.sequenceNode.GetNumberOfDataNodes() == 0:
            self._keep(0, np.zeros_like(vectors, subok=False), grid, basis)
            self._show()
        self._keep(index, lifted(vectors, grid, frame).vectors, grid, basis)
        with contextlib.suppress(OSError):  # Windows keeps it until it is no longer mapped; the run's folder goes later
            path.unlink()

    def select(self, index: int) -> None:
        """Show a step, or the last kept one before it."""
        items = [n for n, known in enumerate(self.indices) if known <= index]
        self.browserNode.SetSelectedItemNumber(items[-1] if items else 0)

    def forgetAfter(self, index: int) -> None:
        """Drop the steps after an index."""
        self.select(min(index, self.selected or 0))
        for later in [known for known in self.indices if known > index]:
            self.sequenceNode.RemoveDataNodeAtValue(str(later))

    def _keep(self, index: int, vectors: np.ndarray, grid: np.ndarray, basis: np.ndarray) -> None:
        node = self.sequenceNode.SetDataNodeAtValue(slicer.vtkMRMLTransformNode(), str(index))
        node.SetName(self.sequenceNode.GetName())
        node.SetAttribute(ROLE, "step")  # the node that shows a step takes over its attributes
        node.SetAndObserveTransformFromParent(gridTransform(Field(vectors, grid), basis))

    def _show(self) -> None:
        logic = slicer.modules.sequences.logic()
        logic.AddSynchronizedNode(self.sequenceNode, None, self.browserNode)
