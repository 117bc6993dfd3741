"""vSVF-opt: it finds a known displacement, smooth and without folding, and continues exactly."""

from __future__ import annotations

import pytest
import torch
from test_affine_opt import error, known_affine, smooth_image

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.affine_map import affine_displacement
from RecurrentRegistrationLib.layers.vsvf import VSVF
from RecurrentRegistrationLib.methods.affine_opt import AffineOpt
from RecurrentRegistrationLib.methods.vsvf_opt import VSVFOpt


def smooth_displacement(shape: tuple[int, ...], voxels: float) -> torch.Tensor:
    """Wide bumps, `voxels` long on average, none at the border."""
    u = torch.randn(1, len(shape), *shape, generator=torch.Generator().manual_seed(3))
    u = spatial.gaussian_smooth(u, min(shape) / 6)
    for axis, n in enumerate(shape):
        u = u * torch.hann_window(n, periodic=False).view(*[-1 if a == axis else 1 for a in range(len(shape))])
    return u * voxels / u.norm(dim=1).mean()


def quick(**options) -> VSVFOpt:
    """Light on the energy, so that all of a displacement may be found."""
    return VSVFOpt(2, iterations=(12, 12, 10), weight=0.1, **options)


def test_a_known_smooth_displacement_is_found() -> None:
    shape = (40, 46)
    moving, truth = smooth_image(shape, width=1 / 24), smooth_displacement(shape, 1.0)
    fixed = spatial.warp(moving, truth)
    *_, last = quick(affine=False).steps(fixed, moving)
    before = error(torch.zeros_like(truth), truth)
    assert before > 1.5
    assert error(last.displacement, truth) < before / 8
    assert spatial.folding_fraction(last.values) == 0
    assert not last.attached["clamped"].any()


def test_affine_and_smooth_displacement_are_found_one_after_the_other() -> None:
    shape = (40, 40)
    moving = smooth_image(shape, width=1 / 20)
    affine = affine_displacement(known_affine(2, 0.05), shape)
    truth = spatial.compose(smooth_displacement(shape, 0.7), affine)
    fixed = spatial.warp(moving, truth)
    method = quick(affine=AffineOpt(2, iterations=(30, 10, 5)))
    steps = list(method.steps(fixed, moving))
    assert [step.stage.split()[0] for step in steps] == ["affine"] * 45 + ["vSVF"] * 34
    before, after_affine, after = (error(u, truth) for u in (0 * truth, steps[44].displacement, steps[-1].displacement))
    assert after_affine < before
    assert after < before / 8
    assert torch.equal(steps[44].attached["affine"], steps[-1].attached["affine"])


def test_a_given_affine_map_is_where_it_starts() -> None:
    shape = (30, 36)
    affine = known_affine(2, 0.03)
    method = VSVFOpt(2, affine=affine, weight=1e6)  # so heavy that nothing else moves
    step = next(method.steps(smooth_image(shape), smooth_image(shape, seed=2), count=1))
    torch.testing.assert_close(step.displacement, affine_displacement(affine, shape), atol=0.02, rtol=0)
    assert torch.equal(step.attached["affine"], affine)


@pytest.mark.parametrize("stop", [2, 4, 6, 9, 12])
def test_continuing_equals_one_long_run(stop: int) -> None:
    shape = (20, 24)
    fixed, moving = smooth_image(shape), smooth_image(shape, seed=2)
    method = VSVFOpt(2, affine=AffineOpt(2, iterations=(2, 1, 1)), iterations=(3, 3, 3))
    whole = list(method.steps(fixed, moving))
    whole += list(method.steps(fixed, moving, count=2, state=whole[-1].state))
    rest = list(method.steps(fixed, moving, count=15 - stop, state=whole[stop - 1].state))
    assert [step.index for step in rest] == list(range(stop + 1, 16))
    for one, other in zip(rest, whole[stop:], strict=True):
        torch.testing.assert_close(one.values, other.values, atol=1e-5, rtol=1e-5)


def test_the_loss_never_rises_within_a_scale_and_is_what_it_says() -> None:
    shape = (32, 32)
    fixed, moving = smooth_image(shape), smooth_image(shape, seed=2)
    method = VSVFOpt(2, affine=False, scales=(1.0,), map_scales=(0.5,), iterations=(12,), similarities=[_squares])
    steps = list(method.steps(fixed, moving))
    losses = [step.attached["loss"].item() for step in steps]
    assert losses == sorted(losses, reverse=True)
    last = steps[-1]
    dissimilarity = _squares(fixed, spatial.warp(moving, last.displacement))
    expected = dissimilarity + 10 * last.attached["energy"]
    torch.testing.assert_close(last.attached["loss"], expected, atol=1e-6, rtol=1e-4)


def test_a_heavier_energy_gives_a_smoother_map() -> None:
    fixed, moving = smooth_image((32, 32)), smooth_image((32, 32), seed=2)
    roughness = []
    for weight in (0.1, 1000.0):
        method = VSVFOpt(2, affine=False, scales=(1.0,), map_scales=(0.5,), iterations=(6,), weight=weight)
        *_, last = method.steps(fixed, moving)
        roughness.append((spatial.jacobian_determinant(last.displacement) - 1).abs().mean())
    assert roughness[0] > 5 * roughness[1]


def test_parts_can_be_exchanged() -> None:
    fixed, moving = smooth_image((20, 20)), smooth_image((20, 20), seed=2)
    plain, other = (
        VSVFOpt(2, affine=False, vsvf=vsvf)(fixed, moving, count=3) for vsvf in (VSVF(), VSVF(time_steps=2))
    )
    assert not torch.equal(plain, other)


def test_works_where_gradients_are_switched_off() -> None:
    with torch.inference_mode():
        fixed, moving = smooth_image((24, 24)), smooth_image((24, 24), seed=2)
        steps = list(VSVFOpt(2).steps(fixed, moving, count=6))
    assert steps[-1].displacement.abs().max() > 0


def _squares(fixed, warped, weight=None):
    return (fixed - warped).square().mean()
