"""What landmarks and labels say of the linear stage: where it starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from RecurrentRegistrationLib.layers.regions import rigid_map
from RecurrentRegistrationLib.pipeline.guide import Guide, Label

BLURRED = 4.0  # millimetres: how well the middle of a structure is known, whose shape may differ
SPREAD = 0.05  # of the longest extent of the points: what they need across it to tell a rotation


@dataclass(frozen=True, eq=False)
class Anchors:
    """Places known in both images.

    Attributes:
        fixed: `[N, d]`, LPS millimetres.
        moving: `[N, d]`.
        error: `[N]`, how well each is known, millimetres.
        outlined: whether structures are among them.
    """

    fixed: np.ndarray
    moving: np.ndarray
    error: np.ndarray
    outlined: bool = False

    @classmethod
    def of(cls, guide: Guide | None) -> Anchors | None:
        """The landmarks of a guide and the middles of its structures; None where it has neither."""
        if guide is None or not (guide.landmarks or guide.labels):
            return None
        rows = [(_middle(p.fixed), _middle(p.moving), BLURRED) for p in guide.labels]
        if guide.landmarks:
            rows += zip(guide.landmarks.fixed, guide.landmarks.moving, guide.landmarks.error, strict=True)
        fixed, moving, error = zip(*rows, strict=True)
        return cls(np.array(fixed), np.array(moving), np.maximum(np.array(error, dtype=float), 0.1), bool(guide.labels))

    @property
    def tell_a_rotation(self) -> bool:
        """Whether they are enough, and spread enough, for a rigid map."""
        d = self.fixed.shape[1]
        extents = np.linalg.svd(self.fixed - self.fixed.mean(axis=0), compute_uv=False)
        return len(self.fixed) >= d and extents[d - 2] > SPREAD * extents[0] > 0

    @property
    def tell_the_posture(self) -> bool:
        """Whether a search over postures is needless: whoever outlines a structure in both images knows theirs.

        Ultrasound and MR of a prostate, whose outline tells no turn, were found upside down otherwise.
        """
        return self.outlined or self.tell_a_rotation

    def start(self) -> np.ndarray:
        """The best rigid map, or where they tell no rotation the best shift; a homogeneous matrix."""
        weight = 1 / self.error**2
        if self.tell_a_rotation:
            return rigid_map(self.fixed, self.moving, weight)
        matrix = np.eye(self.fixed.shape[1] + 1)
        matrix[:-1, -1] = np.average(self.moving - self.fixed, axis=0, weights=weight)
        return matrix


def _middle(label: Label) -> np.ndarray:
    return label.volume.grid.physical(np.argwhere(label.inside).mean(axis=0)[::-1])
