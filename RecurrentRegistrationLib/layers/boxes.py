"""Boxes of a tensor `[B, C, *S]`: an index that takes them out of it, and what it spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Box = tuple[Any, ...]


def box_between(first: Sequence[int], last: Sequence[int], origin: Sequence[int] | None = None) -> Box:
    """From a first voxel to before a last one; counted from the voxel `origin` on, where there is one."""
    origin = [0] * len(first) if origin is None else origin
    return (..., *[slice(a - o, b - o) for a, b, o in zip(first, last, origin, strict=True)])


def first_of(box: Box) -> list[int]:
    """Its first voxel."""
    return [part.start for part in box[1:]]


def last_of(box: Box) -> list[int]:
    """The voxel after its last."""
    return [part.stop for part in box[1:]]


def wider(box: Box, margin: int, shape: Sequence[int]) -> Box:
    """The box with a margin, within a tensor of a shape."""
    first = [max(0, a - margin) for a in first_of(box)]
    return box_between(first, [min(n, b + margin) for b, n in zip(last_of(box), shape, strict=True)])
