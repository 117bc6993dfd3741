"""The gated recurrent registration unit of R2N2 and its convolutional GRU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RecurrentRegistrationLib.layers.convolution import convolution
from RecurrentRegistrationLib.layers.gaussian_field import expected_position, spatial_softmax


def instance_norm(features: Tensor) -> Tensor:
    """Zero mean and unit deviation over space of every channel `[B, C, *S]`; zero where there is one voxel."""
    lines = features.flatten(2)
    return F.layer_norm(lines, lines.shape[2:]).view(features.shape)


class TanhBlock(nn.Module):
    """Residual block conv, norm, tanh, conv, norm, sum, tanh on `[B, C, *S]`."""

    def __init__(self, dimension: int, channels: int) -> None:
        super().__init__()
        self.first = convolution(dimension, channels, channels)
        self.second = convolution(dimension, channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape."""
        inner = instance_norm(self.first(features)).tanh()
        return (features + instance_norm(self.second(inner))).tanh()


class NoisyConvolution(nn.Module):
    """A convolution without bias whose weights shake while it trains.

    Each call multiplies every weight by its own draw of a normal distribution of mean 1 and deviation `noise`, and
    drops it with probability `dropconnect`.
    """

    def __init__(self, dimension: int, inputs: int, outputs: int, *, noise: float, dropconnect: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *[3] * dimension))
        self.noise, self.dropconnect = noise, dropconnect
        self.convolve = F.conv2d if dimension == 2 else F.conv3d

    def forward(self, features: Tensor) -> Tensor:
        """`[B, inputs, *S]` to `[B, outputs, *S]`."""
        weight = self.weight
        if self.training and self.noise:
            weight = weight * (1 + self.noise * torch.randn_like(weight))
        if self.training and self.dropconnect:
            weight = F.dropout(weight, self.dropconnect)
        return self.convolve(features, weight, padding=1)


class NoisyGRU(nn.Module):
    """Convolutional GRU with `channels` in, in its state and out; only the weights on the state shake.

    `h <- (1 - z) h + z candidate`. A state of None is zero.
    """

    def __init__(self, dimension: int, channels: int, *, noise: float, dropconnect: float) -> None:
        super().__init__()
        shake = {"noise": noise, "dropconnect": dropconnect}
        self.input = convolution(dimension, channels, 3 * channels)  # reset, update, candidate
        self.gates = NoisyConvolution(dimension, channels, 2 * channels, **shake)
        self.candidate = NoisyConvolution(dimension, channels, channels, **shake)
        for weight in (*self.input.weight.chunk(3), *self.gates.weight.chunk(2), self.candidate.weight):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.input.bias)
        nn.init.ones_(self.input.bias[2 * channels :])

    def forward(self, features: Tensor, state: Tensor | None) -> Tensor:
        """The new state `[B, C, *S]`."""
        reset, update, candidate = self.input(features).chunk(3, dim=1)
        if state is None:
            return update.sigmoid() * candidate.tanh()
        from_reset, from_update = self.gates(state).chunk(2, dim=1)
        reset, update = (reset + from_reset).sigmoid(), (update + from_update).sigmoid()
        candidate = (candidate + self.candidate(reset * state)).tanh()
        return torch.lerp(state, candidate, update)


@dataclass(frozen=True)
class Proposal:
    """Where one scale would put the next Gaussian.

    Attributes:
        position: normalised, `[B, d]`.
        certainty: 0 (the two attention maps disagree) to 2 (they are one), `[B]`.
        entropy: of the attention map that gives the position, 0 (one voxel) to 1 (uniform), `[B]`.
    """

    position: Tensor
    certainty: Tensor
    entropy: Tensor


class PositionHead(nn.Module):
    """Two attention maps: the mean of the first is the position, their agreement its certainty.

    `gain` multiplies the drawn weights: a flat softmax over many voxels would put every position in the middle.
    """

    def __init__(self, dimension: int, channels: int, *, gain: float = 1.0) -> None:
        super().__init__()
        self.maps = convolution(dimension, channels, 2, kernel=1)
        with torch.no_grad():
            self.maps.weight.mul_(gain)

    def forward(self, features: Tensor) -> Proposal:
        """A proposal from features `[B, C, *S]`."""
        probability = spatial_softmax(self.maps(features))
        left, right = probability.flatten(2).unbind(1)
        entropy = -torch.special.xlogy(left, left.clamp_min(1e-12)).sum(1) / math.log(max(left.shape[1], 2))
        certainty = 2 - (left - right).abs().sum(1)
        return Proposal(expected_position(probability[:, :1]), certainty, entropy)


class GR2U(nn.Module):
    """One scale of R2N2: residual blocks, GRU with a skip, a proposal, and features of half the size.

    Sandkühler et al., NeurIPS 2019, Sec. 3.1 and Fig. 2.

    Args:
        dimension: 2 or 3.
        channels: of the input and the state.
        outputs: channels of the features handed on.
        blocks: number of residual blocks.
        noise: deviation of the multiplicative noise on the state's weights in training.
        dropconnect: probability to drop a weight of the state in training.
        gain: of the position's first weights.
    """

    def __init__(
        self,
        dimension: int,
        channels: int,
        outputs: int,
        *,
        blocks: int = 3,
        noise: float = 0.0,
        dropconnect: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(TanhBlock(dimension, channels) for _ in range(blocks)))
        self.gru = NoisyGRU(dimension, channels, noise=noise, dropconnect=dropconnect)
        self.position = PositionHead(dimension, channels, gain=gain)
        self.down = convolution(dimension, channels, outputs, stride=2)

    def forward(self, features: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor, Proposal]:
        """Features `[B, outputs, *ceil(S / 2)]`, the new state `[B, C, *S]` and the proposal."""
        features = self.blocks(features)
        state = self.gru(features, state)
        features = (state + features).tanh()
        return instance_norm(self.down(features)).tanh(), state, self.position(features)
