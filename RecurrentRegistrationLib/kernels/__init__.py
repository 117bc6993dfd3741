"""Fused CPU kernels on numba; a layer calls them where they can run."""

from __future__ import annotations

import os


def let_idle_threads_sleep() -> None:
    """For programs, before PyTorch is imported; what the user has set stays.

    PyTorch and numba each keep threads that spin between two kernels and take the cores from one another; asleep they
    do not. OpenMP reads the variable when it is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
