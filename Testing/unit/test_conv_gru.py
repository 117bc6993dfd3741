"""The fused ConvGRU against one that is written gate by gate, as RAFT's is."""

import pytest
import torch
from torch import nn

from RecurrentRegistrationLib.layers.conv_gru import ConvGRU


class GateByGate(nn.Module):
    """Three convolutions of `[h, x]`, as in RAFT (Teed and Deng, ECCV 2020, eq. 3 to 6)."""

    def __init__(self, convolution, inputs, hidden, kernel, dilation):
        super().__init__()
        settings = {"padding": dilation * (kernel // 2), "dilation": dilation}
        self.z, self.r, self.q = (convolution(hidden + inputs, hidden, kernel, **settings) for _ in range(3))

    def forward(self, hidden, inputs):
        both = torch.cat([hidden, inputs], dim=1)
        z, r = torch.sigmoid(self.z(both)), torch.sigmoid(self.r(both))
        q = torch.tanh(self.q(torch.cat([r * hidden, inputs], dim=1)))
        return (1 - z) * hidden + z * q


@pytest.mark.parametrize(("dimension", "kernel", "dilation"), [(2, 3, 1), (3, 3, 2), (3, 1, 1), (2, 5, 1)])
def test_equals_gate_by_gate(dimension, kernel, dilation):
    torch.manual_seed(0)
    fused = ConvGRU(dimension, 3, 4, kernel=kernel, dilation=dilation)
    plain = GateByGate(nn.Conv2d if dimension == 2 else nn.Conv3d, 3, 4, kernel, dilation)
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(fused.gates, name).copy_(torch.cat([getattr(plain.z, name), getattr(plain.r, name)]))
            getattr(fused.candidate, name).copy_(getattr(plain.q, name))
    shape = (7, 6, 5)[:dimension]
    hidden, inputs = torch.randn(2, 4, *shape, requires_grad=True), torch.randn(2, 3, *shape, requires_grad=True)
    states, expected = hidden, hidden
    for _ in range(3):
        states, expected = fused(states, inputs), plain(expected, inputs)
    torch.testing.assert_close(states, expected)
    found = torch.autograd.grad(states.square().sum(), (hidden, inputs))
    for gradient, by_gate in zip(found, torch.autograd.grad(expected.square().sum(), (hidden, inputs)), strict=True):
        torch.testing.assert_close(gradient, by_gate, atol=1e-4, rtol=1e-4)


def test_the_state_keeps_its_precision_under_autocast():
    cell = ConvGRU(2, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert cell(torch.randn(1, 4, 5, 6), torch.randn(1, 3, 5, 6)).dtype == torch.float32
