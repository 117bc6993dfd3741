"""The inner gradients against autograd of the loss itself."""

import pytest
import torch

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.similarity_gradient import (
    central_difference_gradient,
    common_weight,
    gradient_of,
    squared_error_gradient,
)
from RecurrentRegistrationLib.losses.similarity import LocalCorrelation, MeanSquaredError, MutualInformation

SHAPES = [(9, 13), (6, 9, 8)]
LOSSES = [LocalCorrelation(radius=2, squared=False), MutualInformation(bins=16)]
ALL = [squared_error_gradient, central_difference_gradient, *map(gradient_of, LOSSES)]


def case(shape, batch=2):
    generator = torch.Generator().manual_seed(0)
    fixed, moving = torch.rand(2, batch, 1, *shape, generator=generator)
    displacement = torch.randn(batch, len(shape), *shape, generator=generator)
    weight = (torch.rand(batch, 1, *shape, generator=generator) > 0.3).float()
    return fixed, moving, displacement, weight


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_analytic_is_autograd_of_the_squared_error(shape, masked):
    fixed, moving, displacement, weight = case(shape)
    weight = weight if masked else None
    analytic = squared_error_gradient(fixed, moving, displacement, weight)
    torch.testing.assert_close(
        analytic, gradient_of(MeanSquaredError())(fixed, moving, displacement, weight), atol=1e-4, rtol=1e-4
    )
    leaf = displacement.clone().requires_grad_()
    error = (fixed - spatial.warp(moving, leaf, padding="border")).square() * (1 if weight is None else weight)
    (by_hand,) = torch.autograd.grad(error.sum(), leaf)
    torch.testing.assert_close(analytic, by_hand, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gradient", ALL)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_edge_of_the_grid_is_no_edge_of_the_image(gradient, shape):
    """Where a displacement leads beyond the grid, an image without contrast still has none."""
    fixed, _, displacement, _ = case(shape)
    found = gradient(fixed, torch.full_like(fixed, 0.7), 3 * displacement)
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_central_differences_agree_on_a_ramp(shape):
    ramp = spatial.identity_grid(shape)[:, :1] * 0.1
    fixed, displacement = torch.rand_like(ramp), torch.full((1, len(shape), *shape), 0.3)
    exact = squared_error_gradient(fixed, ramp, displacement)
    central = central_difference_gradient(fixed, ramp, displacement)
    inner = (slice(None), slice(None), *[slice(1, -2)] * len(shape))
    torch.testing.assert_close(central[inner], exact[inner])


@pytest.mark.parametrize(("gradient", "loss"), [*zip(ALL[2:], LOSSES, strict=True), (ALL[1], MeanSquaredError())])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_small_step_against_the_gradient_lowers_the_loss(gradient, loss, shape):
    fixed, moving, displacement, _ = case(shape)
    moving, displacement = spatial.gaussian_smooth(moving, 1.0), displacement * 0.2
    found = gradient(fixed, moving, displacement)
    before, after = (
        loss(fixed, spatial.warp(moving, displacement - step * found / found.abs().max())) for step in (0, 0.05)
    )
    assert after < before


@pytest.mark.parametrize("gradient", ALL)
def test_items_of_a_batch_do_not_mix(gradient):
    fixed, moving, displacement, weight = case((9, 13))
    together = gradient(fixed, moving, displacement, weight)
    for i in range(2):
        one = slice(i, i + 1)
        alone = gradient(fixed[one], moving[one], displacement[one], weight[one])
        torch.testing.assert_close(together[one], alone, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("gradient", ALL)
def test_inference_mode_and_autocast_change_nothing(gradient):
    expected = gradient(*case((9, 13)))
    assert not expected.requires_grad
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = gradient(*case((9, 13)))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("gradient", ALL)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_graph_of_the_gradient_itself(gradient, shape):
    """Its derivative by the displacement, against a finite difference."""
    fixed, moving, displacement, _ = case(shape, batch=1)
    moving = spatial.gaussian_smooth(moving, 1.0)
    displacement = (displacement * 0.1 + 0.5).requires_grad_()
    direction = torch.randn(displacement.shape, generator=torch.Generator().manual_seed(3))
    probe = torch.randn(displacement.shape, generator=torch.Generator().manual_seed(4))
    with_graph = gradient(fixed, moving, displacement, create_graph=True)
    (derivative,) = torch.autograd.grad((with_graph * probe).sum(), displacement)
    epsilon = 1e-3
    with torch.no_grad():
        ahead, behind = (gradient(fixed, moving, displacement + s * epsilon * direction) for s in (1, -1))
    expected = ((ahead - behind) * probe).sum() / (2 * epsilon)
    torch.testing.assert_close((derivative * direction).sum(), expected, atol=2e-2 * probe.numel() ** 0.5, rtol=0.05)


def test_common_weight():
    shape = (6, 7)
    mask = torch.zeros(1, 1, *shape)
    mask[..., 3:] = 1
    one_to_the_right = torch.zeros(1, 2, *shape)
    one_to_the_right[:, 1] = 1
    assert common_weight(None, None, one_to_the_right) is None
    assert common_weight(mask, None, one_to_the_right) is mask
    seen = common_weight(None, mask, one_to_the_right)
    assert (seen[..., 2:] == 1).all()
    assert (seen[..., :2] == 0).all()
    assert torch.equal(common_weight(mask, mask, one_to_the_right), mask)
