"""`Step`: an immutable record of one refinement of a registration, complete in itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.transform import Affine, DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid


@dataclass(frozen=True, eq=False)
class Step:
    """One refinement of a registration: what it shows is what it is, and what accepting it writes.

    Attributes:
        index: counts from 1 over the whole registration.
        phase: "align", "search", "deform", "refine", "correct" or "conclude".
        stage: where in the schedule, for example "affine 3/7" or "1/4 res 5/12".
        field: the **total** deformation so far on its own grid, `[1, d, *R]`; the linear map follows it.
        linear: homogeneous matrix `[d + 1, d + 1]` from fixed to moving points, LPS millimetres.
        domain: the fixed image's grid; around its own grid the deformation fades out within it.
        similarity: of the fixed and the warped image, higher is better, the same measure over the whole run.
        folding: per cent of the field's voxels with a Jacobian determinant of 0 or less.
        mean_update: mean length of this step's change, millimetres.
        seconds: since the phase began.
        landmark_error: mean distance of mapped fixed landmarks to moving ones, millimetres; None without landmarks.
        landmarks: distance of each landmark of the guide to its partner, millimetres, by name.
        overlap: Dice of each structure of the guide, by name.
        state: whatever continues the recurrence after this step; opaque to everyone but the method.
        attached: what the method knows beyond that (a Gaussian, a confidence, a hidden state).
    """

    index: int
    phase: str
    stage: str
    field: DisplacementField
    linear: np.ndarray
    domain: Grid
    similarity: float
    folding: float = 0.0
    mean_update: float = 0.0
    seconds: float = 0.0
    landmark_error: float | None = None
    landmarks: Mapping[str, float] = dataclasses.field(default_factory=dict)
    overlap: Mapping[str, float] = dataclasses.field(default_factory=dict)
    state: Any = None
    attached: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @cached_property
    def transform(self) -> Transform:
        """From fixed to moving points; it covers the whole fixed image."""
        linear = Affine(self.linear)
        if not bool(self.field.values.any()):
            return Transform((linear,))
        return Transform((faded_out(self.field, self.domain), linear))

    @cached_property
    def volume_change(self) -> dict[str, Any]:
        """What the transform does to volumes on the fixed image's grid: folded voxels, and Jacobian determinants."""
        determinant = self.transform.jacobian_determinant(self.domain)
        folded = int((determinant <= 0).sum())
        return {
            "folded_voxels": folded,
            "folding": 100 * folded / determinant.numel(),
            "jacobian": {
                "min": float(determinant.min()),
                "mean": float(determinant.mean()),
                "max": float(determinant.max()),
            },
        }

    def record(self) -> dict[str, Any]:
        """What a report and a listener are told of the step."""
        told: dict[str, Any] = {
            "index": self.index,
            "phase": self.phase,
            "stage": self.stage,
            "similarity": self.similarity,
            "mean_update_mm": self.mean_update,
            "folding": self.folding,
            "seconds": self.seconds,
        }
        if self.landmark_error is not None:
            told["landmark_error_mm"] = self.landmark_error
        if self.landmarks:
            told["landmark_worst_mm"] = max(self.landmarks.values())
            told["landmarks_mm"] = dict(self.landmarks)
        if self.overlap:
            known = [value for value in self.overlap.values() if not math.isnan(value)]
            told["label_overlap"] = sum(known) / len(known) if known else math.nan
            told["labels_dice"] = dict(self.overlap)
        return told


def faded_out(deformation: DisplacementField, domain: Grid) -> DisplacementField:
    """A deformation `[1, d, *S]`, continued until it has faded to nothing around its grid.

    It fades over twice its largest length at its border, which folds nothing, and ends where the domain ends.
    """
    values, own = deformation.values.cpu().float(), deformation.grid
    margin = max(
        8, math.ceil(2 * max(float(values.select(2 + a, n).abs().max()) for a in range(own.dimension) for n in (0, -1)))
    )
    index = own.index(domain.corners())
    before = [min(margin, max(0, math.ceil(-low))) for low in index.min(axis=0)]
    reach = zip(index.max(axis=0), own.size, strict=True)
    after = [min(margin, max(0, math.ceil(high) + 1 - n)) for high, n in reach]
    target = own.padded(before, after)
    shift = spatial.linear_displacement(own.physical_to_tensor @ target.tensor_to_physical, target.shape)
    fade = torch.ones(1, 1, *target.shape)
    for axis, (n, first, last) in enumerate(zip(own.shape, before[::-1], after[::-1], strict=True)):
        steps = torch.arange(-first, n + last, dtype=torch.float32)
        outside = torch.clamp(torch.maximum(-steps, steps - (n - 1)), min=0)
        view = [-1 if a == axis else 1 for a in range(own.dimension)]
        fade = torch.minimum(fade, (1 - outside / margin).view(1, 1, *view))
    return DisplacementField(spatial.warp(values, shift, padding="border") * fade, target)
