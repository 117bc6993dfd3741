"""How alike the intensities of the fixed and the warped image are."""

from __future__ import annotations

import numpy as np
from skimage.metrics import normalized_mutual_information


def root_mean_squared_error(fixed: np.ndarray, warped: np.ndarray) -> float:
    """Square root of the mean squared difference, in the unit of the images."""
    return np.sqrt(np.mean((fixed.astype(float) - warped) ** 2)).item()


def correlation(fixed: np.ndarray, warped: np.ndarray) -> float:
    """Pearson's correlation of the intensities; 0 where one of them is constant."""
    a, b = fixed.astype(float) - fixed.mean(dtype=float), warped.astype(float) - warped.mean(dtype=float)
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return ((a * b).sum() / scale).item() if scale > 0 else 0.0


def mutual_information(fixed: np.ndarray, warped: np.ndarray, *, bins: int = 64) -> float:
    """Normalised mutual information `(H(A) + H(B)) / H(A, B)`: from 1, unrelated, to 2, one determines the other."""
    return float(normalized_mutual_information(fixed.ravel(), warped.ravel(), bins=bins))
