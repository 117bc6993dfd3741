"""What the user knows of a pair, from nodes to the fields of the worker's request `guide`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from RecurrentRegistrationSlicer import volumes
from RecurrentRegistrationSlicer.errors import RegistrationError
from RecurrentRegistrationSlicer.frame import FLIP, Frame
from RecurrentRegistrationSlicer.quality import positions


@dataclass
class Guide:
    """What a user knows; whatever is None or empty says nothing.

    Attributes:
        fixedLandmarks, movingLandmarks: markups nodes with the same points in both images, paired by their order.
        landmarkError: how well they are known, millimetres.
        fixedLabels, movingLabels: segmentations, paired by the names of their segments, or label maps, by their values.
        labels: names of those that are to overlap; None for all that both hold.
        rigidLabels: names of fixed labels each of which moves as a rigid body.
        rigid: label map or segmentation on the fixed image: each connected part moves as a rigid body.
        still: label map or segmentation on the fixed image: nothing deforms there.
    """

    fixedLandmarks: Any = None
    movingLandmarks: Any = None
    landmarkError: float = 1.0
    fixedLabels: Any = None
    movingLabels: Any = None
    labels: Sequence[str] | None = None
    rigidLabels: Sequence[str] = ()
    rigid: Any = None
    still: Any = None

    @classmethod
    def of(cls, given: dict[str, Any]) -> Guide:
        """From named arguments. Raises RegistrationError for a name that a guide does not have."""
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := set(given) - set(known):
            raise RegistrationError(f"A guide has no '{unknown.pop()}'; it has {', '.join(known)}.")
        return cls(**given)


def fields(guide: Guide, frame: Frame, folder: Path) -> dict[str, Any]:
    """Write what a guide holds; the object that the request takes.

    Args:
        guide: what the user knows.
        frame: of the pair.
        folder: for its files; it exists.

    Raises:
        RegistrationError: landmarks without partners, or a node that holds nothing.
    """
    told: dict[str, Any] = {}
    if guide.fixedLandmarks is not None or guide.movingLandmarks is not None:
        told["landmarks"] = landmarks(guide, frame)
    for name, node in (("fixed_labels", guide.fixedLabels), ("moving_labels", guide.movingLabels)):
        if node is not None:
            told[name] = str(folder / f"{name}.seg.nrrd")
            volumes.writeLabels(node, folder / f"{name}.seg.nrrd", frame)
    for name, node in (("rigid", guide.rigid), ("still", guide.still)):
        if node is not None:
            told[name] = str(folder / f"{name}.nrrd")
            volumes.writeMask(node, folder / f"{name}.nrrd", frame)
    if guide.labels is not None:
        told["labels"] = list(guide.labels)
    if guide.rigidLabels:
        told["rigid_labels"] = list(guide.rigidLabels)
    return told


def landmarks(guide: Guide, frame: Frame) -> list[dict[str, Any]]:
    """The pairs of landmarks in the worker's coordinates. Raises RegistrationError where one has no partner."""
    nodes = guide.fixedLandmarks, guide.movingLandmarks
    fixed, moving = (positions(node) if node is not None else np.zeros((0, 3)) for node in nodes)
    if len(fixed) != len(moving):
        raise RegistrationError(
            f"There are {len(fixed)} fixed and {len(moving)} moving landmarks: give the same points in both images."
        )
    toWorker = frame.seen(FLIP)
    here, there = (p @ toWorker[:3, :3].T + toWorker[:3, 3] for p in (fixed, moving))
    d = frame.dimension
    return [
        {
            "name": guide.fixedLandmarks.GetNthControlPointLabel(n),
            "fixed": here[n, :d].tolist(),
            "moving": there[n, :d].tolist(),
            "error": guide.landmarkError,
        }
        for n in range(len(fixed))
    ]
