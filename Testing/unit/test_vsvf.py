"""The vSVF against closed forms in float64: constant, rotating and zero velocities, affine initial maps."""

from __future__ import annotations

import math

import pytest
import torch

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.affine_map import affine_displacement, identity_affine
from RecurrentRegistrationLib.layers.vsvf import SIGMAS, VSVF, MultiGaussian, advect

SHAPES = [(17, 17), (17, 12), (13, 15, 11)]
for_shapes = pytest.mark.parametrize("shape", SHAPES)


def rotation(shape: tuple[int, ...], angle: float = 0.4) -> tuple[torch.Tensor, torch.Tensor]:
    """A velocity `Omega (p - c)` and the displacement of `exp(-Omega)` about the same centre, voxels."""
    d = len(shape)
    generator = torch.zeros(d, d, dtype=torch.float64)
    generator[0, 1], generator[1, 0] = -angle, angle
    if d == 3:
        generator[0, 2], generator[2, 0] = 0.3 * angle, -0.3 * angle
    centre = torch.tensor([(n - 1) / 2 for n in shape], dtype=torch.float64).view(1, d, *[1] * d)
    offset = spatial.identity_grid(shape, dtype=torch.float64) - centre
    velocity = torch.einsum("ab,nb...->na...", generator, offset)
    turned = torch.einsum("ab,nb...->na...", torch.linalg.matrix_exp(-generator), offset)
    return velocity, turned - offset


@for_shapes
def test_constant_velocity_shifts_back(shape: tuple[int, ...]) -> None:
    velocity = torch.ones(1, len(shape), *shape, dtype=torch.float64) * torch.arange(1, len(shape) + 1).view(
        1, -1, *[1] * len(shape)
    )
    torch.testing.assert_close(advect(torch.zeros_like(velocity), velocity), -velocity, atol=1e-13, rtol=0)


@for_shapes
def test_rotating_velocity_rotates_back(shape: tuple[int, ...]) -> None:
    velocity, displacement = rotation(shape)
    torch.testing.assert_close(advect(torch.zeros_like(velocity), velocity), displacement, atol=1e-6, rtol=0)


@for_shapes
def test_the_error_falls_with_the_fourth_power_of_the_time_step(shape: tuple[int, ...]) -> None:
    velocity, displacement = rotation(shape, 1.0)
    start = torch.zeros_like(velocity)
    coarse, fine = ((advect(start, velocity, time_steps=n) - displacement).abs().max() for n in (5, 10))
    assert coarse / fine == pytest.approx(16, rel=0.15)


@for_shapes
def test_an_affine_initial_map_is_followed_after_the_flow(shape: tuple[int, ...]) -> None:
    """`Phi(1) = Phi_0 o phi_v^-1`: for linear maps a product of matrices, to the order of the integration."""
    d = len(shape)
    velocity, rotated = rotation(shape)
    affine = identity_affine(1, d, velocity)
    affine += 0.1 * torch.arange(affine.numel(), dtype=torch.float64).sin().view_as(affine)
    initial = affine_displacement(affine, shape)
    half = torch.tensor([(n - 1) / 2 for n in shape], dtype=torch.float64)
    at = (spatial.identity_grid(shape, dtype=torch.float64) + rotated).flatten(2)
    moved = (affine[..., :d] @ ((at - half[:, None]) / half[:, None]) + affine[..., d:]) * half[:, None] + half[:, None]
    expected = moved.view_as(rotated) - spatial.identity_grid(shape, dtype=torch.float64)
    torch.testing.assert_close(advect(initial, velocity), expected, atol=1e-6, rtol=0)


@for_shapes
def test_four_stages_of_runge_kutta(shape: tuple[int, ...]) -> None:
    """The Taylor form equals the textbook's four stages."""
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(2, len(shape), *shape, generator=generator, dtype=torch.float64) for _ in range(2))

    def rate(displacement: torch.Tensor) -> torch.Tensor:
        return -v - sum(spatial.difference(displacement, a) * v[:, a : a + 1] for a in range(len(shape)))

    h, state = 1 / 3, u
    for _ in range(3):
        a = rate(state)
        b = rate(state + h / 2 * a)
        c = rate(state + h / 2 * b)
        state = state + h / 6 * (a + 2 * b + 2 * c + rate(state + h * c))
    torch.testing.assert_close(advect(u, v, time_steps=3), state)


@for_shapes
def test_zero_momentum_leaves_the_map(shape: tuple[int, ...]) -> None:
    initial = torch.rand(2, len(shape), *shape, dtype=torch.float64)
    result = VSVF()(torch.zeros_like(initial), initial)
    assert torch.equal(result.displacement, initial)
    assert not result.energy.any()
    assert not result.clamped.any()


