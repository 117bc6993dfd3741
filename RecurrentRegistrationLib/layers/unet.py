"""U-net of strided convolutions, the backbone of VoxelMorph and of the networks that cascade it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RecurrentRegistrationLib.layers.convolution import ConvolutionBlock, displacement_head


class UNet(nn.Module):
    """Halve by strided convolutions, then double by nearest neighbours and meet the skips; any size, no padding.

    With as many levels in the decoder as convolutions in the encoder it stops at half the size.

    Args:
        dimension: 2 or 3.
        inputs: channels of the image; they are also the last skip.
        encoder: output channels of the strided convolutions.
        decoder: output channels of the convolutions at each level, from the coarsest to the full size (one more level
            than the encoder has convolutions) or to half of it.

    `outputs` is the number of channels of the result.
    """

    def __init__(
        self, dimension: int, inputs: int, *, encoder: Sequence[int], decoder: Sequence[Sequence[int]]
    ) -> None:
        super().__init__()
        if len(decoder) - len(encoder) not in (0, 1):
            raise ValueError(f"{len(encoder)} encoder convolutions need as many decoder levels, or one more.")
        widths = [inputs, *encoder]
        self.encoder = nn.ModuleList(
            ConvolutionBlock(dimension, before, after, stride=2) for before, after in zip(widths, encoder, strict=False)
        )
        self.decoder = nn.ModuleList()
        channels, skips = 0, widths[::-1]
        for skip, level in zip(skips, decoder, strict=False):
            channels += skip
            blocks = []
            for width in level:
                blocks.append(ConvolutionBlock(dimension, channels, width))
                channels = width
            self.decoder.append(nn.Sequential(*blocks))
        self.outputs = channels

    def forward(self, image: Tensor) -> Tensor:
        """Features `[B, outputs, *S]`, or half the size, of an image `[B, inputs, *S]`."""
        skips = [image]
        for block in self.encoder:
            skips.append(block(skips[-1]))
        features = self.decoder[0](skips.pop())
        for block in self.decoder[1:]:
            skip = skips.pop()
            features = F.interpolate(features, size=skip.shape[2:], mode="nearest")
            features = block(torch.cat([features, skip], dim=1))
        return features


def legacy_widths(width: int) -> dict[str, tuple]:
    """Encoder and decoder of the first VoxelMorph: 16 for RAN's baseline "VM1", 32 for "VM2"."""
    wide = 2 * width
    return {
        "encoder": (width, wide, wide, wide, wide),
        "decoder": ((wide,), (wide,), (wide,), (wide,), (wide, width), (width,)),
    }


def displacement_unet(dimension: int, *, encoder: Sequence[int], decoder: Sequence[Sequence[int]]) -> nn.Sequential:
    """A U-net from a pair of images `[B, 2, *S]` to a displacement `[B, d, *S]` in voxels that starts near zero."""
    unet = UNet(dimension, 2, encoder=encoder, decoder=decoder)
    return nn.Sequential(unet, displacement_head(dimension, unet.outputs))
