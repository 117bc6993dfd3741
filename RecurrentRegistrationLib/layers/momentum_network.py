"""The momentum network of AVSM: a residual U-net that stops at half resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RecurrentRegistrationLib.layers.convolution import convolution, crop, displacement_head

STRIDE = 16  # from the image to the coarsest level


class MomentumNetwork(nn.Module):
    """A pair of images to a momentum at half resolution (Shen et al., CVPR 2019, Fig. 3).

    Four levels down to 1/16, up again to 1/2, no activation after the last two convolutions; the last one starts
    near zero. ReLU on the way down, LeakyReLU on the way up, sums within a level.
    """

    def __init__(self, dimension: int = 3) -> None:
        super().__init__()
        self.first = nn.Sequential(convolution(dimension, 2, 16), nn.ReLU())
        self.to_half = _Down(dimension, 16, 32)
        self.to_quarter = _Down(dimension, 32, 64)
        self.to_eighth = _Down(dimension, 64, 128)
        self.to_sixteenth = _Down(dimension, 128, 256, convolutions=1)
        self.up_eighth = _Up(dimension, 256, 128, 128)
        self.up_quarter = _Up(dimension, 128, 64, 32)
        self.up_half = _up_sampling(dimension, 32, 32)
        self.last = nn.Sequential(convolution(dimension, 64, 16), displacement_head(dimension, 16))

    def forward(self, warped: Tensor, fixed: Tensor) -> Tensor:
        """Images `[B, 1, *S]` in [0, 1] to a momentum `[B, d, *ceil(S / 2)]`."""
        shape = fixed.shape[2:]
        padding = [side for n in reversed(shape) for side in (0, -n % STRIDE)]
        half = self.to_half(self.first(2 * F.pad(torch.cat([warped, fixed], dim=1), padding) - 1))
        quarter = self.to_quarter(half)
        eighth = self.to_eighth(quarter)
        features = self.up_eighth(self.to_sixteenth(eighth), eighth)
        features = self.up_quarter(features, quarter)
        momentum = self.last(torch.cat([half, self.up_half(features)], dim=1)).to(fixed.dtype)
        return crop(momentum, tuple(-(-n // 2) for n in shape))


class _Down(nn.Module):
    """Half the resolution, then convolutions that each add the level's first features."""

    def __init__(self, dimension: int, inputs: int, outputs: int, *, convolutions: int = 2) -> None:
        super().__init__()
        self.down = convolution(dimension, inputs, outputs, stride=2)
        self.convolutions = nn.ModuleList(convolution(dimension, outputs, outputs) for _ in range(convolutions))

    def forward(self, features: Tensor) -> Tensor:
        first = features = F.relu(self.down(features))
        for layer in self.convolutions:
            features = F.relu(layer(features)) + first
        return features


class _Up(nn.Module):
    """Twice the resolution, the skip connection, a convolution, and one more added to it."""

    def __init__(self, dimension: int, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.up = _up_sampling(dimension, inputs, skip)
        self.merge = convolution(dimension, 2 * skip, outputs)
        self.refine = convolution(dimension, outputs, outputs)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        merged = F.leaky_relu(self.merge(torch.cat([skip, self.up(features)], dim=1)))
        return F.leaky_relu(self.refine(merged)) + merged


def _up_sampling(dimension: int, inputs: int, outputs: int) -> nn.Sequential:
    kind = nn.ConvTranspose2d if dimension == 2 else nn.ConvTranspose3d
    return nn.Sequential(kind(inputs, outputs, 2, stride=2), nn.LeakyReLU())
