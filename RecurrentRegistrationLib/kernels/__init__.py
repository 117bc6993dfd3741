"""Fused CPU kernels on numba; a layer calls them where they can run."""
