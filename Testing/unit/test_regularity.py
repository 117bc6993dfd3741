"""Regularisers against hand values, and what each must not punish."""

from __future__ import annotations

import pytest
import torch
from geometry import smooth_displacement

from RecurrentRegistrationLib.losses import regularity

SHAPES = [(7, 9), (6, 7, 8)]


def ramp(shape: tuple[int, ...]) -> torch.Tensor:
    """`u_c = (c + 1) (0.5 p_0 - 0.25 p_1)`: constant slopes."""
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij")
    line = 0.5 * axes[0] - 0.25 * axes[1]
    return torch.stack([(c + 1) * line for c in range(len(shape))]).unsqueeze(0).repeat(2, *[1] * (len(shape) + 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_displacement_has_the_slopes_of_its_formula(shape: tuple[int, ...]) -> None:
    u, d = ramp(shape), len(shape)
    squares = sum((c + 1) ** 2 for c in range(d))
    lengths = sum(c + 1 for c in range(d))
    slope = 0.5**2 + 0.25**2
    torch.testing.assert_close(regularity.diffusion(u).item(), squares * slope)
    torch.testing.assert_close(regularity.diffusion(u, normalisation="mean").item(), squares * slope / d**2)
    torch.testing.assert_close(regularity.gradient_l1(u).item(), lengths * 0.75 / d**2)
    torch.testing.assert_close(regularity.total_variation(u).item(), lengths * slope**0.5 / d)
    assert regularity.bending(u).item() < 1e-24


@pytest.mark.parametrize("shape", SHAPES)
def test_total_variation_in_units_of_the_image(shape: tuple[int, ...]) -> None:
    u, slope = ramp(shape), (0.5**2 + 0.25**2) ** 0.5
    expected = sum((c + 1) * 2 / (n - 1) for c, n in enumerate(shape)) * slope / len(shape)
    torch.testing.assert_close(regularity.total_variation(u, units="normalised").item(), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_bending_of_a_quadratic(shape: tuple[int, ...]) -> None:
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij")
    u = torch.zeros(1, len(shape), *shape, dtype=torch.float64)
    u[0, 0] = 0.1 * axes[0] ** 2 + 0.3 * axes[0] * axes[1]
    torch.testing.assert_close(regularity.bending(u).item(), 0.2**2 + 2 * 0.3**2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["diffusion", "gradient_l1", "total_variation", "bending", "folding_penalty"])
def test_a_shift_costs_nothing_and_gradients_are_finite_there(name: str, shape: tuple[int, ...]) -> None:
    u = torch.full((2, len(shape), *shape), 3.0, requires_grad=True)
    loss = getattr(regularity, name)(u)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(u.grad, torch.zeros_like(u))


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 3)])
@pytest.mark.parametrize("name", ["diffusion", "total_variation", "bending", "folding_penalty"])
def test_gradients_are_right(name: str, shape: tuple[int, ...]) -> None:
    u = smooth_displacement(shape, 2.0, torch.float64) + 0.1 * torch.rand(1, len(shape), *shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(getattr(regularity, name), u.requires_grad_(), fast_mode=True)


def test_an_edge_of_the_image_lets_the_displacement_jump() -> None:
    image = torch.zeros(1, 1, 12, 10)
    image[:, :, 6:] = 1
    at_edge, elsewhere = torch.zeros(1, 2, 12, 10), torch.zeros(1, 2, 12, 10)
    at_edge[:, 0, 6:] = 2
    elsewhere[:, 0, 3:] = 2
    assert regularity.edge_weighted(at_edge, image) < 0.05 * regularity.edge_weighted(elsewhere, image)
    flat = torch.zeros_like(image)
    for power in (1, 2):  # slope 1 in two of twelve rows, one of two components, along one of two axes
        expected = pytest.approx(1 * 2 / 12 / 2 / 2)
        assert regularity.edge_weighted(elsewhere, flat, power=power).item() == expected


def test_folding_penalty_measures_the_depth_of_a_fold() -> None:
    u = torch.zeros(1, 2, 9, 8)
    u[0, 0] = -1.5 * torch.arange(9.0).view(-1, 1)  # det = -0.5 everywhere
    torch.testing.assert_close(regularity.folding_penalty(u).item(), 0.5)
    torch.testing.assert_close(regularity.folding_penalty(u, margin=0.1).item(), 0.6)
    assert regularity.folding_penalty(smooth_displacement((9, 8), 0.5)).item() == 0


def test_an_axis_of_one_voxel_is_left_out() -> None:
    u = smooth_displacement((1, 7, 8), 1.0)
    for name in ("diffusion", "gradient_l1", "total_variation", "bending"):
        assert torch.isfinite(getattr(regularity, name)(u))
