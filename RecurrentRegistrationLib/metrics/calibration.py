"""Whether an uncertainty tells where a registration is wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import spearmanr

SHARES = np.linspace(0, 0.95, 20)


@dataclass(frozen=True)
class Calibration:
    """Uncertainty against error, both in millimetres.

    Attributes:
        rank_correlation: Spearman's; 1 where the order of the uncertainties is that of the errors, 0 for no relation.
        uncertainty: mean of each of ten groups of equally many voxels, from the most certain to the least.
        error: mean error of each group.
        removed: share of the voxels taken away, the most uncertain first.
        left: mean error of those that stay, for each share; it falls where the uncertainty knows the errors.
        best: the same where the largest errors are taken away first: no uncertainty can do better.
        excess: area between `left` and `best`, as a share of the mean error (sparsification error); 0 is perfect.
    """

    rank_correlation: float
    uncertainty: tuple[float, ...]
    error: tuple[float, ...]
    removed: tuple[float, ...]
    left: tuple[float, ...]
    best: tuple[float, ...]
    excess: float

    def as_dict(self) -> dict[str, object]:
        """For a report."""
        return asdict(self)


def calibration(uncertainty: np.ndarray, error: np.ndarray, *, groups: int = 10) -> Calibration:
    """Compare an uncertainty with the true error, voxel by voxel.

    Args:
        uncertainty: `[N]`.
        error: `[N]`, likewise.
        groups: how many groups the voxels are parted into.

    Raises:
        ValueError: there are fewer voxels than groups.
    """
    uncertainty, error = np.asarray(uncertainty, float).ravel(), np.asarray(error, float).ravel()
    if uncertainty.shape != error.shape or error.size < groups:
        raise ValueError(f"A calibration needs as many uncertainties as errors, {groups} or more.")
    order = np.argsort(uncertainty, kind="stable")
    parts = np.array_split(order, groups)
    left, best = _sparsified(error[order]), _sparsified(np.sort(error))
    constant = np.ptp(uncertainty) == 0 or np.ptp(error) == 0
    return Calibration(
        rank_correlation=0.0 if constant else float(spearmanr(uncertainty, error).statistic),
        uncertainty=tuple(float(uncertainty[part].mean()) for part in parts),
        error=tuple(float(error[part].mean()) for part in parts),
        removed=tuple(SHARES.tolist()),
        left=tuple(left.tolist()),
        best=tuple(best.tolist()),
        excess=float(np.trapezoid(left - best, SHARES) / max(error.mean(), 1e-12)),
    )


def _sparsified(error: np.ndarray) -> np.ndarray:
    """Mean of what stays of errors in the order of their uncertainty when the last ones are taken away."""
    means = np.cumsum(error) / np.arange(1, error.size + 1)
    kept = np.maximum(1, np.round((1 - SHARES) * error.size).astype(int))
    return means[kept - 1]
