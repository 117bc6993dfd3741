"""How different the motions of near voxels can be that a coarse-to-fine network predicts (motion separability).

After Zheng et al., Residual Aligner-based Network, Medical Image Analysis 2024, Sec. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter


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

    Theorem 1 for levels whose displacements add up on the fixed image's grid: voxels that may share a cell of a
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


@dataclass(frozen=True)
class MotionHistogram:
    """Share of pairs of voxels by their distance and by how differently they move (RAN, Fig. 7).

    Attributes:
        density: `[distances, differences]`, sums to 1.
        distances: edges of the bins of `|x - y|_inf`, voxels.
        differences: edges of the bins of `|u(x) - u(y)|_inf`, voxels.
    """

    density: np.ndarray
    distances: np.ndarray
    differences: np.ndarray


def motion_histogram(
    displacement: np.ndarray,
    correct: np.ndarray,
    *,
    longest: int = 40,
    largest: float = 40.0,
    pairs: int = 200_000,
    sigma: float = 1.0,
    seed: int = 0,
) -> MotionHistogram:
    """How far apart near voxels move where the motion is right: pairs of correctly mapped voxels, drawn at random.

    Two methods are compared by the difference of their histograms.

    Args:
        displacement: `[d, *S]` in voxels.
        correct: `[*S]`, true where a labelled voxel is mapped into the same label.
        longest: distances are counted up to this, in bins of a voxel.
        largest: differences likewise.
        pairs: how many pairs are drawn.
        sigma: of the Gaussian that smooths the histogram, in bins.
        seed: of the draw.
    """
    edges = np.arange(longest + 1.0), np.arange(np.ceil(largest) + 1)
    voxels = np.argwhere(correct)
    if len(voxels) < 2:
        return MotionHistogram(np.zeros((len(edges[0]) - 1, len(edges[1]) - 1)), *edges)
    generator = np.random.default_rng(seed)
    first = voxels[generator.integers(len(voxels), size=pairs)]
    second = first + generator.integers(-longest, longest + 1, size=first.shape)
    inside = ((second >= 0) & (second < correct.shape)).all(axis=1) & (first != second).any(axis=1)
    first, second = first[inside], second[inside]
    both = correct[tuple(second.T)]
    first, second = first[both], second[both]
    distance = np.abs(first - second).max(axis=1)
    difference = np.abs(displacement[(slice(None), *first.T)] - displacement[(slice(None), *second.T)]).max(axis=0)
    counts, *_ = np.histogram2d(distance, difference, bins=edges)
    smooth = gaussian_filter(counts, sigma)
    return MotionHistogram(smooth / max(smooth.sum(), 1e-12), *edges)
