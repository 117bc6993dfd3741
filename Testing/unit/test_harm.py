import torch
from phantom import centred, head

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.pipeline.harm import earned, explained

GRID = centred((40, 42, 44), (2.0, 2.0, 2.0))
HEAD = head(GRID).tensor().clamp(0, 2.5) / 2.5


def noise(seed, sigma=0.05):
    return sigma * torch.randn(HEAD.shape, generator=torch.Generator().manual_seed(seed))


def bumps(seed, length):
    """A smooth displacement, nine tenths of which are shorter than `length` voxels."""
    values = spatial.gaussian_smooth(
        torch.randn(1, 3, *HEAD.shape[2:], generator=torch.Generator().manual_seed(seed)), 5
    )
    return values * length / values.square().sum(dim=1).sqrt().quantile(0.9)


def moved(displacement):
    """The head as an image that `displacement` brings back."""
    return spatial.warp(HEAD, spatial.invert(displacement).displacement, padding="border")


def test_true_motion_stays_as_it_is():
    true = bumps(0, 2.0)
    moving = moved(true)
    kept = earned(HEAD, moving, true)
    inside = (HEAD > 0.2).expand_as(true)
    assert (kept - true)[inside].abs().mean() < 0.02 * true[inside].abs().mean()


def test_motion_between_images_that_differ_by_noise_alone_goes():
    false = bumps(1, 0.7)
    kept = earned((HEAD + noise(0)).clamp(0, 1), (HEAD + noise(1)).clamp(0, 1), false)
    assert kept.abs().max() < 0.05


def test_an_inverted_contrast_is_judged_as_well():
    inverted = torch.where(HEAD > 0.05, 1 - 0.8 * HEAD, torch.zeros(()))
    true = bumps(2, 3.0)
    inside = (HEAD > 0.2).expand_as(true)
    moving = spatial.warp(inverted, spatial.invert(true).displacement, padding="border")
    assert (earned(HEAD, moving, true) - true)[inside].abs().mean() < 0.05 * true[inside].abs().mean()
    assert earned(HEAD, inverted, true).abs().max() < 0.05


def test_motion_in_one_half_does_not_excuse_it_in_the_other():
    true = bumps(3, 3.0)
    still = torch.zeros_like(true)
    still[..., :22] = 1
    both, left = true, true * spatial.gaussian_smooth(1 - still, 2.0)
    kept = earned(HEAD, moved(left), both)
    inside = (HEAD > 0.2).expand_as(true)
    assert kept[..., :12][inside[..., :12]].abs().mean() < 0.25 * both[..., :12][inside[..., :12]].abs().mean()
    right = inside[..., 32:]
    assert (kept - true)[..., 32:][right].abs().mean() < 0.1 * true[..., 32:][right].abs().mean()
    assert spatial.folding_fraction(kept) == 0


def test_what_a_mask_leaves_out_does_not_speak():
    true = bumps(4, 2.0)
    mask = torch.zeros_like(HEAD)
    mask[..., 4:-4, 4:-4, 4:-4] = 1
    spoiled = torch.where(mask > 0, HEAD, torch.rand(HEAD.shape, generator=torch.Generator().manual_seed(5)))
    gain = explained(spoiled, moved(true), true, fixed_mask=mask)
    expected = explained(HEAD, moved(true), true, fixed_mask=mask)
    middle = (..., slice(14, 26), slice(14, 26), slice(14, 26))
    torch.testing.assert_close(gain[middle], expected[middle], rtol=0, atol=0.1)
