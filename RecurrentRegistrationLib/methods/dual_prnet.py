"""Dual-stream pyramid registration: both images' features, coarse to fine, the moving ones warped before each level.

Hu et al., Dual-Stream Pyramid Registration Network, MICCAI 2019; with `correlation` and `residual_blocks=2` its
successor, Kang et al., Dual-Stream PRNet++, Medical Image Analysis 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.convolution import ConvolutionBlock, crop, displacement_head
from RecurrentRegistrationLib.layers.local_correlation import local_correlation
from RecurrentRegistrationLib.layers.residual_block import ResidualBlock
from RecurrentRegistrationLib.methods import base
from RecurrentRegistrationLib.methods.base import Card, Method, Pair

CARD = Card(
    name="dual-prnet",
    title="Dual-stream pyramid registration network",
    summary="Compares features of both images from coarse to fine and composes what every level adds.",
    reference="Hu, Kang, Huang, Scott, Wiest, Reyes: Dual-Stream Pyramid Registration Network, MICCAI 2019",
    default_steps=5,
    parameters={2: 62_210, 3: 191_815},
    identity_at_start=True,
    recurrent=True,
)
ENCODER = (8, 16, 16, 32, 32)  # channels from the full size to a sixteenth
DECODER = (32, 32, 16, 16, 8)  # channels from a sixteenth to the full size
STAGES = ("1/16 res", "1/8 res", "1/4 res", "1/2 res", "full res")


@dataclass(frozen=True, eq=False, kw_only=True)
class State(base.State):
    """With the features `[B, C, *S]` of both images at each level, coarsest first."""

    fixed: list[Tensor]
    moving: list[Tensor]


class Pyramid(nn.Module):
    """An image `[B, 1, *S]` to features of each level, coarsest first; the same for both images."""

    def __init__(self, dimension: int, residual_blocks: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        channels = 1
        for level, width in enumerate(ENCODER):
            down = ConvolutionBlock(dimension, channels, width, stride=1 if level == 0 else 2)
            blocks = (ResidualBlock(dimension, width) for _ in range(residual_blocks))
            self.encoder.append(nn.Sequential(down, *blocks))
            channels = width
        channels = 0
        for skip, width in zip(reversed(ENCODER), DECODER, strict=True):
            self.decoder.append(ConvolutionBlock(dimension, channels + skip, width))
            channels = width

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features `[B, DECODER[level], *S_level]`."""
        skips = [image]
        for block in self.encoder:
            skips.append(block(skips[-1]))
        pyramid = [self.decoder[0](skips.pop())]
        for block in self.decoder[1:]:
            skip = skips.pop()
            up = F.interpolate(pyramid[-1], size=skip.shape[2:], mode="nearest")
            pyramid.append(block(torch.cat([up, skip], dim=1)))
        return pyramid


class DualPRNet(Method):
    """One step for each level of the pyramid; further steps repeat the finest.

    Args:
        dimension: 2 or 3.
        residual_blocks: behind each encoder convolution.
        correlation: show each level also how alike the fixed features are to those two voxels away.
        checkpoint: recompute each level in the backward pass.
    """

    card = CARD

    def __init__(
        self, dimension: int = 3, *, residual_blocks: int = 0, correlation: bool = False, checkpoint: bool = False
    ) -> None:
        super().__init__()
        self.checkpoint, self.correlation = checkpoint, correlation
        self.pyramid = Pyramid(dimension, residual_blocks)
        correlations = 3**dimension if correlation else 0
        self.heads = nn.ModuleList(displacement_head(dimension, 2 * width + correlations) for width in DECODER)

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`."""
        fixed, moving = self.pyramid(pair.fixed), self.pyramid(pair.moving)
        return State(field=spatial.zero_displacement(fixed[0].float()), fixed=fixed, moving=moving)

    def advance(self, pair: Pair, state: State) -> State:
        """One level."""
        level = min(state.index, len(STAGES) - 1)
        return state.after(self._refine(level, state.fixed[level], state.moving[level], state.field), STAGES[level])

    def _refine(self, level: int, fixed: Tensor, moving: Tensor, displacement: Tensor) -> Tensor:
        displacement = spatial.resize_displacement(displacement, fixed.shape[2:])
        warped = spatial.warp(moving.float(), displacement)
        compared = [warped, fixed]
        if self.correlation:
            compared.append(every_second_correlation(fixed, warped))
        residual = self.heads[level](torch.cat(compared, dim=1)).float()
        return spatial.compose(residual, displacement)


def every_second_correlation(fixed: Tensor, moving: Tensor) -> Tensor:
    """Correlation `[B, 3^d, *S]` of features at shifts of -2, 0 and 2 voxels along each axis.

    Each of the interleaved grids of every second voxel, put into the batch, is compared with its own neighbours.
    """
    shape = tuple(fixed.shape[2:])
    margin = [side for n in reversed(shape) for side in (0, n % 2)]
    fixed, moving = F.pad(fixed, margin), F.pad(moving, margin)
    axes = range(2, fixed.ndim)
    for axis in axes:
        fixed, moving = (torch.cat(t.unflatten(axis, (-1, 2)).unbind(axis + 1)) for t in (fixed, moving))
    correlation = local_correlation(fixed, moving, 1)
    for axis in reversed(axes):
        correlation = torch.stack(correlation.chunk(2), dim=axis + 1).flatten(axis, axis + 1)
    return crop(correlation, shape)


def create(dimension: int = 3, **options) -> DualPRNet:
    """The dual-stream pyramid network for 2 or 3 dimensions; see the options of `DualPRNet`."""
    return DualPRNet(dimension, **options)
