"""`Guide`: what a user knows of a pair beyond the images: landmarks, structures, regions that are rigid or stay.

Everything lies in physical space, LPS millimetres; masks and labels may lie on any grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.points import Points
from RecurrentRegistrationLib.volume import Volume

LOCALISATION = 1.0  # millimetres by which a landmark is taken to be off where nothing else is said


@dataclass(frozen=True, eq=False)
class LandmarkPairs:
    """Landmarks of both images.

    Attributes:
        fixed: `[N, d]`.
        moving: `[N, d]`, their partners.
        names: one for each.
        error: `[N]`, how well each is known.
    """

    fixed: np.ndarray
    moving: np.ndarray
    names: tuple[str, ...]
    error: np.ndarray

    @classmethod
    def of(cls, fixed: Points, moving: Points, error: float = LOCALISATION) -> LandmarkPairs:
        """Pair two lists: by name where both hold the same names, otherwise in order.

        Raises:
            InputError: one list is longer than the other.
        """
        if len(fixed) != len(moving):
            raise InputError(
                f"There are {len(fixed)} fixed and {len(moving)} moving landmarks: give each its partner, in one order."
            )
        if len(set(fixed.labels)) == len(fixed) and set(fixed.labels) == set(moving.labels):
            order = [moving.labels.index(name) for name in fixed.labels]
            moving = Points(moving.positions[order], fixed.labels)
        return cls.in_order(fixed, moving, error)

    @classmethod
    def in_order(cls, fixed: Points, moving: Points, error: float = LOCALISATION) -> LandmarkPairs:
        """Pair two lists of one length by their order; names that come twice get a number."""
        return cls(fixed.positions, moving.positions, tuple(_unique(fixed.labels)), np.full(len(fixed), float(error)))

    def __len__(self) -> int:
        return len(self.names)

    def without(self, number: int) -> LandmarkPairs:
        """All but one."""
        kept = [n for n in range(len(self)) if n != number]
        return LandmarkPairs(self.fixed[kept], self.moving[kept], tuple(self.names[n] for n in kept), self.error[kept])


@dataclass(frozen=True, eq=False)
class Label:
    """A structure of one image: a value of a label map."""

    volume: Volume
    value: int

    @property
    def inside(self) -> np.ndarray:
        """Which voxels of the map it fills, `[*S]`."""
        return self.volume.array[0] == self.value


@dataclass(frozen=True, eq=False)
class LabelPair:
    """A structure that both images show.

    Attributes:
        name: of the structure.
        fixed: where it is in the fixed image.
        moving: and in the moving one.
    """

    name: str
    fixed: Label
    moving: Label


@dataclass(frozen=True, eq=False)
class Guide:
    """What a user knows.

    Attributes:
        landmarks: pairs of points.
        labels: pairs of structures.
        rigid: a mask or label map on the fixed image: each connected part of a value moves as a rigid body.
        still: a mask on the fixed image: nothing deforms there; the linear map alone moves it.
    """

    landmarks: LandmarkPairs | None = None
    labels: tuple[LabelPair, ...] = ()
    rigid: Volume | None = None
    still: Volume | None = None

    def __bool__(self) -> bool:
        return bool(self.landmarks) or bool(self.labels) or self.rigid is not None or self.still is not None

    def without_landmark(self, number: int) -> Guide:
        """The guide without one of its landmarks, to measure it by."""
        assert self.landmarks is not None
        return dataclasses.replace(self, landmarks=self.landmarks.without(number))


def _unique(names: Sequence[str]) -> Iterator[str]:
    """The names, those that come again with their number in the list."""
    for n, name in enumerate(names):
        yield name if name and names.index(name) == n else f"{name} ({n + 1})".strip()


def label_pairs(
    fixed: Mapping[str, Label], moving: Mapping[str, Label], chosen: Sequence[str] | None = None
) -> tuple[LabelPair, ...]:
    """The structures that two images' labels share, by name; capitals and small letters are the same.

    Args:
        fixed: labels of the fixed image by name (of a map without names: its values, see `labels_of`).
        moving: labels of the moving image.
        chosen: names to take; None for all that they share.

    Raises:
        InputError: they share none, or one of the chosen is missing on a side.
    """
    there = {name.casefold(): label for name, label in moving.items()}
    shared = {name.casefold(): name for name in fixed if name.casefold() in there}
    for name in chosen or ():
        if name.casefold() not in shared:
            side = "moving" if name.casefold() in {known.casefold() for known in fixed} else "fixed"
            raise InputError(f"The label '{name}' is not in the labels of the {side} image: mark it there or omit it.")
    if not shared:
        raise InputError("The fixed and the moving labels share none: use the same values, or names, in both.")
    keys = shared if chosen is None else [name.casefold() for name in chosen]
    return tuple(LabelPair(shared[key], fixed[shared[key]], there[key]) for key in keys)


def unpaired(fixed: Mapping[str, Label], moving: Mapping[str, Label]) -> list[str]:
    """Names that only one of two images' labels hold."""
    names = {name.casefold(): name for name in (*moving, *fixed)}
    return sorted(names[key] for key in {n.casefold() for n in fixed} ^ {n.casefold() for n in moving})


def labels_of(volume: Volume, names: Mapping[str, int] | None = None) -> dict[str, Label]:
    """The labels of a map that it does hold, by name, or by value where there are no names; 0 is no label."""
    values = {int(value) for value in np.unique(volume.array)} - {0}
    named = {str(value): value for value in sorted(values)} if names is None else names
    return {name: Label(volume, value) for name, value in named.items() if value in values}
