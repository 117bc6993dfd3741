"""Landmarks that a result does not reach, and what they stand against."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from RecurrentRegistrationLib.pipeline.guide import Guide
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.transform import Affine
from RecurrentRegistrationLib.volume import Volume

MISSED = 0.5  # millimetres, or half a voxel of the fixed image where that is more


def conflicts(guide: Guide, step: Step) -> Iterator[str]:
    """A sentence for every landmark that stays away from its partner.

    Args:
        guide: what was asked for.
        step: what was reached.
    """
    pairs = guide.landmarks
    if not pairs:
        return
    wanted = Affine(step.linear).inverse().map_points(pairs.moving) - pairs.fixed
    for n, name in enumerate(pairs.names):
        missed = step.landmarks.get(name, 0.0)
        if missed <= max(MISSED, 0.5 * min(step.domain.spacing)):
            continue
        yield (
            f"The landmark '{name}' stays {missed:.1f} mm from its partner, because nearer would "
            f"{_reason(guide, wanted, n)}."
        )


def _reason(guide: Guide, wanted: np.ndarray, n: int) -> str:
    pairs = guide.landmarks
    assert pairs is not None
    if guide.still is not None and _holds(guide.still, pairs.fixed[n]):
        return "deform a region that is to be left alone"
    if guide.rigid is not None and _holds(guide.rigid, pairs.fixed[n]):
        return "bend the rigid region it lies in"
    if len(pairs) == 1:
        return "fold space"
    others = [k for k in range(len(pairs)) if k != n]
    apart = np.linalg.norm(pairs.fixed[others] - pairs.fixed[n], axis=1).clip(1e-3)
    strain = np.linalg.norm(wanted[others] - wanted[n], axis=1) / apart
    return f"fold space against the landmark '{pairs.names[others[int(np.argmax(strain))]]}'"


def _holds(mask: Volume, point: np.ndarray) -> bool:
    values, _ = mask.nearest(point[None])
    return bool(values[0] != 0)
