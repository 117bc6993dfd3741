"""RAN: motion-separable features and residual aligners, from coarse to fine, both directions at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers.convolution import LEAK, ConvolutionBlock, convolution
from RecurrentRegistrationLib.layers.residual_aligner import Alignment, ResidualAligner, SampleNorm
from RecurrentRegistrationLib.methods import base
from RecurrentRegistrationLib.methods.base import Card, Method, Pair

CARD = Card(
    name="ran",
    title="RAN: residual aligner network",
    summary="A network for organs that slide or move apart: five levels, each of which proposes several motions for "
    "every voxel and decides which one it follows.",
    reference="J.-Q. Zheng, Z. Wang, B. Huang, N. H. Lim, B. W. Papież. Residual Aligner-based Network (RAN): "
    "Motion-separable structure for coarse-to-fine discontinuous deformable registration. Medical Image Analysis 2024.",
    default_steps=5,
    spacing=2.0,
    multiple=2,
    attaches=("backward", "confidence"),
    parameters={2: 252_573, 3: 738_065},
    bytes_per_voxel=2_100,
)


@dataclass(frozen=True)
class Structure:
    """How the levels of a network lie to each other, coarse to fine.

    Attributes:
        scales: how many voxels of the image one voxel of each level spans.
        dilations: of each level's matching convolutions.
        skips: channels to which the encoder's features are reduced; None to take them as they are.
        first: how many of the encoder's levels, deepest first, the first level takes.
        encoder: channels of its blocks, each of which ends with a pooling by two.
        decoder: channels of the levels, one more than the encoder has blocks.
    """

    scales: tuple[int, ...]
    dilations: tuple[int, ...]
    skips: int | None
    first: int
    encoder: tuple[int, ...] = (8, 16, 16, 32)
    decoder: tuple[int, ...] = (32, 32, 16, 16, 8)


# The paper's Tables 2 to 4 of the appendix; ran3 has the widths of the released network.
STRUCTURES = {
    "ran0": Structure((16, 8, 4, 2, 1), (1, 1, 1, 1, 1), skips=None, first=1),
    "ran3": Structure((2, 2, 2, 2, 1), (8, 4, 2, 1, 1), 16, 2, (8, 8, 16, 32), (32, 32, 32, 16, 8)),
    "ran4": Structure((1, 1, 1, 1, 1), (16, 8, 4, 2, 1), skips=12, first=3),
    "ran4+": Structure((1, 1, 1, 1, 1), (16, 8, 4, 2, 1), skips=16, first=3),
}


class ResidualBlock(nn.Module):
    """Three normalised convolutions, the last one dilated, around a shortcut from the first."""

    def __init__(self, dimension: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Sequential(convolution(dimension, inputs, outputs), SampleNorm(), nn.LeakyReLU(LEAK))
        self.rest = nn.Sequential(
            convolution(dimension, outputs, outputs),
            SampleNorm(),
            nn.LeakyReLU(LEAK),
            convolution(dimension, outputs, outputs, dilation=3),
            SampleNorm(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """`[B, inputs, *S]` to `[B, outputs, *S]`."""
        first = self.first(features)
        return F.leaky_relu(first + self.rest(first), LEAK)


@dataclass(frozen=True, eq=False, kw_only=True)
class State(base.State):
    """With the encoder's features, and the last level's features and alignment."""

    skips: tuple[Tensor, ...]
    features: Tensor | None = None
    alignment: Alignment | None = None


class MotionSeparableNetwork(Method):
    """An encoder of both images and a decoder whose every level aligns them.

    The coarsest levels may share one higher resolution than pooling would leave them: dilation then gives them their
    range, and near voxels keep motions of their own (`metrics.separability`).

    Args:
        dimension: 2 or 3.
        structure: of the levels.
        aligner: makes what aligns the two streams, called as `ResidualAligner` is, from dimension, widths, dilations.
        checkpoint: recompute each level in the backward pass.
    """

    card = CARD

    def __init__(
        self,
        dimension: int,
        structure: Structure,
        aligner: Callable[[int, Sequence[int], Sequence[int]], nn.Module],
        *,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.dimension, self.structure, self.checkpoint = dimension, structure, checkpoint
        encoder, decoder = structure.encoder, structure.decoder
        self.encoder = nn.ModuleList(
            ResidualBlock(dimension, before, after) for before, after in zip((1, *encoder), encoder, strict=False)
        )
        self.reduce = nn.ModuleList(
            nn.Identity() if structure.skips is None else ConvolutionBlock(dimension, width, structure.skips)
            for width in encoder
        )
        skips = [structure.skips or width for width in encoder]
        incoming = [sum(skips[-structure.first :])]
        incoming += [before + skip for before, skip in zip(decoder, reversed(skips), strict=False)]
        enlarge = nn.ConvTranspose2d if dimension == 2 else nn.ConvTranspose3d
        self.enlarge, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level, (inputs, outputs) in enumerate(zip(incoming, decoder, strict=True)):
            factor = self._factor(level)
            self.enlarge.append(nn.Identity() if factor == 1 else enlarge(inputs, outputs, factor, stride=factor))
            self.decoder.append(ResidualBlock(dimension, inputs if factor == 1 else outputs, outputs))
        self.aligner = aligner(dimension, decoder, structure.dilations)
        self.output = convolution(dimension, decoder[-1] + dimension, dimension)

    def turns(self, state: State | None = None) -> int:
        """One for each level that is left."""
        return len(self.structure.scales) - (state.index if state else 0)

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`.

        Raises:
            InputError: more turns are asked for than there are levels.
        """
        self._check(count, self.turns())
        return State(field=spatial.zero_displacement(pair.fixed), skips=self._encode(pair.fixed, pair.moving))

    def resume(self, state: State, count: int | None) -> State:
        """See `Method.resume`.

        Raises:
            InputError: more turns are asked for than there are levels left.
        """
        self._check(count, self.turns(state))
        return state

    def advance(self, pair: Pair, state: State) -> State:
        """One level."""
        level, levels = state.index, len(self.structure.scales)
        scale = self.structure.scales[level]
        features, alignment = self._align(level, state)
        displacement = alignment.displacement if level + 1 < levels else self._finish(features, alignment)
        forward, backward = (on_extent(u, scale, pair.shape) for u in displacement.chunk(2))
        attached = {"backward": backward}
        if alignment.confidence is not None:
            attached["confidence"] = alignment.confidence.chunk(2)[0]
        stage = f"1/{scale} res, level {level + 1}/{levels}"
        return state.after(forward, stage, features=features, alignment=alignment, attached=attached)

    def _check(self, count: int | None, left: int) -> None:
        if count is not None and count > left:
            levels = len(self.structure.scales)
            raise InputError(
                f"{self.card.name} has {left} of its {levels} levels left: ask for at most that many steps."
            )

    def _encode(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, ...]:
        """Features of both images after each pooling, finest first, `[2B, C, *S]`."""
        images = torch.cat([fixed, moving])
        multiple = max(2, *self.structure.scales)
        missing = [-n % multiple for n in images.shape[2:]]
        features = F.pad(images, [p for n in reversed(missing) for p in (0, n)])
        pool = F.avg_pool2d if self.dimension == 2 else F.avg_pool3d
        skips = []
        for block, reduce in zip(self.encoder, self.reduce, strict=True):
            pair = [min(2, n) for n in features.shape[2:]]  # of a small image a single voxel is left before the last
            features = pool(block(features), pair, ceil_mode=True)
            skips.append(reduce(features))
        return tuple(skips)

    def _factor(self, level: int) -> int:
        """How many times as many voxels a level has along an axis as the level before it."""
        scales = self.structure.scales
        return scales[level - 1] // scales[level] if level else 1

    def _align(self, level: int, state: State) -> tuple[Tensor, Alignment]:
        """Features and alignment after one level."""
        scale = self.structure.scales[max(level - 1, 0)]
        deepest = range(self.structure.first) if state.features is None else [level - 1]
        incoming = [] if state.features is None else [state.features]
        features = torch.cat([*incoming, *(_at(scale, state.skips, number) for number in deepest)], dim=1)
        factor = self._factor(level)
        previous = state.alignment.upsampled(factor) if state.alignment else None
        return self.aligner(level, self.decoder[level](self.enlarge[level](features)), previous)

    def _finish(self, features: Tensor, alignment: Alignment) -> Tensor:
        """The displacement read off the last level's features and alignment, both directions `[2B, d, *S]`."""
        return self.output(torch.cat([features, alignment.displacement.to(features.dtype)], dim=1)).float()


