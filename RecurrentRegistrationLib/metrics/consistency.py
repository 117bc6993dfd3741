"""Whether a transform and one back cancel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.transform import Transform


def inverse_consistency(forward: Transform, backward: Transform, points: np.ndarray) -> np.ndarray:
    """Distance `|backward(forward(x)) - x|` in millimetres at each of the points `[N, d]`."""
    return np.linalg.norm(backward.map_points(forward.map_points(points)) - points, axis=1)


def symmetry_error(forward: Tensor, backward: Tensor, *, border: int = 10) -> float:
    """Logarithm of the mean squared length, in voxels, of forward and backward displacement composed (AVSM).

    Args:
        forward: `[B, d, *S]` in voxels.
        backward: likewise, from the moving to the fixed image.
        border: voxels along each face that are not looked at.
    """
    residual = spatial.compose(forward, backward)
    for axis in range(2, residual.ndim):
        residual = residual.narrow(axis, border, residual.shape[axis] - 2 * border)
    return torch.log(residual.square().sum(dim=1).mean()).item()
