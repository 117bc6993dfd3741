"""The inputs of a run as files for the worker."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from RecurrentRegistrationSlicer import checks, volumes
from RecurrentRegistrationSlicer.frame import FLIP, Frame, worldMatrix
from RecurrentRegistrationSlicer.runs import Settings


def written(fixedNode: Any, movingNode: Any, settings: Settings, frame: Frame, folder: Path) -> dict[str, Any]:
    """Write the inputs of a run; the fields of a request. Nothing is left of inputs that cannot be written."""
    try:
        return _inputs(fixedNode, movingNode, settings, frame, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _inputs(fixedNode: Any, movingNode: Any, settings: Settings, frame: Frame, folder: Path) -> dict[str, Any]:
    files = {"fixed": folder / "fixed.nrrd", "moving": folder / "moving.nrrd"}
    volumes.writeVolume(fixedNode, files["fixed"], frame)
    volumes.writeVolume(movingNode, files["moving"], frame)
    for name, node in (("fixed_mask", settings.fixedMask), ("moving_mask", settings.movingMask)):
        if node is not None:
            files[name] = folder / f"{name}.nrrd"
            volumes.writeMask(node, files[name], frame)
    options = settings.options()
    if settings.initialTransform is not None:
        start = folder / "initial.tfm"
        volumes.writeMatrix(_start(settings.initialTransform, movingNode), start, frame)
        options["initial"] = str(start)
    return {**{name: str(path) for name, path in files.items()}, "options": options}


def _start(transformNode: Any, movingNode: Any) -> np.ndarray:
    """From fixed to moving points, world LPS: what an initial transform says, nothing where it is already applied."""
    if checks.isUnder(movingNode, transformNode):
        return np.eye(4)
    return FLIP @ np.linalg.inv(worldMatrix(transformNode, transformNode.GetName())) @ FLIP
