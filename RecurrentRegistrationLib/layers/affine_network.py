"""The affine network of AVSM: one look at a pair of images gives one affine map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RecurrentRegistrationLib.layers.affine_map import identity_affine
from RecurrentRegistrationLib.layers.convolution import convolution

STRIDE = 32  # from the image to the last feature map


class AffineNetwork(nn.Module):
    """A pair of images to an affine map in [-1, 1] coordinates (Shen et al., CVPR 2019, Fig. 2, "affine network").

    Both images pass the same first convolution; four channels at 1/32 of the resolution are read by two dense layers.

    Args:
        dimension: 2 or 3.
        grid: cells along each axis to which the last feature map is pooled, so that any image size will do.
        image_shape: instead of pooling, flatten the feature map of images of this one size, as in the authors' code.
        identity_residual: predict the difference from the identity, near zero at the start; otherwise the map itself,
            as in the authors' code, where the loss has to pull it to the identity first.
    """

    def __init__(
        self,
        dimension: int = 3,
        *,
        grid: int = 4,
        image_shape: Sequence[int] | None = None,
        identity_residual: bool = True,
    ) -> None:
        super().__init__()
        self.dimension, self.grid = dimension, grid
        self.image_shape = tuple(image_shape) if image_shape else None
        self.identity_residual = identity_residual
        pool = nn.MaxPool2d if dimension == 2 else nn.MaxPool3d
        self.first = convolution(dimension, 1, 16)
        self.trunk = nn.Sequential(
            pool(2),
            *_block(dimension, 32, 32),
            *_block(dimension, 32, 32, stride=2),
            *_block(dimension, 32, 32),
            pool(2),
            *_block(dimension, 32, 32),
            *_block(dimension, 32, 16, stride=2),
            *_block(dimension, 16, 16),
            *_block(dimension, 16, 4, stride=2),
        )
        cells = [-(-n // STRIDE) for n in self.image_shape] if self.image_shape else [grid] * dimension
        self.hidden = nn.Linear(4 * torch.Size(cells).numel(), 32)
        self.last = nn.Linear(32, dimension * (dimension + 1))
        if identity_residual:
            nn.init.normal_(self.last.weight, std=1e-5)
            nn.init.zeros_(self.last.bias)

    def forward(self, warped: Tensor, fixed: Tensor) -> Tensor:
        """Images `[B, 1, *S]` in [0, 1] to `[B, d, d + 1]`; raises ValueError for a size other than `image_shape`."""
        if self.image_shape and tuple(fixed.shape[2:]) != self.image_shape:
            raise ValueError(f"This affine network reads images of {self.image_shape}, not {tuple(fixed.shape[2:])}.")
        features = torch.cat([F.relu(self.first(2 * _padded(image) - 1)) for image in (fixed, warped)], dim=1)
        features = self.trunk(features)
        if not self.image_shape:
            pool = F.adaptive_avg_pool2d if self.dimension == 2 else F.adaptive_avg_pool3d
            features = pool(features, (self.grid,) * self.dimension)
        affine = self.last(F.relu(self.hidden(features.flatten(1)))).to(fixed.dtype)
        affine = affine.view(-1, self.dimension, self.dimension + 1)
        return affine + identity_affine(1, self.dimension, affine) if self.identity_residual else affine


def _block(dimension: int, inputs: int, outputs: int, *, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return convolution(dimension, inputs, outputs, stride=stride), nn.ReLU()


def _padded(image: Tensor) -> Tensor:
    """Background on both sides up to the next multiple of the network's stride: the centre stays the centre."""
    missing = [-n % STRIDE for n in image.shape[2:]]
    return F.pad(image, [side for n in reversed(missing) for side in (n // 2, n - n // 2)])
