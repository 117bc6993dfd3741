"""`Guide`: what a user knows of a pair beyond the images: landmarks, structures, regions that are rigid or stay.

Everything lies in physical space, LPS millimetres; masks and labels may lie on any grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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
        order = list(range(len(fixed)))
        if len(set(fixed.labels)) == len(fixed) and set(fixed.labels) == set(moving.labels):
            order = [moving.labels.index(name) for name in fixed.labels]
        there = moving.positions[order]
        return cls(fixed.positions, there, fixed.labels, np.full(len(fixed), float(error)))

    def __len__(self) -> int:
        return len(self.names)

    def without(self, number: int) -> LandmarkPairs:
        """All but one."""
        kept = [n for n in range(len(self)) if n != number]
        return LandmarkPairs(self.fixed[kept], self.moving[kept], tuple(self.names[n] for n in kept), self.error[kept])


@dataclass(frozen=True, eq=False)
class LabelPair:
    """A structure that both images show, as a value of a label map of each.

    Attributes:
        name: of the structure.
        fixed: the label map of the fixed image.
        moving: that of the moving image.
        fixed_value: its value there.
        moving_value: and here.
    """

    name: str
    fixed: Volume
    moving: Volume
    fixed_value: int
    moving_value: int


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


def label_pairs(
    fixed: Volume,
    moving: Volume,
    *,
    fixed_names: Mapping[str, int] | None = None,
    moving_names: Mapping[str, int] | None = None,
    chosen: Sequence[str] | None = None,
) -> tuple[LabelPair, ...]:
    """The structures that two label maps share: by name where both have names, otherwise by value.

    Args:
        fixed: label map of the fixed image; 0 is no label.
        moving: label map of the moving image.
        fixed_names: value of each name in the first map.
        moving_names: and in the second one.
        chosen: names (or values) to take; None for all that they share.

    Raises:
        InputError: they share none, or one of the chosen is missing on a side.
    """
    there, here = _values(fixed), _values(moving)
    if fixed_names and moving_names:
        first = {name: value for name, value in fixed_names.items() if value in there}
        second = {name: value for name, value in moving_names.items() if value in here}
    else:
        first, second = ({str(value): value for value in values} for values in (there, here))
    shared = [name for name in first if name in second]
    for name in chosen or ():
        if name not in shared:
            side = "moving" if name in first else "fixed"
            raise InputError(f"The label '{name}' is not in the labels of the {side} image: mark it there or omit it.")
    if not shared:
        raise InputError("The fixed and the moving labels share none: use the same values, or names, in both.")
    names = shared if chosen is None else [name for name in shared if name in chosen]
    return tuple(LabelPair(name, fixed, moving, first[name], second[name]) for name in names)


def unpaired(fixed: Volume, moving: Volume) -> list[int]:
    """Values that only one of two label maps holds."""
    return sorted(_values(fixed) ^ _values(moving))


def _values(labels: Volume) -> set[int]:
    return {int(value) for value in np.unique(labels.array)} - {0}
