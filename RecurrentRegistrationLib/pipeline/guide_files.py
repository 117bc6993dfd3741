"""A guide from files: landmarks, label maps and segmentations, masks, in the formats of `points` and `volume`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.pipeline.guide import (
    LOCALISATION,
    Guide,
    Label,
    LandmarkPairs,
    label_pairs,
    labels_of,
    unpaired,
)
from RecurrentRegistrationLib.points import Points, read_points
from RecurrentRegistrationLib.volume import Grid, Volume, split_part


@dataclasses.dataclass(frozen=True)
class GuideFiles:
    """Where a guide comes from; every field may be None.

    Attributes:
        fixed_points: landmarks of the fixed image.
        moving_points: their partners.
        fixed_labels: label map or segmentation of the fixed image.
        moving_labels: that of the moving image.
        rigid: mask or labels on the fixed image: each connected part moves as a rigid body.
        still: mask on the fixed image: nothing deforms there.
    """

    fixed_points: str | Path | None = None
    moving_points: str | Path | None = None
    fixed_labels: str | Path | None = None
    moving_labels: str | Path | None = None
    rigid: str | Path | None = None
    still: str | Path | None = None

    @property
    def named(self) -> dict[str, str]:
        """Those that there are."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: str(path) for name, path in fields.items() if path is not None}

    def read(
        self,
        fixed: Grid,
        moving: Grid,
        *,
        error: float = LOCALISATION,
        labels: Sequence[str] | None = None,
        rigid_labels: Sequence[str] | None = None,
    ) -> tuple[Guide, list[str]]:
        """The guide, and what is to be said about it.

        Args:
            fixed: grid of the fixed image, for landmarks in voxels.
            moving: that of the moving image.
            error: localisation error of the landmarks, millimetres.
            labels: names or values to take; None for all that both sides hold.
            rigid_labels: of the fixed labels, those that move as rigid bodies.

        Raises:
            InputError: a file cannot be read, or its partner is missing.
        """
        notes: list[str] = []
        for name in ("points", "labels"):
            first, second = getattr(self, f"fixed_{name}"), getattr(self, f"moving_{name}")
            if (first is None) != (second is None) and not (name == "labels" and second is None and rigid_labels):
                side = "moving" if second is None else "fixed"
                raise InputError(f"The {name} of the {side} image are missing: give those of both images.")
        landmarks = None
        if self.fixed_points is not None and self.moving_points is not None:
            here_points = read_points(self.fixed_points, fixed).in_dimension(fixed.dimension)
            there_points = read_points(self.moving_points, moving).in_dimension(fixed.dimension)
            landmarks = LandmarkPairs.of(here_points, there_points, error)
        structures: tuple = ()
        here = {} if self.fixed_labels is None else read_labels(self.fixed_labels)
        if self.moving_labels is not None:
            there = read_labels(self.moving_labels)
            structures = label_pairs(here, there, labels)
            if labels is None and (alone := unpaired(here, there)):
                notes.append(f"Labels that only one side has are left out: {', '.join(alone)}.")
        rigid = None if self.rigid is None else Volume.read(self.rigid)
        if rigid_labels:
            if rigid is not None:
                raise InputError("Rigid regions are given twice: name a mask or labels, not both.")
            rigid = together(here, rigid_labels)
        still = None if self.still is None else Volume.read_mask(self.still)
        return Guide(landmarks, structures, rigid, still), notes


def landmarks_from(rows: Sequence[Mapping[str, Any]]) -> LandmarkPairs | None:
    """Pairs that are told one by one: "fixed" and "moving" points, and where it is known "name" and "error".

    Raises:
        InputError: a row lacks one of its points.
    """
    if not rows:
        return None
    try:
        fixed, moving = (
            Points(np.array([row[side] for row in rows], dtype=float), tuple(str(row.get("name", "")) for row in rows))
            for side in ("fixed", "moving")
        )
        error = np.array([float(row.get("error", LOCALISATION)) for row in rows])
    except (KeyError, TypeError, ValueError) as problem:
        raise InputError("Every landmark needs a fixed and a moving point of the images' dimension.") from problem
    return dataclasses.replace(LandmarkPairs.in_order(fixed, moving), error=error)


def read_labels(path: str | Path) -> dict[str, Label]:
    """The labels of a file by name: of a segmentation of 3D Slicer its segments, of any other map its values."""
    file, part = split_part(path)
    segments = _segments(file) if part is None and file.suffix == ".nrrd" else []
    if not segments:
        return labels_of(Volume.read(path))
    layers = {layer for _, layer, _ in segments}
    volumes = {layer: Volume.read(path if len(layers) == 1 else f"{path}#{layer}") for layer in layers}
    found: dict[str, Label] = {}
    for layer, volume in volumes.items():
        found |= labels_of(volume, {name: value for name, where, value in segments if where == layer})
    return found


def together(labels: dict[str, Label], names: Sequence[str]) -> Volume:
    """Some labels in one map, each with a value of its own."""
    known = {name.casefold(): label for name, label in labels.items()}
    if missing := [name for name in names if name.casefold() not in known]:
        raise InputError(f"The label '{missing[0]}' is not in the labels of the fixed image: mark it there or omit it.")
    chosen = [known[name.casefold()] for name in names]
    array = chosen[0].inside.astype("uint8")
    for number, label in enumerate(chosen[1:], start=2):
        array[label.inside] = number
    return Volume(array[None], chosen[0].volume.grid)


def _segments(file: Path) -> list[tuple[str, int, int]]:
    """Name, layer and value of each segment that a header tells of."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return []  # whoever reads it says why
    found: list[tuple[str, int, int]] = []
    while reader.HasMetaDataKey(f"Segment{len(found)}_ID"):
        key = f"Segment{len(found)}_"
        told = [reader.GetMetaData(key + n) if reader.HasMetaDataKey(key + n) else "" for n in _KEYS]
        found.append((told[0] or str(len(found) + 1), int(told[1] or 0), int(told[2] or len(found) + 1)))
    return found


_KEYS = ("Name", "Layer", "LabelValue")
