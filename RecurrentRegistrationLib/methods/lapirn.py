"""LapIRN, displacement variant: a Laplacian pyramid of three networks, each adding to the displacement of the coarser.

Mok and Chung, Large Deformation Diffeomorphic Image Registration with Laplacian Pyramid Networks, MICCAI 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.convolution import LEAK, convolution, crop
from RecurrentRegistrationLib.layers.residual_block import ResidualBlock
from RecurrentRegistrationLib.methods import base
from RecurrentRegistrationLib.methods.base import Card, Method, Pair

CARD = Card(
    name="lapirn",
    title="LapIRN",
    summary="Three networks, from quarter to full resolution, each adding what the coarser ones could not see.",
    reference="Mok, Chung: Large Deformation Diffeomorphic Image Registration with Laplacian Pyramid Networks, "
    "MICCAI 2020",
    default_steps=3,
    multiple=4,
    parameters={2: 309_792, 3: 923_748},
    recurrent=True,
)
MEMORY_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
STAGES = ("1/4 res", "1/2 res", "full res")


@dataclass(frozen=True, eq=False, kw_only=True)
class State(base.State):
    """With the displacement in [-1, 1] coordinates and the features of the coarser level; None before the first."""

    normalised: Tensor | None = None
    embedding: Tensor | None = None


class Level(nn.Module):
    """One level: images and the displacement so far `[B, inputs, *S]` to what to add to it, in [-1, 1] coordinates."""

    def __init__(self, dimension: int, inputs: int, *, channels: int, reach: float) -> None:
        super().__init__()
        transposed = nn.ConvTranspose2d if dimension == 2 else nn.ConvTranspose3d
        self.reach = reach
        self.encoder = nn.Sequential(
            convolution(dimension, inputs, channels, bias=False),
            nn.LeakyReLU(LEAK),
            convolution(dimension, channels, channels, bias=False),
        )
        self.down = convolution(dimension, channels, channels, stride=2, bias=False)
        blocks = [(ResidualBlock(dimension, channels, bias=False), nn.LeakyReLU(LEAK)) for _ in range(5)]
        self.blocks = nn.Sequential(*(layer for pair in blocks for layer in pair))
        self.up = transposed(channels, channels, 2, stride=2, bias=False)
        self.head = nn.Sequential(
            convolution(dimension, 2 * channels, channels, bias=False),
            nn.LeakyReLU(LEAK),
            convolution(dimension, channels, dimension, bias=False),
            nn.Softsign(),
        )

    def forward(self, inputs: Tensor, embedding: Tensor | None) -> tuple[Tensor, Tensor]:
        """The addition `[B, d, *S]` and this level's embedding, given that of the coarser one (half the size of S)."""
        if not inputs.is_cuda:  # a third less time on a CPU
            inputs = inputs.contiguous(memory_format=MEMORY_FORMATS[inputs.ndim])
        encoded = self.encoder(inputs)
        features = self.down(encoded)
        if embedding is not None:
            features = features + embedding
        embedding = crop(self.up(self.blocks(features)), tuple(inputs.shape[2:]))
        addition = self.head(torch.cat([embedding, encoded], dim=1))
        return addition.float() * self.reach, embedding


class LapIRN(Method):
    """LapIRN with its displacements added in [-1, 1] coordinates; further steps repeat the finest level.

    Args:
        dimension: 2 or 3.
        channels: of all hidden layers (four times the paper's start channel 7).
        reach: the most one level can add, in [-1, 1] coordinates.
        checkpoint: recompute each level in the backward pass.
    """

    card = CARD

    def __init__(self, dimension: int = 3, *, channels: int = 28, reach: float = 0.4, checkpoint: bool = False) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.levels = nn.ModuleList(
            Level(dimension, inputs, channels=channels, reach=reach) for inputs in (2, 2 + dimension, 2 + dimension)
        )

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`."""
        return State(field=spatial.zero_displacement(self._images(pair)[0]))

    def advance(self, pair: Pair, state: State) -> State:
        """One level."""
        level = min(state.index, len(STAGES) - 1)
        images = self._images(pair)[level]
        if state.normalised is None:
            normalised, embedding = self.levels[level](images, None)
        else:
            before = spatial.resize(state.normalised, images.shape[2:])
            moving, fixed = images[:, :1], images[:, 1:]
            inputs = torch.cat([spatial.warp(moving, _in_voxels(before)), fixed, before], dim=1)
            addition, embedding = self.levels[level](inputs, state.embedding)
            normalised = before + addition
        # The finest level's own embedding has no finer level to go to: repeated, that level sees the coarser one's.
        embedding = state.embedding if level == len(STAGES) - 1 else embedding
        return state.after(_in_voxels(normalised), STAGES[level], normalised=normalised, embedding=embedding)

    @staticmethod
    def _images(pair: Pair) -> list[Tensor]:
        return pair.once("pyramid", lambda: _pyramid(torch.cat([pair.moving, pair.fixed], dim=1), len(STAGES)))


def _pyramid(images: Tensor, levels: int) -> list[Tensor]:
    """The images from the coarsest level to the full size, averaged over three voxels between levels."""
    pool = F.avg_pool2d if images.ndim == 4 else F.avg_pool3d
    pyramid = [images]
    for _ in range(levels - 1):
        pyramid.insert(0, pool(pyramid[0], 3, stride=2, padding=1, count_include_pad=False))
    return pyramid


def _in_voxels(normalised: Tensor) -> Tensor:
    """From [-1, 1] coordinates to voxels of the same grid."""
    half = [(n - 1) / 2 for n in normalised.shape[2:]]
    return normalised * normalised.new_tensor(half).view(1, -1, *[1] * len(half))


def create(dimension: int = 3, **options) -> LapIRN:
    """LapIRN for 2 or 3 dimensions; see its options."""
    return LapIRN(dimension, **options)
