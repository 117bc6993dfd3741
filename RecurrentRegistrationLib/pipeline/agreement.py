"""How well a step agrees with what a user knows: the error of every landmark, the overlap of every structure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.pipeline.guide import Guide, Label, LabelPair
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.transform import Affine, DisplacementField
from RecurrentRegistrationLib.volume import Grid

SAMPLES = 200_000  # places of all structures together where their overlap is looked at after every step
FEWEST = 2_000  # of one structure


class Agreement:
    """Measures steps by a guide.

    Args:
        guide: what the user knows.
    """

    def __init__(self, guide: Guide) -> None:
        self._guide = guide
        count = max(FEWEST, SAMPLES // max(len(guide.labels), 1))
        self._places = [_places(pair, count) for pair in guide.labels]
        self._fixed = [_inside(pair.fixed, at) for pair, at in zip(guide.labels, self._places, strict=True)]

    def of(self, step: Step) -> tuple[dict[str, float], dict[str, float]]:
        """The error of each landmark, millimetres, and Dice of each structure, by name."""
        return self.errors(step), self.overlap(step)

    def report(self, before: Step, records: Sequence[Mapping[str, Any]], step: Step) -> dict[str, Any]:
        """Landmarks and structures one by one: before, at the end of each phase, and after a step.

        Args:
            before: the images as their headers place them.
            records: of the steps up to it.
            step: the result.
        """
        ends = {record["phase"]: record for record in records}

        def rows(measure: Callable[[Step], dict[str, float]], recorded: str, unit: str) -> list[dict[str, Any]]:
            first, last = measure(before), measure(step)
            stages = {phase: record.get(recorded, {}) for phase, record in ends.items()}
            return [
                {
                    "name": name,
                    f"before_{unit}": first[name],
                    f"stages_{unit}": {phase: known[name] for phase, known in stages.items() if name in known},
                    f"after_{unit}": last[name],
                }
                for name in last
            ]

        landmarks, labels = rows(self.errors, "landmarks_mm", "mm"), rows(self.overlap, "labels_dice", "dice")
        return {"landmarks": landmarks, "labels": labels}

    def errors(self, step: Step) -> dict[str, float]:
        """Distance of each landmark from its partner, millimetres."""
        pairs = self._guide.landmarks
        if not pairs:
            return {}
        mapped = _mapped(step, pairs.fixed)
        distances = np.linalg.norm(mapped - pairs.moving, axis=1)
        return dict(zip(pairs.names, distances.tolist(), strict=True))

    def overlap(self, step: Step) -> dict[str, float]:
        """Dice of each structure, at some hundred thousand places of the fixed image."""
        found = {}
        for pair, points, fixed in zip(self._guide.labels, self._places, self._fixed, strict=True):
            moving = _inside(pair.moving, _mapped(step, points))
            total = fixed.sum() + moving.sum()
            found[pair.name] = float(2 * (fixed & moving).sum() / total) if total else math.nan
        return found


def _mapped(step: Step, points: np.ndarray) -> np.ndarray:
    """Where fixed points `[N, d]` go; by the field itself where it holds them all, which is faster."""
    field, grid = step.field, step.field.grid
    index = grid.index(points)
    if not bool(field.values.any()) or ((index < 0) | (index > np.array(grid.size) - 1)).any():
        return step.transform.map_points(points)
    return Affine(step.linear).map_points(points + _displacement(field, grid, index))


def _displacement(field: DisplacementField, grid: Grid, index: np.ndarray) -> np.ndarray:
    d = grid.dimension
    at = torch.from_numpy(np.ascontiguousarray(index[:, ::-1].T)).reshape(1, d, *[1] * (d - 1), -1)
    values = spatial.sample_at(field.values.float(), at.to(field.values.device, torch.float32), padding="border")
    return values.reshape(d, -1).T.double().cpu().numpy() @ grid.tensor_to_physical[:-1, :-1].T


def _places(pair: LabelPair, count: int) -> np.ndarray:
    """About `count` points `[N, d]` of the fixed label map, in and around a structure: half its size on every side."""
    where = np.argwhere(pair.fixed.inside)
    low, high = where.min(axis=0), where.max(axis=0)
    margin = (high - low + 1) // 2 + 2
    grid = pair.fixed.volume.grid
    low, high = np.maximum(low - margin, 0), np.minimum(high + margin, np.array(grid.shape) - 1)
    several = (high > low).sum()
    step = max(1.0, (float(np.prod(high - low + 1)) / count) ** (1 / max(several, 1)))
    axes = [np.linspace(a, b, max(1, round((b - a) / step) + 1)).round() for a, b in zip(low, high, strict=True)]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    return grid.physical(index[:, ::-1])


def _inside(label: Label, points: np.ndarray) -> np.ndarray:
    """Which physical points `[N, d]` lie in voxels of a label."""
    values, known = label.volume.nearest(points)
    return known & (values == label.value)
