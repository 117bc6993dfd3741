"""The pre-activation residual block."""

import pytest
import torch

from RecurrentRegistrationLib.layers.residual_block import ResidualBlock


@pytest.mark.parametrize("dimension", [2, 3])
def test_identity_where_the_last_convolution_is_zero(dimension):
    block = ResidualBlock(dimension, 3)
    torch.nn.init.zeros_(block.body[3].weight)
    torch.nn.init.zeros_(block.body[3].bias)
    features = torch.randn(2, 3, *(5, 6, 7)[:dimension])
    assert torch.equal(block(features), features)


def test_against_the_formula():
    block = ResidualBlock(2, 3, bias=False)
    features = torch.randn(1, 3, 8, 9)
    first, second = block.body[1].weight, block.body[3].weight
    act = torch.nn.functional.leaky_relu
    inner = torch.nn.functional.conv2d(act(features, 0.2), first, padding=1)
    expected = features + torch.nn.functional.conv2d(act(inner, 0.2), second, padding=1)
    torch.testing.assert_close(block(features), expected)
