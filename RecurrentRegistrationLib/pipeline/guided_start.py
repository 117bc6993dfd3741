"""What landmarks and labels say of the linear stage: a start, and how far a map may stay from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from RecurrentRegistrationLib.layers.regions import rigid_map
from RecurrentRegistrationLib.pipeline.guide import Guide, Label

BLURRED = 4.0  # millimetres: how well the middle of a structure is known, whose shape may differ
BEND = 5.0  # millimetres that a deformation bridges later: below it, distances hardly count
WEIGHT = 0.2  # of the distances beside the similarity, which lies between 0 and 1
SPREAD = 0.05  # of the longest extent of the points: what they need across it to tell a rotation


@dataclass(frozen=True, eq=False)
class Anchors:
    """Places known in both images.

    Attributes:
        fixed: `[N, d]`, LPS millimetres.
        moving: `[N, d]`.
        error: `[N]`, how well each is known, millimetres.
    """

    fixed: np.ndarray
    moving: np.ndarray
    error: np.ndarray

    @classmethod
    def of(cls, guide: Guide | None) -> Anchors | None:
        """The landmarks of a guide and the middles of its structures; None where it has neither."""
        if guide is None or not (guide.landmarks or guide.labels):
            return None
        rows = [(_middle(p.fixed), _middle(p.moving), BLURRED) for p in guide.labels]
        if guide.landmarks:
            rows += zip(guide.landmarks.fixed, guide.landmarks.moving, guide.landmarks.error, strict=True)
        fixed, moving, error = zip(*rows, strict=True)
        return cls(np.array(fixed), np.array(moving), np.maximum(np.array(error, dtype=float), 0.1))

    @property
    def tell_a_rotation(self) -> bool:
        """Whether they are enough, and spread enough, for a rigid map."""
        d = self.fixed.shape[1]
        extents = np.linalg.svd(self.fixed - self.fixed.mean(axis=0), compute_uv=False)
        return len(self.fixed) >= d and extents[d - 2] > SPREAD * extents[0] > 0

    def start(self) -> np.ndarray:
        """The best rigid map, or where they tell no rotation the best shift; a homogeneous matrix."""
        weight = 1 / self.error**2
        if self.tell_a_rotation:
            return rigid_map(self.fixed, self.moving, weight)
        matrix = np.eye(self.fixed.shape[1] + 1)
        matrix[:-1, -1] = np.average(self.moving - self.fixed, axis=0, weights=weight)
        return matrix

    @property
    def pull(self) -> Callable[[Tensor], Tensor]:
        """A loss of maps `[B, d + 1, d + 1]`: the mean distance, less what a deformation bridges."""
        fixed, moving = (torch.tensor(points, dtype=torch.float32) for points in (self.fixed, self.moving))
        share = torch.tensor(1 / self.error, dtype=torch.float32)
        share = share / share.sum()

        def loss(matrices: Tensor) -> Tensor:
            mapped = torch.einsum("bij,nj->bni", matrices[:, :-1, :-1], fixed) + matrices[:, None, :-1, -1]
            squared = (mapped - moving).square().sum(dim=2) / BEND**2
            return WEIGHT * (((1 + squared).sqrt() - 1) * share).sum(dim=1).mean()

        return loss


def _middle(label: Label) -> np.ndarray:
    return label.volume.grid.physical(np.argwhere(label.inside).mean(axis=0)[::-1])
