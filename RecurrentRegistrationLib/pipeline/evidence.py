"""How well a map explains the fixed image, judged by a measure that no method follows.

Methods follow local correlation or descriptors of self-similarity. Both can be raised by motion that is not there:
where contrasts differ, where slices are thick, and where there is nothing but noise. The judge is what remains unknown
of a fixed voxel once the warped one is seen, `-log p(f | w)`, with one joint histogram for the whole image (the
conditional entropy of Wells et al., Medical Image Analysis 1996). It needs no likeness of contrasts, and a wrong
displacement in one place cannot make a relation that holds everywhere else.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from RecurrentRegistrationLib.losses.similarity import MutualInformation
from RecurrentRegistrationLib.pipeline.levels import Level

BINS = 32
STEADY = 1.0  # voxels: interpolation takes noise away, and a map would look better for that alone
SIDE = 4  # voxels of a block
CLEAR = 0.05  # of correlation, or of surprise in natural logarithms: a difference that is not by chance
FEW = 0.02  # of the blocks
TEXTURE = 1e-3  # variance of intensities in [0, 1] below which a block shows nothing


def surprise(fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
    """`-log p(f | w)` at every voxel, natural logarithm, `[1, 1, *S]`.

    Args:
        fixed: `[1, 1, *S]` in [0, 1].
        warped: the same of the moving image.
        weight: `[1, 1, *S]`, how much each voxel counts in the histogram.
    """
    joint = MutualInformation(BINS).joint_histogram(fixed, warped, weight)[0]
    known = (joint + 1e-7) / (joint.sum(dim=0, keepdim=True) + BINS * 1e-7)
    row = (fixed * (BINS - 1)).round().long().clamp(0, BINS - 1)
    column = (warped * (BINS - 4) + 1.5).round().long().clamp(0, BINS - 1)  # as the histogram places it
    return -torch.log(known[row, column])


class Blocks:
    """What many small blocks of the fixed image, each for itself, say of linear maps.

    Args:
        level: both images.
        like: whether blocks of one contrast are compared, by correlation; otherwise by `surprise`.
    """

    def __init__(self, level: Level, like: bool) -> None:
        level = level.smoothed(STEADY)
        fixed = level.fixed.values
        self._level, self._like = level, like
        self._pool = F.avg_pool2d if fixed.ndim == 4 else F.avg_pool3d
        self._side = tuple(min(SIDE, n) for n in fixed.shape[2:])
        inside = torch.ones_like(fixed) if level.fixed.mask is None else (level.fixed.mask > 0.5).to(fixed)
        share = self._mean(inside)
        mean = self._mean(fixed * inside) / share.clamp_min(1e-6)
        variance = self._mean(fixed.square() * inside) / share.clamp_min(1e-6) - mean.square()
        self._telling = (variance > TEXTURE) & (share > 0.5)

    def gaining(self, first: np.ndarray, second: np.ndarray) -> float:
        """Share of the blocks that the second map makes more alike, of those that either clearly does.

        0 where hardly any block tells of a difference; 1 where none tells anything at all.
        """
        gain = self._likeness(second) - self._likeness(first)
        better, worse = int((gain > CLEAR).sum()), int((gain < -CLEAR).sum())
        if better + worse <= FEW * gain.numel():
            return 0.0 if gain.numel() else 1.0
        return better / (better + worse)

    def _mean(self, values: Tensor) -> Tensor:
        return self._pool(values, self._side)

    @torch.no_grad()
    def _likeness(self, matrix: np.ndarray) -> Tensor:
        """Of each telling block under a map; what is not seen counts as unlike."""
        fixed = self._level.fixed.values
        warped, weight = self._level.under(matrix)
        seen = self._mean(weight)
        if not self._like:
            unseen = math.log(BINS) * (1 - seen)
            return -(self._mean(surprise(fixed, warped, weight) * weight) + unseen)[self._telling]

        def mean(values: Tensor) -> Tensor:
            return self._mean(weight * values) / seen.clamp_min(1e-6)

        covariance = mean(fixed * warped) - mean(fixed) * mean(warped)
        spread = [(mean(i.square()) - mean(i).square()).clamp_min(0) + TEXTURE / 10 for i in (fixed, warped)]
        return (covariance * (spread[0] * spread[1]).rsqrt() * seen)[self._telling]
