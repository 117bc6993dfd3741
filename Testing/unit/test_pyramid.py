"""Smaller images cover the same extent and do not alias."""

import torch

from RecurrentRegistrationLib.layers.pyramid import shrink


def test_sizes_and_extent():
    ramp = torch.linspace(0, 1, 29).view(1, 1, 29, 1, 1).expand(1, 1, 29, 13, 16)
    small = shrink(ramp, 4)
    assert small.shape == (1, 1, 8, 4, 4)
    torch.testing.assert_close(small[0, 0, 3:5, 1, 1], torch.tensor([3 / 7, 4 / 7]), atol=1e-3, rtol=0)
    assert shrink(ramp, 1) is ramp


def test_what_is_too_fine_for_the_small_image_fades():
    stripes = (torch.arange(64) % 2).float().view(1, 1, 64, 1).expand(1, 1, 64, 64)
    assert (shrink(stripes, 4)[..., 2:-2, 2:-2] - 0.5).abs().max() < 0.01
