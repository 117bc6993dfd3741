"""The residual aligner of RAN: two streams of features find and refine how they map to each other.

Both directions run as one batch `[2B, ...]`: first the fixed image's side, which pulls the moving one, then the moving
image's side, which pulls the fixed one. All weights are shared by the directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.convolution import convolution

INNER = 18  # channels of the matching features
HIDDEN = 27  # channels before the heads' displacements
LEAK = 0.01


def partner(values: Tensor) -> Tensor:
    """The other side of each pair in a batch `[2B, ...]` that holds both directions."""
    return values.roll(values.shape[0] // 2, dims=0)


def pulled(features: Tensor, displacement: Tensor) -> Tensor:
    """Features `[2B, C, *S]` through a displacement `[2B, d, *S]`: sampled in float32, of the type that they had."""
    return spatial.warp(features.float(), displacement).to(features.dtype)


class SampleNorm(nn.Module):
    """Zero mean and unit deviation over space **and** channels of each sample, then one learnt gain and offset."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape."""
        axes = tuple(range(1, features.ndim))
        centred = features - features.mean(axes, keepdim=True)  # by hand: faster than var_mean on a CPU
        scale = self.gain * (centred.square().mean(axes, keepdim=True) + 1e-6).rsqrt()
        return torch.addcmul(self.offset, centred, scale)


def act(features: Tensor) -> Tensor:
    """The aligner's activation."""
    return F.leaky_relu(features, LEAK)


@dataclass(frozen=True)
class Alignment:
    """What one level hands to the next, both directions in the batch.

    Attributes:
        displacement: `[2B, d, *S]`, voxels of this level's grid.
        attributes: which head a voxel follows, `[2B, heads, *S]`; None where the aligner has none.
        confidence: of the level's own displacement, `[2B, 1, *S]`, 0 or more; None where it is not used.
    """

    displacement: Tensor
    attributes: Tensor | None = None
    confidence: Tensor | None = None

    def upsampled(self, factor: int) -> Alignment:
        """The same on a grid with `factor` times as many voxels, nearest neighbours."""
        if factor == 1:
            return self

        def larger(values: Tensor) -> Tensor:
            return F.interpolate(values, scale_factor=factor, mode="nearest")

        attributes = None if self.attributes is None else larger(self.attributes)
        return Alignment(factor * larger(self.displacement), attributes)


class _Level(nn.Module):
    """The weights that a level has for itself."""

    def __init__(self, dimension: int, width: int, dilation: int, heads: int, *, first: bool, confident: bool) -> None:
        super().__init__()
        before = 1 if first else 2
        self.resample = convolution(dimension, width, width, kernel=1)
        self.value = convolution(dimension, width + heads, width, kernel=1)
        self.match = nn.ModuleList(
            [
                convolution(dimension, 2 * width, INNER, dilation=dilation),
                convolution(dimension, INNER, INNER, dilation=dilation),
                convolution(dimension, INNER, INNER),
            ]
        )
        self.contest = convolution(dimension, before * heads, INNER)
        self.fuse = convolution(dimension, before * (heads + 1), INNER)
        self.confidence = convolution(dimension, heads, 1, kernel=1) if confident else None
        if self.confidence is not None:  # a ReLU that is 0 everywhere at first would never learn
            nn.init.ones_(self.confidence.bias)
        self.norm_self, self.norm_partner, self.norm_attributes, self.norm_feature, self.norm_contest = (
            SampleNorm() for _ in range(5)
        )


