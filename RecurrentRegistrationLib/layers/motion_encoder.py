"""What a recurrence sees of two feature maps and the displacement between them; how the maps are compared is a part."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RecurrentRegistrationLib.layers.convolution import convolution
from RecurrentRegistrationLib.layers.local_correlation import local_correlation

SHARPNESS = 10.0  # of the cosine: what equal features compare as

Compare = Callable[[Tensor, Tensor, int, nn.Module], Tensor]


def dot_product(fixed: Tensor, warped: Tensor, radius: int, projection: nn.Module) -> Tensor:
    """The paper's correlation of feature maps `[B, C, *S]`, projected to `[B, c, *S]`."""
    return local_correlation(fixed, warped, radius, kind="dot", projection=projection)


def cosine(fixed: Tensor, warped: Tensor, radius: int, projection: nn.Module) -> Tensor:
    """That of normalised features, which learns in far fewer iterations (ours)."""
    sharp = SHARPNESS * math.sqrt(fixed.shape[1])  # the root undoes that of the dot product
    fixed, warped = (F.normalize(features, dim=1, eps=1e-3) for features in (fixed, warped))
    return dot_product(fixed * sharp, warped, radius, projection)


def absolute_differences(fixed: Tensor, warped: Tensor, radius: int, projection: nn.Module) -> Tensor:
    """The released code's comparison."""
    return local_correlation(fixed, warped, radius, kind="sad", projection=projection)


class MotionEncoder(nn.Module):
    """Features of the local correlation and of the displacement that it was looked up with.

    Args:
        dimension: 2 or 3.
        radius: of the correlation.
        features: channels of the feature map of an image.
        compare: how the feature maps are compared.
        channels: of the motion, the displacement among them.

    Attributes:
        channels: of the result.
    """

    def __init__(self, dimension: int, radius: int, features: int, *, compare: Compare, channels: int = 16) -> None:
        super().__init__()
        self.radius, self.compare, self.channels = radius, compare, channels
        half = channels // 2
        self.displacement = convolution(dimension, dimension, 4, kernel=7)
        self.project = convolution(dimension, (2 * radius + 1) ** dimension, half, kernel=1)
        self.correlation = convolution(dimension, half, half)
        self.spread = convolution(dimension, 4, half)
        self.merge = convolution(dimension, 2 * half, channels - dimension)

    def forward(self, fixed: Tensor, warped: Tensor, displacement: Tensor) -> Tensor:
        """Features `[B, channels, *S]` of the feature maps `[B, C, *S]` and a displacement in voxels."""
        volume = F.relu(self.compare(fixed, warped, self.radius, self.project))
        told = F.relu(self.spread(F.relu(self.displacement(displacement))))
        merged = self.merge(torch.cat([F.relu(self.correlation(volume)), told], dim=1))
        return torch.cat([F.relu(merged), displacement], dim=1)


class PlainEncoder(nn.Module):
    """In the place of `MotionEncoder`, without a correlation: the displacement's features, and the fixed image's.

    Without a correlation, which has seen it, the fixed map must reach the recurrence by itself.
    """

    def __init__(self, dimension: int, radius: int, features: int, *, channels: int = 16) -> None:
        super().__init__()
        self.channels = channels + features
        self.displacement = convolution(dimension, dimension, 4, kernel=7)
        self.merge = convolution(dimension, 4, channels - dimension)

    def forward(self, fixed: Tensor, warped: Tensor, displacement: Tensor) -> Tensor:
        """As `MotionEncoder`."""
        merged = F.relu(self.merge(F.relu(self.displacement(displacement))))
        return torch.cat([merged, displacement, fixed], dim=1)
