"""Both images on grids of one spacing, and what they look like under linear maps."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.linear_warp import linear_warp
from RecurrentRegistrationLib.losses.similarity import MutualInformation, normalised_mutual_information
from RecurrentRegistrationLib.pipeline.preparation import Prepared


class Level:
    """Both images on grids of one spacing, and the maps between their voxels."""

    def __init__(self, fixed: Prepared, moving: Prepared, spacing: float) -> None:
        self.spacing = spacing
        self.fixed = _coarsened(fixed, spacing)
        self.moving = _coarsened(moving, spacing)
        device = self.fixed.values.device
        self._to_index = torch.tensor(self.moving.grid.physical_to_tensor, dtype=torch.float32, device=device)
        self._to_point = torch.tensor(self.fixed.grid.tensor_to_physical, dtype=torch.float32, device=device)
        self._counted = min(self._mass(self.fixed), self._mass(self.moving))

    def _mass(self, image: Prepared) -> float:
        return math.prod(image.grid.size) if image.mask is None else float(image.mask.sum())

    def smoothed(self, sigma: float) -> Level:
        """The same with both images smoothed by a Gaussian of so many voxels."""
        level = copy(self)
        level.fixed, level.moving = _smoothed(self.fixed, sigma), _smoothed(self.moving, sigma)
        return level

    def warp(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        """The moving image under matrices `[B, d+1, d+1]`, and the weight of each fixed voxel, `[B, 1, *S]` both."""
        total = (self._to_index @ matrices @ self._to_point)[:, :-1]
        shape = self.fixed.grid.shape
        warped, weight = linear_warp(self.moving.values, total, shape)
        if self.moving.mask is not None:
            weight = weight * linear_warp(self.moving.mask, total.detach(), shape)[0]
        if self.fixed.mask is not None:
            weight = weight * self.fixed.mask
        return warped, weight

    @torch.no_grad()
    def under(self, matrix: np.ndarray) -> tuple[Tensor, Tensor]:
        """`warp` under one matrix `[d+1, d+1]`."""
        return self.warp(torch.tensor(matrix[None], dtype=torch.float32, device=self.fixed.values.device))

    def scores(self, matrices: Tensor) -> Tensor:
        """Normalised mutual information less one where the images overlap, times how far they do; `[B]`, 0 to 1."""
        warped, weight = self.warp(matrices)
        joint = MutualInformation().joint_histogram(self.fixed.values, warped, weight)
        overlap = weight.flatten(1).sum(1) / max(self._counted, 1.0)
        return (normalised_mutual_information(joint) - 1) * (overlap / 0.7).clamp(max=1)


def _coarsened(image: Prepared, spacing: float) -> Prepared:
    spacings = [max(spacing, s) if n > 1 else s for n, s in zip(image.grid.size, image.grid.spacing, strict=True)]
    steps = zip(image.grid.size, spacings, strict=True)
    return image.onto(image.grid.resampled([min(spacing * 1.5, s) if n > 1 and s > spacing else s for n, s in steps]))


def _smoothed(image: Prepared, sigma: float) -> Prepared:
    sigmas = [sigma if n > 1 else 0.0 for n in image.grid.shape]
    return replace(image, values=spatial.gaussian_smooth(image.values, sigmas))
