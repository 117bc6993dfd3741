"""Where a result comes from: the files that the worker wrote, or a step that is kept in the scene."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import slicer
import vtk

from RecurrentRegistrationSlicer import sampling, volumes
from RecurrentRegistrationSlicer.frame import matrixFromArray, toWorld
from RecurrentRegistrationSlicer.runs import Outputs, Run
from RecurrentRegistrationSlicer.transforms import Part, coarser, readParts, sampled, vtkTransformOf


class Found(Protocol):
    """What a result is made of: transforms from parent, arrays `[k, j, i]` on the fixed grid."""

    report: dict[str, Any]

    def transform(self, wanted: Outputs) -> vtk.vtkAbstractTransform:
        """Brings the moving image onto the fixed one."""

    def inverse(self) -> vtk.vtkAbstractTransform:
        """Brings the fixed image onto the moving one."""

    def warped(self, wanted: Outputs) -> np.ndarray:
        """The moving image on the fixed grid."""

    def jacobian(self) -> np.ndarray:
        """Jacobian determinants."""

    def length(self) -> np.ndarray:
        """Lengths of the displacements, millimetres."""


class Written:
    """A result that the worker wrote.

    Args:
        run: the run.
        folder: of the files.
        report: as the worker told it.
    """

    def __init__(self, run: Run, folder: Path, report: dict[str, Any]) -> None:
        self._run, self._folder, self.report = run, folder, report
        for image, node in (("fixed", run.fixedNode), ("moving", run.movingNode)):
            report["inputs"][image]["path"] = node.GetName()  # the file that the worker read is gone soon

    def transform(self, wanted: Outputs) -> vtk.vtkAbstractTransform:
        """Linear part and field, or one field."""
        file, frame = self._folder / "transform.h5", self._run.frame
        if wanted.transform == "grid":
            grid = coarser(volumes.grid(self._folder / "jacobian.nrrd"), wanted.spacing)
            parts: list[Part] = [sampled(file, frame, grid)]
        else:
            parts = readParts(file, frame)
        return vtkTransformOf(parts, np.array(self._run.kept("basis")))

    def inverse(self) -> vtk.vtkAbstractTransform:
        """As the worker inverted it."""
        frame = self._run.frame
        parts = readParts(self._folder / "inverse.h5", frame.reversed())
        return vtkTransformOf(parts, frame.into(toWorld(self._run.fixedNode)))

    def warped(self, wanted: Outputs) -> np.ndarray:
        """As the worker resampled it."""
        return volumes.readArray(self._folder / "warped.nrrd")

    def jacobian(self) -> np.ndarray:
        """As the worker measured it."""
        return volumes.readArray(self._folder / "jacobian.nrrd")

    def length(self) -> np.ndarray:
        """Of the whole transform."""
        return np.linalg.norm(volumes.readArray(self._folder / "displacement.nrrd"), axis=-1)


class Kept:
    """A step that the scene keeps, selected: what can be had when no worker holds the run any more.

    It is as fine as the steps' grid.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        jacobian, length = self.jacobian(), self.length()
        folded = int((jacobian <= 0).sum())
        self.report = {
            "method": run.kept("settings")["method"],
            "preset": run.kept("settings")["preset"],
            "device": run.kept("settings")["device"],
            "notes": [*run.notes, "Taken from the steps in the scene, which are coarser than the registration."],
            "steps": [record for record in run.records if record["index"] <= run.selectedStep],
            "folded_voxels": folded,
            "folding": 100 * folded / jacobian.size,
            "jacobian": {"min": jacobian.min().item(), "mean": jacobian.mean().item(), "max": jacobian.max().item()},
            "displacement_mm": {"mean": length.mean().item(), "max": length.max().item()},
            "seconds": {},
            "peak_memory_bytes": None,
        }

    @cached_property
    def _displacement(self) -> np.ndarray:
        return sampling.displacementAtStep(self._run)

    def transform(self, wanted: Outputs) -> vtk.vtkAbstractTransform:
        """One field."""
        grid = slicer.vtkOrientedGridTransform()
        grid.DeepCopy(self._run.stepTransformNode.GetTransformFromParent())
        return grid

    def inverse(self) -> vtk.vtkAbstractTransform:
        """By VTK's iteration, from the frame of the fixed node into that of the moving one and back."""
        between = np.linalg.inv(toWorld(self._run.movingNode)) @ toWorld(self._run.fixedNode)
        composite = vtk.vtkGeneralTransform()
        composite.PostMultiply()
        composite.Concatenate(matrixFromArray(between))
        composite.Concatenate(self.transform(Outputs()).GetInverse())
        composite.Concatenate(matrixFromArray(np.linalg.inv(between)))
        return composite

    def warped(self, wanted: Outputs) -> np.ndarray:
        """As the worker would resample it."""
        return sampling.warpedAtStep(self._run, wanted.interpolation, wanted.background)

    def jacobian(self) -> np.ndarray:
        """By central differences."""
        return sampling.jacobianOf(self._displacement, sampling.fixedIndex(self._run)).astype(np.float32)

    def length(self) -> np.ndarray:
        """In the world."""
        return np.linalg.norm(self._displacement @ toWorld(self._run.movingNode)[:3, :3].T, axis=-1)
