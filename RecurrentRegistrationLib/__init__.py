"""Deformable medical image registration that refines step by step."""

import os

__version__ = "0.1.0"

# PyTorch and numba each keep threads that spin between two kernels and take the cores from one another; asleep they do
# not. OpenMP reads this when it is loaded, so it holds where this package is imported before torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
