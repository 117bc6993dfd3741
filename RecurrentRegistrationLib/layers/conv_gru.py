"""Convolutional gated recurrent unit (Ballas et al., Delving Deeper into Convolutional Networks, ICLR 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from RecurrentRegistrationLib.layers.convolution import convolution


class ConvGRU(nn.Module):
    """`h <- (1 - z) h + z q` as in RAFT: `z, r = sigmoid(conv[h, x])`, `q = tanh(conv[r h, x])`.

    Both gates come from one convolution, the update gate z in its first half.

    Args:
        dimension: 2 or 3.
        inputs: channels of x.
        hidden: channels of h.
        kernel: side of the convolutions.
        dilation: of the convolutions.
    """

    def __init__(self, dimension: int, inputs: int, hidden: int, *, kernel: int = 3, dilation: int = 1) -> None:
        super().__init__()
        self.gates = convolution(dimension, hidden + inputs, 2 * hidden, kernel=kernel, dilation=dilation)
        self.candidate = convolution(dimension, hidden + inputs, hidden, kernel=kernel, dilation=dilation)

    def forward(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        """The next hidden state, of the shape and precision of `hidden [B, hidden, *S]`; inputs are `[B, C, *S]`."""
        update, reset = torch.sigmoid(self.gates(torch.cat([hidden, inputs], dim=1))).chunk(2, dim=1)
        candidate = torch.tanh(self.candidate(torch.cat([reset * hidden, inputs], dim=1)))
        return torch.lerp(hidden, candidate.to(hidden.dtype), update.to(hidden.dtype))
