"""B-splines as a layer and the free-form deformation made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline as Reference

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers.bspline import basis, control_points, evaluate, kernel
from RecurrentRegistrationLib.losses.similarity import LocalCorrelation
from RecurrentRegistrationLib.methods import bspline


@pytest.mark.parametrize(("stride", "length"), [(3, 7), (8, 22), (19, 55)])
def test_kernels_have_the_published_lengths(stride, length):
    assert kernel(stride, 2).size == length


def test_published_transform_has_2312_parameters():
    """64, 128 and 256 pixels with control points 3, 8 and 19 apart."""
    sizes = [control_points(n, s) for n, s in ((64, 3), (128, 8), (256, 19))]
    assert sizes == [24, 18, 16]
    assert 2 * sum(n**2 for n in sizes) == 2312


@pytest.mark.parametrize("order", [1, 2, 3])
def test_kernel_nears_the_continuous_spline(order):
    stride = 50
    taps = kernel(stride, order)
    spline = Reference.basis_element(np.arange(order + 2.0), extrapolate=False)
    where = (np.arange(taps.size) + 0.5 * (order + 1)) / stride
    np.testing.assert_allclose(taps, np.nan_to_num(spline(where)), atol=0.01)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 3, 8])
@pytest.mark.parametrize("size", [1, 7, 24, 25])
def test_every_voxel_is_a_mean_of_control_points(size, stride, order):
    matrix = basis(size, stride, order)
    assert matrix.shape == (size, control_points(size, stride, order))
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(size))
    assert (matrix >= 0).all()


@pytest.mark.parametrize("shape", [(13, 20), (9, 12, 7)])
def test_constants_and_lines_stay_what_they_are(shape):
    bases = [basis(n, 4) for n in shape]
    points = [m.shape[1] for m in bases]
    torch.testing.assert_close(evaluate(torch.full((2, 3, *points), 0.7), bases), torch.full((2, 3, *shape), 0.7))
    ramp = torch.arange(float(points[0])).view(1, 1, -1, *[1] * (len(shape) - 1)).expand(1, 1, *points)
    steps = evaluate(ramp, bases).diff(dim=2)
    torch.testing.assert_close(steps, torch.full_like(steps, 0.25))


def test_field_is_a_transposed_convolution():
    """One matrix for each axis does what the published convolution with the whole kernel does."""
    coefficients, taps = torch.randn(1, 1, 7, 6), torch.from_numpy(kernel(4, 2)).float()
    dense = torch.nn.functional.conv_transpose2d(coefficients, torch.outer(taps, taps).view(1, 1, 10, 10), stride=4)
    field = evaluate(coefficients, [basis(18, 4), basis(14, 4)])
    first = (taps.numel() - 4) + 2  # two more voxels have full support on either side
    torch.testing.assert_close(field, dense[..., first : first + 18, first : first + 14], atol=1e-5, rtol=1e-4)


def known_pair(shape: tuple[int, ...], batch: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A smooth random moving image, the fixed one pulled from it, and the displacement that did it."""
    generator = torch.Generator().manual_seed(0)
    moving = spatial.gaussian_smooth(torch.rand(batch, 1, *shape, generator=generator), 1.5)
    low, high = moving.amin(), moving.amax()
    moving = (moving - low) / (high - low)
    shift = spatial.gaussian_smooth(torch.randn(batch, len(shape), *shape, generator=generator), 10.0)
    shift = shift * 2 / shift.norm(dim=1).mean()
    return spatial.warp(moving, shift, padding="border"), moving, shift


def error(displacement: torch.Tensor, shift: torch.Tensor) -> float:
    inside = (..., *[slice(6, -6)] * (shift.ndim - 2))
    return (displacement - shift)[inside].norm(dim=1).mean().item()


def test_finds_a_known_smooth_displacement():
    fixed, moving, shift = known_pair((64, 56))
    method = bspline.create(2, rate=1e-2, iterations=(40, 40, 40), strides=(3, 6, 9))
    before = error(torch.zeros_like(shift), shift)
    assert error(method(fixed, moving), shift) < 0.15 * before


def test_practical_settings_take_another_contrast():
    fixed, moving, shift = known_pair((64, 56))
    found = bspline.create(2, settings="practical")(fixed, 0.3 + 0.4 * moving)
    assert error(found, shift) < 0.15 * error(torch.zeros_like(shift), shift)
    assert spatial.folding_fraction(found) < 1e-3


def test_inference_mode_does_not_stop_it():
    fixed, moving, _ = known_pair((20, 24))
    with torch.inference_mode():
        last = list(bspline.create(2).steps(fixed, moving, count=3))[-1]
    assert last.values.abs().max() > 0


def test_scales_follow_each_other_and_the_last_goes_on():
    fixed, moving, _ = known_pair((64, 40))
    steps = list(bspline.create(2, iterations=(2, 2, 1)).steps(fixed, moving, count=7))
    assert [tuple(step.values.shape[2:]) for step in steps] == [(16, 16)] * 2 + [(32, 20)] * 2 + [(64, 40)] * 3
    assert steps[0].attached["control_points"].shape == (1, 2, 8, 8)
    losses = [step.attached["loss"] for step in steps]
    assert losses[4] > losses[5] > losses[6]


def test_a_mask_hides_what_it_leaves_out():
    """A bright square in the hidden half of the fixed image changes nothing in what is seen."""
    fixed, moving, _ = known_pair((32, 32))
    spoilt = fixed.clone()
    spoilt[..., 20:28, 20:28] = 5
    mask = torch.zeros_like(fixed)
    mask[..., :16] = 1
    method = bspline.create(2, iterations=(5, 5, 5), similarity=None)
    plain, hidden = (method(f, moving, fixed_mask=mask) for f in (fixed, spoilt))
    seen = method(spoilt, moving)
    assert (plain - hidden)[..., :10].abs().max() < 0.01 * (plain - seen).abs().max()


def test_unfit_settings_are_refused():
    with pytest.raises(InputError, match="as many strides"):
        bspline.create(2, strides=(3, 8))
    with pytest.raises(InputError, match="no settings 'fast'"):
        bspline.create(2, settings="fast")


def test_similarity_can_be_injected():
    fixed, moving, shift = known_pair((48, 40))
    method = bspline.create(
        2, similarity=LocalCorrelation(radius=4), rate=1e-2, smoothness=1.0, iterations=(20, 20, 20)
    )
    assert error(method(fixed, 1 - moving), shift) < 0.5 * error(torch.zeros_like(shift), shift)