class ResidualAligner(nn.Module):
    """Residual aligner modules of all levels, with the weights that levels share.

    Zheng et al., Residual Aligner-based Network, Medical Image Analysis 2024, Eqs. 11 and 12, completed by the released
    network. At each level, matching features give several candidate displacements (heads), attributes decide by a
    softmax which head a voxel follows, confidences weigh what this level and the level before found, and a
    convolution fuses them; then each stream takes over its partner's features.

    Args:
        dimension: 2 or 3.
        widths: feature channels of each level.
        dilations: of the matching convolutions of each level.
        heads: candidate displacements; 1 for none to choose from.
        confident: weigh by confidence.
    """

    def __init__(
        self, dimension: int, widths: Sequence[int], dilations: Sequence[int], *, heads: int = 6, confident: bool = True
    ) -> None:
        super().__init__()
        self.dimension, self.heads = dimension, heads
        self.levels = nn.ModuleList(
            _Level(dimension, width, dilation, heads, first=k == 0, confident=confident)
            for k, (width, dilation) in enumerate(zip(widths, dilations, strict=True))
        )
        self.residual = nn.Sequential(
            convolution(dimension, INNER, HIDDEN),
            nn.LeakyReLU(LEAK),
            convolution(dimension, HIDDEN, heads * dimension, kernel=1),
        )
        self.attribute_in = convolution(dimension, INNER, INNER)
        self.attribute_out = convolution(dimension, INNER, heads, kernel=1)
        self.feature_attribute = convolution(dimension, INNER, heads, kernel=1)
        self.contest_out = convolution(dimension, INNER, heads)
        self.fuse_out = convolution(dimension, INNER, 1)

    def forward(self, level: int, features: Tensor, previous: Alignment | None) -> tuple[Tensor, Alignment]:
        """Refine one level.

        Args:
            level: its number, from 0, the coarsest.
            features: of both sides, `[2B, C, *S]`.
            previous: the alignment so far on the same grid; None at the first level.

        Returns:
            The features with what their partners added, and the new alignment.
        """
        own: _Level = self.levels[level]
        matched = self._match(own, features, previous)
        attributes = self.attribute_out(act(own.norm_attributes(self.attribute_in(matched))))
        heads = torch.cat([attributes, previous.attributes], dim=1) if previous else attributes
        contest = self.contest_out(act(own.norm_contest(own.contest(heads))))
        confidence = None if own.confidence is None else own.confidence(act(attributes)).relu()
        displacement = self._fuse(own, self.residual(matched), contest, confidence, previous)
        taken = act(own.norm_feature(self.feature_attribute(matched)))
        other = pulled(partner(features), displacement)
        features = features + act(own.value(torch.cat([other, taken], dim=1)))
        return features, Alignment(displacement, contest, confidence)

    def _match(self, own: _Level, features: Tensor, previous: Alignment | None) -> Tensor:
        """Matching features `[2B, 18, *S]` of each side and its partner, seen through the alignment so far."""
        other = own.resample(partner(features))
        if previous:
            other = pulled(other, previous.displacement)
        seen = torch.cat([own.norm_self(features), own.norm_partner(other)], dim=1)
        first, second, third = own.match
        matched = act(first(seen))
        return act(third(act(second(matched))) + matched)

    def _fuse(
        self, own: _Level, residual: Tensor, contest: Tensor, confidence: Tensor | None, previous: Alignment | None
    ) -> Tensor:
        """The new displacement `[2B, d, *S]`, float32 also where the convolutions around run in half precision."""
        shape = residual.shape[2:]
        with torch.autocast(residual.device.type, enabled=False):
            contest = contest.float()
            # One head has nobody to compete with: a softmax would always be 1.
            weight = contest.softmax(dim=1) if self.heads > 1 else contest.relu()
            weighed = weight if confidence is None else weight * confidence.float()
            if previous and own.confidence is not None:
                weight = weight * own.confidence.float()(act(previous.attributes.float())).relu()
            heads = residual.float().unflatten(1, (self.heads, self.dimension))
            components = []
            for axis in range(self.dimension):  # one after another: together they would take most of the memory
                found = heads[:, :, axis]
                candidates = [found * weighed, found.mean(dim=1, keepdim=True)]
                if previous:
                    before = previous.displacement[:, axis : axis + 1]
                    candidates += [before * weight, before]
                components.append(self.fuse_out(act(own.fuse(torch.cat(candidates, dim=1)))))
            limit = heads.new_tensor([2 * n - 1 for n in shape]).view(1, -1, *[1] * self.dimension)
            return torch.cat(components, dim=1).clamp(-limit, limit)