def _at(scale: int, skips: Sequence[Tensor], number: int) -> Tensor:
    """The encoder's features of a depth, 0 for the deepest, each voxel repeated on the grid of a finer `scale`."""
    features = skips[-1 - number]
    for axis in range(2, features.ndim):
        features = features.repeat_interleave(2 ** (len(skips) - number) // scale, axis)
    # The finest features lie at half the size of the padded images.
    return features[(..., *[slice(2 * n // scale) for n in skips[0].shape[2:]])]


def on_extent(displacement: Tensor, scale: int, shape: Sequence[int]) -> Tensor:
    """A displacement on a pooled, padded grid as one that spans the image's own extent.

    A pooled voxel lies in the middle of the `scale` voxels it stands for, while a `Turn`'s first and last voxels are
    those of the image.

    Args:
        displacement: `[B, d, *P]`, voxels of a grid pooled by `scale`.
        scale: voxels of the image in one of the grid along each axis.
        shape: the image's own size `S`.

    Returns:
        `[B, d, *R]` with `R = ceil(S / scale)`, in its own voxels.
    """
    if scale == 1:
        return displacement[(..., *[slice(n) for n in shape])]
    size = [-(-n // scale) for n in shape]
    pitch = torch.tensor([(n - 1) / (r - 1) if r > 1 else 1.0 for n, r in zip(shape, size, strict=True)])
    pitch = pitch.to(displacement).view(1, -1, *[1] * len(size))
    own = spatial.identity_grid(size, device=displacement.device)
    values = spatial.sample_at(displacement, (own * pitch - (scale - 1) / 2) / scale, padding="border")
    return values * scale / pitch


class RAN(MotionSeparableNetwork):
    """Zheng et al., Medical Image Analysis 2024.

    Args:
        dimension: 2 or 3.
        variant: how many of the coarsest levels share a higher resolution: none (`ran0`), three (`ran3`, the released
            network) or four (`ran4`, and `ran4+` with wider skips).
        heads: candidate motions of a voxel; 1 for one motion.
        confident: weigh motions by a learnt confidence.
        checkpoint: recompute each level in the backward pass.
    """

    def __init__(
        self,
        dimension: int,
        *,
        variant: str = "ran3",
        heads: int = 6,
        confident: bool = True,
        checkpoint: bool = False,
    ) -> None:
        if variant not in STRUCTURES:
            raise InputError(f"RAN has no variant '{variant}'; choose one of {', '.join(STRUCTURES)}.")

        def aligner(dimension: int, widths: Sequence[int], dilations: Sequence[int]) -> ResidualAligner:
            return ResidualAligner(dimension, widths, dilations, heads=heads, confident=confident)

        super().__init__(dimension, STRUCTURES[variant], aligner, checkpoint=checkpoint)


def create(dimension: int = 3, **options: Any) -> RAN:
    """RAN for 2D or 3D; the options are those of `RAN`."""
    return RAN(dimension, **options)
