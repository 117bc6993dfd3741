"""How different the motions of near voxels can be that a coarse-to-fine network predicts (motion separability).

After Zheng et al., Residual Aligner-based Network, Medical Image Analysis 2024, Sec. 3.
"""

from __future__ import annotations

from collections.abc import Sequence


def cell_sizes(levels: int, common: int = 0) -> list[int]:
    """Voxels that share one value at each level `k = 0..K`, coarse to fine: `2^(K - k)`, but `2^(K - q)` up to `k = q`.

    `common` is the motion-separable structure's q: so many levels are raised to the resolution of the level after them.
    """
    return [2 ** (levels - 1 - max(k, common)) for k in range(levels)]


def capture_range(cell: int, dilations: Sequence[int]) -> float:
    """Largest displacement `(s - 1) / 2` a level can see, `s = cell (1 + 2 sum of dilations)` its field of view."""
    return (cell * (1 + 2 * sum(dilations)) - 1) / 2


def separability(distances: Sequence[float], cells: Sequence[float], ranges: Sequence[float]) -> list[float]:
    """Least upper bound of the difference of the displacements of two voxels at a Chebyshev distance.

    Theorem 1 for levels whose displacements add up on the fixed image's lattice: voxels that may share a cell of a
    level may have to move alike there; all others can move apart by twice its range. The curve is a staircase with a
    step of `2 a_k` at each `p_k`.

    Args:
        distances: in voxels, `|x - y|_inf`.
        cells: `p_k`, voxels that share one displacement at each level.
        ranges: `a_k`, the capture range of each level in voxels.

    Returns:
        The bound at each distance, voxels.
    """
    steps = list(zip(cells, ranges, strict=True))
    return [sum(2.0 * reach for cell, reach in steps if distance >= cell) for distance in distances]
