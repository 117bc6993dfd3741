"""Convolutions that keep the size, and the head that starts near zero."""

import pytest
import torch

from RecurrentRegistrationLib.layers.convolution import ConvolutionBlock, convolution, crop, displacement_head


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 4), (7, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_size_is_kept_or_halved_rounding_up(kernel, dilation, stride):
    layer = convolution(2, 1, 2, kernel=kernel, stride=stride, dilation=dilation)
    assert layer(torch.zeros(1, 1, 9, 6)).shape == (1, 2, -(-9 // stride), -(-6 // stride))


def test_block_is_a_convolution_and_its_activation():
    block = ConvolutionBlock(3, 1, 2, stride=2)
    image = torch.randn(1, 1, 5, 6, 7)
    torch.testing.assert_close(block(image), torch.nn.functional.leaky_relu(block[0](image), 0.2))


def test_head_starts_near_zero():
    features = torch.randn(1, 16, 12, 12)
    assert displacement_head(2, 16)(features).abs().max() < 1e-2


def test_crop_takes_the_first_voxels():
    values = torch.arange(12.0).view(1, 1, 3, 4)
    assert torch.equal(crop(values, (2, 3)), values[:, :, :2, :3])
