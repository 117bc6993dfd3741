"""Which step is best, and when more of them are not worth making: by the similarity that every step carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

EQUAL = 1e-4  # similarities that are not different
PATIENCE = 8  # steps that are given a chance
TOLERANCE = 0.005  # of the gain so far: what they have to bring


class Measured(Protocol):
    """What is asked of a step."""

    @property
    def index(self) -> int:
        """Counts from 1."""

    @property
    def similarity(self) -> float:
        """Higher is better."""

    @property
    def folding(self) -> float:
        """Per cent of the voxels."""


def better(step: Measured, best: Measured | None) -> bool:
    """Whether a later step beats the best so far; where they are alike, the one with fewer folds, then the earlier."""
    if best is None:
        return True
    if abs(step.similarity - best.similarity) > EQUAL:
        return step.similarity > best.similarity
    return step.folding < best.folding


def exhausted(similarities: Sequence[float]) -> bool:
    """Whether the last steps of a method brought next to nothing.

    Args:
        similarities: from before its first step on.
    """
    if len(similarities) <= PATIENCE:
        return False
    before = max(similarities[:-PATIENCE])
    return max(similarities) - before <= TOLERANCE * max(before - similarities[0], 0.0)
