"""How many numbers a transform is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def gaussian_numbers(steps: int, dimension: int) -> int:
    """Of R2N2's sum of local Gaussians: 7 for each step in 2D (position, widths, angle, weight), 12 in 3D."""
    rotations = dimension * (dimension - 1) // 2
    return steps * (3 * dimension + rotations)


def bspline_numbers(levels: Iterable[tuple[Sequence[int], int]]) -> int:
    """Of free-form deformations, for each level's image shape and stride: `d · prod(ceil(N / stride) + 2)`."""
    return sum(len(shape) * math.prod(math.ceil(n / stride) + 2 for n in shape) for shape, stride in levels)
