"""Pre-activation residual block (He et al., Identity Mappings in Deep Residual Networks, ECCV 2016)."""

from __future__ import annotations

from torch import Tensor, nn

from RecurrentRegistrationLib.layers.convolution import LEAK, convolution


class ResidualBlock(nn.Module):
    """`x + conv(act(conv(act(x))))` on `[B, channels, *S]`, LeakyReLU, no normalisation."""

    def __init__(self, dimension: int, channels: int, *, bias: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LeakyReLU(LEAK),
            convolution(dimension, channels, channels, bias=bias),
            nn.LeakyReLU(LEAK),
            convolution(dimension, channels, channels, bias=bias),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape."""
        return features + self.body(features)
