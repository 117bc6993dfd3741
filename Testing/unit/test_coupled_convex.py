import itertools

import pytest
import torch
from torch.testing import assert_close

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.coupled_convex import agree, best_match, disagreement, dissimilarity, shifts


@pytest.mark.parametrize("size", [(7, 9), (5, 7, 6)])
def test_costs_are_squared_differences_in_units_of_chance(size):
    torch.manual_seed(0)
    fixed, moving = torch.rand(2, 2, 3, *size)
    radius, inner = 1, (..., *[slice(2, -2)] * len(size))
    costs = dissimilarity(fixed, moving, radius)
    pairs = fixed.flatten(2)[..., :, None] - moving.flatten(2)[..., None, :]
    unit = pairs.square().sum(1).mean((1, 2))
    for number, shift in enumerate(itertools.product(range(-1, 2), repeat=len(size))):
        rolled = torch.roll(moving, [-s for s in shift], dims=list(range(2, 2 + len(size))))
        mean = (fixed - rolled).square().sum(1, keepdim=True)
        for axis in range(2, 2 + len(size)):
            mean = (mean.roll(1, axis) + mean + mean.roll(-1, axis)) / 3
        expected = mean[:, 0] / unit.view(-1, *[1] * len(size))
        assert_close(costs[:, number][inner], expected[inner], atol=1e-4, rtol=1e-4)


def test_outside_the_moving_image_is_as_good_as_chance_and_outside_the_fixed_mask_nothing_is_better():
    torch.manual_seed(0)
    image = torch.rand(1, 2, 12, 12)
    mask = torch.zeros(1, 1, 12, 12)
    mask[..., :6] = 1
    costs = dissimilarity(image, image, 1, fixed_mask=mask)
    assert_close(costs[..., 8:], torch.zeros_like(costs[..., 8:]))
    nowhere = dissimilarity(image, image, 1, moving_mask=torch.zeros_like(mask))
    assert_close(nowhere, nowhere[:, :1].expand_as(nowhere))


def test_best_match_finds_a_minimum_between_the_shifts_and_gives_way_to_the_coupling():
    offsets = shifts(3, 2)
    least = torch.tensor([1.3, -0.6])
    costs = ((offsets - least) ** 2).sum(1).view(1, -1, 1, 1).expand(1, -1, 4, 5)
    free = best_match(costs, torch.zeros(1, 2, 4, 5), 0.0)
    assert_close(free, least.view(1, 2, 1, 1).expand_as(free))
    smooth = torch.full((1, 2, 4, 5), -1.0)
    assert_close(best_match(costs, smooth, 1.0), (free + smooth) / 2)  # two equal parabolas meet halfway


def test_agreement_makes_two_maps_each_others_inverses():
    y, x = spatial.identity_grid((40, 48))[0]
    wave = torch.stack([2 * torch.sin(x / 8), 1.5 * torch.cos(y / 7)])[None]
    bump = torch.exp(-((y - 20) ** 2 + (x - 24) ** 2) / 60)
    back = spatial.invert(wave).displacement + 2 * bump
    assert disagreement(wave, back)[..., 20, 24] > 1.5
    forward, backward = agree(wave, back)
    assert disagreement(forward, backward)[..., 5:-5, 5:-5].max() < 0.05
    true_inverse = spatial.invert(wave).displacement
    assert_close(agree(wave, true_inverse)[0][..., 5:-5, 5:-5], wave[..., 5:-5, 5:-5], atol=0.05, rtol=0)
