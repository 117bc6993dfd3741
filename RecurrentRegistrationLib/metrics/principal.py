"""How well a series of images can be told by a few of them: low where every frame shows the same anatomy in place.

After Huizinga et al., Medical Image Analysis 2016, as RIIR uses it for quantitative MR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PrincipalDistances:
    """Of the eigenvalues `l_1 >= l_2 >= …` of the correlation matrix `K` of N frames.

    Attributes:
        first: `D_PCA1 = tr K - (l_1 + … + l_L)`: variance that the first L components leave; None where N <= L, of
            which they leave nothing whatever the frames show.
        second: `D_PCA2 = sum of j l_j`: variance weighted by the number of its component.
    """

    first: float | None
    second: float


def principal_distances(
    frames: np.ndarray, mask: np.ndarray | None = None, *, components: int = 4
) -> PrincipalDistances:
    """D_PCA1 and D_PCA2 of frames `[N, *S]`; lower is better.

    A frame without contrast correlates with none.

    Args:
        frames: intensities.
        mask: true where they count, `[*S]`; None for everywhere.
        components: L, the number of components of the signal.
    """
    pixels = frames.reshape(len(frames), -1) if mask is None else frames[:, mask]
    centred = pixels.astype(float) - pixels.mean(axis=1, keepdims=True, dtype=float)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    standard = centred / np.where(length > 0, length, 1)
    correlation = standard @ standard.T
    np.fill_diagonal(correlation, 1)
    eigenvalues = np.linalg.eigvalsh(correlation)[::-1]
    first = max(0.0, np.trace(correlation) - eigenvalues[:components].sum())  # rounding may fall below 0
    second = (np.arange(1, len(eigenvalues) + 1) * eigenvalues).sum()
    return PrincipalDistances(float(first) if len(frames) > components else None, float(second))


def central(shape: Sequence[int], share: float = 0.7) -> np.ndarray:
    """A mask of the central part of every axis; RIIR looks at 70 %."""
    mask = np.zeros(tuple(shape), bool)
    margins = [round(n * (1 - share) / 2) for n in shape]
    mask[tuple(slice(m, n - m) for m, n in zip(margins, shape, strict=True))] = True
    return mask
