"""Linear cross attention between two streams of features, and the aligner made of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RecurrentRegistrationLib.layers.convolution import convolution, displacement_head
from RecurrentRegistrationLib.layers.gaussian_field import coordinate_channels
from RecurrentRegistrationLib.layers.residual_aligner import Alignment, SampleNorm, act, partner, pulled


def linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of every voxel of `[B, C, *S]` to every voxel of `[B, C, *T]` at linear cost: `[B, V, *S]`, one head.

    Weights are `f(q) f(k)` with `f = elu + 1`, normalised over the keys (Katharopoulos et al., Transformers are RNNs,
    ICML 2020). Sums run in float32.
    """
    with torch.autocast(query.device.type, enabled=False):
        q, k = (F.elu(x.float().flatten(2)) + 1 for x in (query, key))
        v = value.float().flatten(2)
        context = torch.einsum("bkn,bvn->bkv", k, v / v.shape[2])
        mass = torch.einsum("bkn,bk->bn", q, k.mean(dim=2)).unsqueeze(1)
        return (torch.einsum("bkn,bkv->bvn", q, context) / mass).unflatten(2, query.shape[2:]).to(value.dtype)


class CrossAttention(nn.Module):
    """What each stream reads from its partner, everywhere at once: a residual attention layer as in LoFTR.

    Sun et al., LoFTR, CVPR 2021. Normalised coordinates join the features, so that what is read says where it lies.
    """

    def __init__(self, dimension: int, channels: int) -> None:
        super().__init__()
        inputs = channels + dimension
        self.query, self.key, self.value = (convolution(dimension, inputs, channels, kernel=1) for _ in range(3))
        self.merge = convolution(dimension, channels, channels, kernel=1)
        self.widen = convolution(dimension, 2 * channels, 2 * channels, kernel=1)
        self.narrow = convolution(dimension, 2 * channels, channels, kernel=1)
        self.norm_message, self.norm_output = SampleNorm(), SampleNorm()

    def forward(self, features: Tensor, other: Tensor) -> Tensor:
        """The message `[2B, C, *S]` to add to features `[2B, C, *S]` from their partners' `other`, likewise."""
        places = coordinate_channels(features)
        placed, other = (torch.cat([values, places], dim=1) for values in (features, other))
        message = linear_attention(self.query(placed), self.key(other), self.value(other))
        message = torch.cat([features, self.norm_message(self.merge(message))], dim=1)
        return self.norm_output(self.narrow(act(self.widen(message))))


class AttentionAligner(nn.Module):
    """Cross attention in the place of `ResidualAligner`: a convolution reads a residual displacement off each level.

    As there, a level sees its partner through the alignment so far. A linear attention sums over the whole image, so
    that the convolution is also shown the partner at its own place.
    """

    def __init__(self, dimension: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.attention = nn.ModuleList(CrossAttention(dimension, width) for width in widths)
        self.residual = nn.ModuleList(displacement_head(dimension, 3 * width) for width in widths)

    def forward(self, level: int, features: Tensor, previous: Alignment | None) -> tuple[Tensor, Alignment]:
        """See `ResidualAligner.forward`."""
        other = partner(features)
        if previous:
            other = pulled(other, previous.displacement)
        message = self.attention[level](features, other)
        displacement = self.residual[level](torch.cat([features, message, other], dim=1)).float()
        if previous:
            displacement = displacement + previous.displacement
        return features + message, Alignment(displacement)
