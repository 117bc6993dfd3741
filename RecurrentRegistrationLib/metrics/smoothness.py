"""How much a transform's change of volume varies."""

from __future__ import annotations

import numpy as np


def log_jacobian_deviation(determinant: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Standard deviation of `log det`, with `det` clipped to [1e-9, 1e9], everywhere or where a mask is true."""
    inside = determinant if mask is None else determinant[mask]
    return np.log(np.clip(inside.astype(float), 1e-9, 1e9)).std().item() if inside.size else 0.0
