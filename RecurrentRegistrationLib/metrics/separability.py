"""How different the motions of near voxels can be that a coarse-to-fine network predicts (motion separability)."""

from __future__ import annotations

from collections.abc import Sequence


def cell_sizes(levels: int, common: int = 0) -> list[int]:
    """Voxels that share one value at each level, coarse to fine: `2^(K - k)`, but `2^(K - q)` at the first `q` levels.

    `common` is the number q of coarsest levels that the motion-separable structure raises to one higher resolution.
    """
    return [2 ** (levels - max(k, common)) for k in range(1, levels + 1)]


def capture_range(cell: int, dilations: Sequence[int]) -> float:
    """Largest displacement `(s - 1) / 2` a level can see, `s = cell (1 + 2 sum of dilations)` its field of view."""
    return (cell * (1 + 2 * sum(dilations)) - 1) / 2


def separability(distances: Sequence[float], cells: Sequence[float], ranges: Sequence[float]) -> list[float]:
    """Least upper bound of the difference of the displacements of two voxels at a Chebyshev distance.

    After Theorem 1 of Zheng et al., Residual Aligner-based Network, Medical Image Analysis 2024: a level moves two
    points apart by at most twice its capture range, and only if they cannot share one of its cells. Levels are
    composed, the finest first, so what one has separated, the next coarser finds further apart.

    Args:
        distances: in voxels, `|x - y|_inf`.
        cells: voxels that share one displacement at each level, coarse to fine.
        ranges: capture range of each level in voxels, coarse to fine.

    Returns:
        The bound at each distance, voxels; it never falls with the distance.
    """
    bounds = []
    for distance in distances:
        apart = distance
        for cell, reach in zip(reversed(cells), reversed(ranges), strict=True):
            if apart >= cell:
                apart += 2 * reach
        bounds.append(apart - distance)
    return bounds
