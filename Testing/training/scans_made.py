"""Images that the tests of training read."""

from __future__ import annotations

import numpy as np


def scan(seed: int, shape: tuple[int, ...] = (10, 12)) -> np.ndarray:
    """Random grey values `[1, *S]`."""
    return np.random.default_rng(seed).uniform(0, 100, (1, *shape)).astype(np.float32)
