"""Overlap of label maps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def dice(fixed: np.ndarray, warped: np.ndarray, labels: Iterable[int] | None = None) -> dict[int, float]:
    """Dice overlap `2 |X and Y| / (|X| + |Y|)` for each foreground label of two maps of one shape.

    A label that is absent from both maps is left out, one that is absent from one of them counts 0; the background, 0,
    is not a label.

    Args:
        fixed: integer labels of any shape.
        warped: likewise, same shape.
        labels: the labels to look at; None for all of either map.
    """
    in_fixed, in_warped, in_both = _sizes(fixed), _sizes(warped), _sizes(fixed[fixed == warped])
    present = (in_fixed.keys() | in_warped.keys()) - {0}
    wanted = present if labels is None else present & set(labels)
    return {n: 2 * in_both.get(n, 0) / (in_fixed.get(n, 0) + in_warped.get(n, 0)) for n in sorted(wanted)}


def _sizes(array: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(array, return_counts=True)
    return dict(zip(values.astype(int).tolist(), counts.tolist(), strict=True))
