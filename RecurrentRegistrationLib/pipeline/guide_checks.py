"""What is wrong with a guide, found before any work. Every check raises `InputError` with one sentence."""

from __future__ import annotations

import itertools

import numpy as np

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers.regions import rigid_map
from RecurrentRegistrationLib.pipeline.guide import Guide, LandmarkPairs
from RecurrentRegistrationLib.pipeline.images import Images
from RecurrentRegistrationLib.transform import Affine
from RecurrentRegistrationLib.volume import Grid, Volume

MANY = 2000  # landmarks
MOST = 0.95  # share of the image that rigid or still regions may cover
EXCHANGED = 0.1  # of the misfit may be left after exchanging two landmarks that were swapped


def check_guide(guide: Guide, images: Images, linear: np.ndarray | None = None) -> None:
    """Refuse a guide that cannot be meant.

    Args:
        guide: what the user knows.
        images: the pair that it is about.
        linear: from fixed to moving points, once it is known.

    Raises:
        InputError: the first thing that is wrong.
    """
    if guide.landmarks is not None:
        _check_landmarks(guide.landmarks, images)
        _check_swapped(guide.landmarks, linear)
    for pair in guide.labels:
        for name, label in (("fixed", pair.fixed), ("moving", pair.moving)):
            _check_dimension(label.volume, images, f"labels of the {name} image are")
            if not label.inside.any():
                raise InputError(f"The label '{pair.name}' is not in the labels of the {name} image: mark it there.")
    for volume, title in ((guide.rigid, "rigid regions"), (guide.still, "regions to be left alone")):
        if volume is not None:
            _check_region(volume, images, title)


def _check_landmarks(pairs: LandmarkPairs, images: Images) -> None:
    d = images.dimension
    for name, points, grid in (
        ("fixed", pairs.fixed, images.fixed.grid),
        ("moving", pairs.moving, images.moving.grid),
    ):
        if points.shape != (len(pairs), d):
            raise InputError(f"The {name} landmarks have {points.shape[1]} coordinates, the images are {d}D.")
        outside = _outside(points, grid)
        if outside.any():
            first = pairs.names[int(np.argmax(outside))]
            raise InputError(
                f"The landmark '{first}' lies outside the {name} image: check its position, and whether the file is "
                "LPS or RAS."
            )
    if (pairs.error < 0).any():
        raise InputError("The localisation error of a landmark cannot be negative.")
    if len(pairs) > MANY:
        raise InputError(f"There are {len(pairs)} landmarks: give at most {MANY}, the most certain ones.")
    apart = np.sort(
        [np.linalg.norm(points[:, None] - points, axis=2) for points in (pairs.fixed, pairs.moving)], axis=0
    )
    blur = np.hypot(pairs.error[:, None], pairs.error)
    contrary = (apart[0] < 0.2 * apart[1]) & (apart[1] - apart[0] > 3 * blur)
    if contrary.any():
        a, b = np.argwhere(contrary)[0]
        raise InputError(
            f"The landmarks '{pairs.names[a]}' and '{pairs.names[b]}' contradict each other: they are "
            f"{apart[0, a, b]:.1f} mm apart in one image and {apart[1, a, b]:.1f} mm in the other; correct one of them."
        )


def _outside(points: np.ndarray, grid: Grid) -> np.ndarray:
    index = grid.index(points)
    return np.any((index < -0.5) | (index > np.array(grid.size) - 0.5), axis=1)


def _check_swapped(pairs: LandmarkPairs, linear: np.ndarray | None) -> None:
    """Two landmarks whose exchange explains nearly all that does not fit; without a linear map, of four at least."""
    if len(pairs) < (2 if linear is not None else 4):
        return
    before, mapped = _misfit(pairs.fixed, pairs.moving, linear)
    worst = sorted(range(len(pairs)), key=lambda n: -mapped[n])[:8]
    for a, b in itertools.combinations(worst, 2):
        moving = pairs.moving.copy()
        moving[[a, b]] = moving[[b, a]]
        after, _ = _misfit(pairs.fixed, moving, linear)
        if before > 4 * float(pairs.error.mean()) + 2 and after < EXCHANGED**0.5 * before:
            raise InputError(
                f"The landmarks '{pairs.names[a]}' and '{pairs.names[b]}' look swapped: exchanged, they fit; exchange "
                "them in one of the lists."
            )


def _misfit(fixed: np.ndarray, moving: np.ndarray, linear: np.ndarray | None) -> tuple[float, np.ndarray]:
    """Root mean square distance after a linear map, or the best rigid one; and each distance."""
    matrix = rigid_map(fixed, moving) if linear is None else linear
    distances = np.linalg.norm(Affine(matrix).map_points(fixed) - moving, axis=1)
    return float(np.sqrt(np.mean(distances**2))), distances


def _check_region(volume: Volume, images: Images, title: str) -> None:
    _check_dimension(volume, images, f"{title} are")
    if not volume.array.any():
        raise InputError(f"The mask of {title} is empty: mark some voxels or leave it out.")
    grid = images.fixed.grid
    inside = volume if volume.grid.almost_equal(grid) else volume.resampled(grid, interpolation="nearest")
    share = float((inside.array != 0).mean())
    if share == 0:
        raise InputError(f"The mask of {title} does not overlap the fixed image: check that they belong together.")
    seen = images.fixed.array[0] > images.fixed.array.min() + 0.05 * np.ptp(images.fixed.array)
    if (inside.array[0] != 0)[seen].mean() > MOST:
        raise InputError(
            f"The mask of {title} covers the whole image, which leaves nothing to deform: mark less, or use the "
            "method 'none' with a rigid linear stage."
        )


def _check_dimension(volume: Volume, images: Images, title: str) -> None:
    if volume.grid.dimension != images.dimension:
        raise InputError(f"The {title} {volume.grid.dimension}D, the images {images.dimension}D.")
