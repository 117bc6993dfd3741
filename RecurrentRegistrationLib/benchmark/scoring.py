"""The judge of all methods alike: a transform against all that is known about its pair."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from skimage.filters import threshold_otsu

from RecurrentRegistrationLib import evaluation
from RecurrentRegistrationLib.benchmark.manifest import Link, Pair
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.metrics import overlap
from RecurrentRegistrationLib.metrics.separability import MotionHistogram, motion_histogram
from RecurrentRegistrationLib.points import Points, read_points
from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Volume, resample

RESULTS = ("displacement.nrrd", "transform.h5")


def read_result(folder: Path) -> Transform | None:
    """What a method left in its folder; None where it left nothing."""
    found = next((folder / name for name in RESULTS if (folder / name).exists()), None)
    return None if found is None else Transform.read(found)


class Judge:
    """The measures of transforms of one pair; what is read is kept, so that many steps can be judged."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.fixed = Volume.read(pair.fixed)
        self.moving = Volume.read(pair.moving)

    def score(self, transform: Transform) -> dict[str, Any]:
        """Flat measures, and "structures" and "landmarks_mm" one by one where they are known."""
        deformation = evaluation.deformation(
            transform, self.fixed.grid, self.region, None if self.labels is None else self.labels[0].array[0] > 0
        )
        similarity = evaluation.similarity(transform, self.fixed, self.moving, self.mask)
        folds = deformation["folding"]
        found = {
            **self.accuracy(transform),
            "foreground_dice": self._foreground(transform),
            "rmse": similarity.get("root_mean_squared_error", math.nan),
            "correlation": similarity.get("correlation", math.nan),
            "mutual_information": similarity.get("mutual_information", math.nan),
            "seen_percent": similarity["seen_percent"],
            "folded_voxels": folds["everywhere"]["voxels"],
            "folding_percent": folds["everywhere"]["percent"],
            "folding_magnitude": folds["everywhere"]["magnitude"],
            "log_jacobian_deviation": deformation["jacobian"]["log_deviation"],
            "jacobian_min": deformation["jacobian"]["min"],
            "jacobian_max": deformation["jacobian"]["max"],
            "inverse_mm": deformation["inverse_residual_mm"]["mean"],
        }
        if self.pair.fixed_mask is not None:
            found["folded_in_mask"] = folds["mask"]["voxels"]
        if "labels" in folds:
            found["folded_in_labels"] = folds["labels"]["voxels"]
        return found

    def accuracy(self, transform: Transform) -> dict[str, Any]:
        """What the ground truth tells: overlap, landmarks, distance to a known mapping."""
        return {**self._overlap(transform), **self._landmarks(transform), **self._distance(transform)}

    def motion(self, transform: Transform) -> MotionHistogram:
        """How differently near voxels move that are mapped into their own label; only where there are `labels`."""
        assert self.labels is not None
        fixed, moving, _ = self.labels
        pulled = resample(moving.to_sitk(), fixed.grid, transform.to_sitk(), interpolation="nearest")
        correct = (Volume.from_sitk(pulled).array[0] == fixed.array[0]) & (fixed.array[0] > 0)
        return motion_histogram(transform.displacement_on(fixed.grid).values[0].numpy(), correct)

    # ---- what is known about the pair

    @cached_property
    def mask(self) -> np.ndarray | None:
        """The pair's fixed mask on the fixed grid."""
        return None if self.pair.fixed_mask is None else self._on_fixed(Volume.read_mask(self.pair.fixed_mask)) > 0

    @cached_property
    def region(self) -> np.ndarray:
        """Where deformation and errors are averaged: the given region, the fixed mask, or the foreground."""
        if self.pair.region is not None:
            through = chain(self.pair.region.through, self.fixed.grid.dimension)
            return self._on_fixed(Volume.read(self.pair.region.file), through) > 0
        return foreground(self.fixed.array[0]) if self.mask is None else self.mask

    @cached_property
    def labels(self) -> tuple[Volume, Volume, dict[int, str]] | None:
        """Labels of both images, renumbered alike where they were not, and the structures' names."""
        if self.pair.fixed_labels is None or self.pair.moving_labels is None:
            return None
        fixed, moving = (Volume.read(path) for path in (self.pair.fixed_labels, self.pair.moving_labels))
        structures = self.pair.structures
        if structures is None:
            present = np.union1d(np.unique(fixed.array), np.unique(moving.array))  # missing in one map, it counts 0
            structures = {str(int(value)): (int(value), int(value)) for value in present if value}
        numbers = range(1, len(structures) + 1)
        both = [np.zeros(volume.array.shape, np.uint16) for volume in (fixed, moving)]
        for number, values in zip(numbers, structures.values(), strict=True):
            for side, volume in enumerate((fixed, moving)):
                both[side][volume.array == values[side]] = number
        names = dict(zip(numbers, structures, strict=True))
        return Volume(both[0], fixed.grid), Volume(both[1], moving.grid), names

    @cached_property
    def points(self) -> tuple[Points, Points] | None:
        """Landmarks of both images."""
        if self.pair.fixed_points is None or self.pair.moving_points is None:
            return None
        fixed = read_points(self.pair.fixed_points, self.fixed.grid)
        return fixed, read_points(self.pair.moving_points, self.moving.grid)

    @cached_property
    def truth(self) -> np.ndarray | None:
        """The known displacement, LPS millimetres, `[d, *S]` on the fixed grid."""
        if self.pair.reference_field is not None:
            transform = Transform.read(self.pair.reference_field)
        elif self.pair.reference:
            transform = chain(self.pair.reference, self.fixed.grid.dimension)
        else:
            return None
        return transform.displacement_on(self.fixed.grid).millimetres()[0].numpy()

    # ---- measures

    def _overlap(self, transform: Transform) -> dict[str, Any]:
        if self.labels is None:
            return {}
        fixed, moving, names = self.labels
        found = evaluation.overlap_of_labels(transform, fixed, moving, labels=names)
        each = {names[int(number)]: values for number, values in found["labels"].items()}
        return {**found["mean"], "structures": each}

    def _landmarks(self, transform: Transform) -> dict[str, Any]:
        if self.points is None:
            return {}
        found = evaluation.landmark_errors(transform, *self.points)
        names = {"tre_mm": "mean", "tre30_mm": "tre30", "tre_max_mm": "maximum", "landmarks_mm": "each"}
        return {name: found[key] for name, key in names.items()}

    def _distance(self, transform: Transform) -> dict[str, Any]:
        if self.truth is None:
            return {}
        errors = self.error(transform)
        return {"distance_mm": errors.mean().item(), "distance_p95_mm": np.percentile(errors, 95).item()}

    def error(self, transform: Transform) -> np.ndarray:
        """Distances to the known mapping over the region, millimetres; only where there is a `truth`."""
        found = transform.displacement_on(self.fixed.grid).millimetres()[0].numpy()
        return np.linalg.norm((found - self.truth)[:, self.region], axis=0)

    def _foreground(self, transform: Transform) -> float:
        body = Volume(foreground(self.moving.array[0])[np.newaxis].astype(np.uint8), self.moving.grid)
        warped = self._on_fixed(body, transform)
        return overlap.dice(foreground(self.fixed.array[0]).astype(np.uint8), warped).get(1, 0.0)

    def _on_fixed(self, volume: Volume, transform: Transform | None = None) -> np.ndarray:
        pulled = (transform or Transform((), self.fixed.grid.dimension)).to_sitk()
        image = sitk.Cast(volume.to_sitk() != 0, sitk.sitkUInt8)
        return Volume.from_sitk(resample(image, self.fixed.grid, pulled, interpolation="nearest")).array[0]


def chain(links: tuple[Link, ...], dimension: int) -> Transform:
    """One transform of ITK files, the first of which acts first."""
    transforms = [Transform.read(link.file).inverse() if link.inverse else Transform.read(link.file) for link in links]
    return Transform(tuple(part for transform in transforms for part in transform.parts), dimension)


def foreground(pixels: np.ndarray) -> np.ndarray:
    """Otsu's foreground with its holes filled."""
    if pixels.min() == pixels.max():
        return np.ones(pixels.shape, bool)
    return ndimage.binary_fill_holes(pixels > threshold_otsu(pixels.astype(np.float32)))


def check(pair: Pair) -> None:
    """Raise InputError where a pair's ground truth comes without its partner."""
    for kind in ("labels", "points"):
        if (getattr(pair, f"fixed_{kind}") is None) != (getattr(pair, f"moving_{kind}") is None):
            raise InputError(f"Pair '{pair.name}' has {kind} of one image only; give those of both or of none.")
