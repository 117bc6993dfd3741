"""The momentum network: the paper's parameter count, any size, zero at the start."""

from __future__ import annotations

import pytest
import torch

from RecurrentRegistrationLib.layers.momentum_network import MomentumNetwork


@pytest.mark.parametrize(("dimension", "expected"), [(3, 5_938_515), (2, 2_036_514)])
def test_published_count(dimension: int, expected: int) -> None:
    assert sum(p.numel() for p in MomentumNetwork(dimension).parameters()) == expected


@pytest.mark.parametrize("shape", [(33, 18), (5, 64), (17, 9, 20)])
def test_half_resolution_of_any_size_and_almost_zero_at_the_start(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    momentum = MomentumNetwork(len(shape))(*torch.rand(2, 2, 1, *shape))
    assert momentum.shape == (2, len(shape), *[-(-n // 2) for n in shape])
    assert 0 < momentum.abs().max() < 1e-3


def test_padding_is_background() -> None:
    """An image padded by hand to the network's stride gives what the image itself gives."""
    torch.manual_seed(0)
    network = MomentumNetwork(2)
    images = torch.zeros(2, 1, 1, 32, 32)
    images[..., :20, :25] = torch.rand(2, 1, 1, 20, 25)
    whole = network(*images)
    cropped = network(*images[..., :20, :25])
    torch.testing.assert_close(cropped, whole[..., :10, :13], atol=1e-9, rtol=1e-4)