@for_shapes
def test_small_flows_compose_with_a_smooth_initial_map(shape: tuple[int, ...]) -> None:
    """Carrying a map along equals composing it with the flow's own map, away from the border."""
    generator = torch.Generator().manual_seed(1)
    raw = torch.randn(2, len(shape), *shape, generator=generator, dtype=torch.float64)
    initial, velocity = (spatial.gaussian_smooth(part.unsqueeze(0), 3.0) for part in raw)
    initial, velocity = initial / initial.abs().max(), velocity / velocity.abs().max()
    flow = advect(torch.zeros_like(velocity), velocity)
    inside = (..., *[slice(3, -3)] * len(shape))
    difference = advect(initial, velocity) - spatial.compose(flow, initial)
    assert difference[inside].abs().max() < 0.05


def test_momentum_in_the_unit_cube_gives_a_velocity_in_voxels() -> None:
    momentum = torch.full((1, 3, 9, 17, 5), 0.05, dtype=torch.float64)
    result = VSVF()(momentum, torch.zeros_like(momentum))
    expected = -0.05 * torch.tensor([8.0, 16, 4], dtype=torch.float64).view(1, 3, 1, 1, 1).expand_as(momentum)
    torch.testing.assert_close(result.displacement, expected)
    torch.testing.assert_close(
        result.energy, torch.tensor([3 * 0.05**2 * momentum[0, 0].numel() / (8 * 16 * 4)]).double()
    )
    isotropic = VSVF(MultiGaussian(isotropic=True))(momentum, torch.zeros_like(momentum))
    torch.testing.assert_close(isotropic.displacement, torch.full_like(momentum, -0.05 * 16))


def test_clamp_acts_where_it_must_and_says_how_often() -> None:
    momentum = torch.zeros(2, 2, 32, 32, dtype=torch.float64)
    momentum[1, 0] = 1.0  # 31 voxels of the grid along one axis of two
    start = torch.zeros_like(momentum)
    result, free = VSVF()(momentum, start), VSVF(clamp=False)(momentum, start)
    bound = 10 * 0.75 * 2 * math.sqrt(2) / 2
    torch.testing.assert_close(result.clamped, torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(result.displacement[1, 0], torch.full((32, 32), -bound).double())
    torch.testing.assert_close(free.displacement[1, 0], torch.full((32, 32), -31.0).double())
    assert not free.clamped.any()
    torch.testing.assert_close(result.energy, free.energy)


@for_shapes
@pytest.mark.parametrize("boundary", ["periodic", "zeros", "mirror"])
def test_smoother_is_a_sum_of_gaussians(shape: tuple[int, ...], boundary: str) -> None:
    """Against sums over all voxels, with the kernel continued as the boundary says."""
    generator = torch.Generator().manual_seed(2)
    momentum = torch.randn(2, len(shape), *shape, generator=generator, dtype=torch.float64)
    expected = torch.zeros_like(momentum)
    for sigma in SIGMAS:
        part = momentum
        for axis, n in enumerate(shape):
            period = n if boundary == "periodic" else 2 * n
            distance = torch.arange(period, dtype=torch.float64)
            distance = torch.minimum(distance, period - distance)
            line = torch.exp(-0.5 * (distance / (sigma * (n - 1))) ** 2)
            line = line / line.sum()
            at = torch.arange(n)
            matrix = line[(at[:, None] - at[None]) % period]
            if boundary == "mirror":
                matrix = matrix + line[(at[:, None] + at[None] + 1) % period]
            part = (part.movedim(axis + 2, -1) @ matrix.T).movedim(-1, axis + 2)
        expected += sigma / sum(SIGMAS) * part
    torch.testing.assert_close(MultiGaussian(boundary=boundary)(momentum), expected)


@for_shapes
@pytest.mark.parametrize("boundary", ["periodic", "zeros", "mirror"])
def test_energy_is_never_negative(shape: tuple[int, ...], boundary: str) -> None:
    momentum = torch.randn(4, len(shape), *shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    energy = VSVF(MultiGaussian(boundary=boundary))(momentum, torch.zeros_like(momentum)).energy
    assert (energy > 0).all()


@pytest.mark.parametrize("shape", [(4, 3), (3, 4, 2)])
def test_gradients_are_right(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(5)
    momentum, initial = (
        0.1 * torch.randn(1, len(shape), *shape, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    layer = VSVF(time_steps=2)
    inputs = momentum.requires_grad_(), initial.requires_grad_()
    assert torch.autograd.gradcheck(lambda m, u: layer(m, u).displacement, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(lambda m, u: layer(m, u).energy, inputs, fast_mode=True)


def test_a_batch_is_independent_runs_and_half_precision_is_kept_out() -> None:
    generator = torch.Generator().manual_seed(6)
    momentum, initial = (0.1 * torch.randn(2, 3, 7, 8, 6, generator=generator) for _ in range(2))
    layer = VSVF()
    with torch.autocast("cpu", torch.bfloat16):
        together = layer(momentum, initial)
    for b in range(2):
        alone = layer(momentum[b : b + 1], initial[b : b + 1])
        for whole, part in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[b : b + 1], part)
