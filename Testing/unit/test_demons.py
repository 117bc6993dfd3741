"""Demons find a known displacement in each of their variants, along the right axes."""

import pytest
import torch

from RecurrentRegistrationLib import methods, spatial
from RecurrentRegistrationLib.errors import InputError


def pair(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    moving = spatial.gaussian_smooth(torch.rand(1, 1, *shape), 2.0)
    moving = (moving - moving.amin()) / (moving.amax() - moving.amin())
    truth = spatial.gaussian_smooth(torch.randn(1, len(shape), *shape), 6.0)
    truth = truth * 2 / truth.norm(dim=1).mean()
    return spatial.warp(moving, truth, padding="border"), moving, truth


@pytest.mark.parametrize("forces", ["classic", "symmetric", "fast-symmetric", "diffeomorphic"])
@pytest.mark.parametrize("shape", [(48, 40), (20, 24, 28)])
def test_known_displacement_is_found(forces, shape):
    fixed, moving, truth = pair(shape)
    found = methods.create("demons", len(shape), forces=forces)(fixed, moving)
    inside = (..., *[slice(4, -4)] * len(shape))
    error = (found - truth).norm(dim=1)[inside].mean()
    assert error < truth.norm(dim=1)[inside].mean() / 4


def test_each_step_adds_iterations():
    fixed, moving, _ = pair((32, 32))
    one = methods.create("demons", 2, iterations=5)
    two = methods.create("demons", 2, iterations=10)
    torch.testing.assert_close(one(fixed, moving, count=2), two(fixed, moving, count=1))


def test_unknown_forces_are_refused():
    with pytest.raises(InputError, match="no demons with 'magnetic' forces"):
        methods.create("demons", 2, forces="magnetic")
