"""The same numbers as implementations that others trust: MONAI's blocks and losses, SimpleITK's warp."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.losses import BendingEnergyLoss, DiffusionLoss, LocalNormalizedCrossCorrelationLoss
from monai.networks.blocks import DVF2DDF, Warp

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.losses.regularity import bending, diffusion
from RecurrentRegistrationLib.losses.similarity import LocalCorrelation

SHAPES = [(17, 22), (11, 14, 12)]


def smooth_displacement(shape: tuple[int, ...], length: float = 2.0) -> torch.Tensor:
    """Random, smooth, and zero at the border."""
    generator = torch.Generator().manual_seed(3)
    values = spatial.gaussian_smooth(torch.randn(1, len(shape), *shape, generator=generator), 2.0)
    for axis, n in enumerate(shape):
        edge = torch.minimum(torch.arange(n), n - 1 - torch.arange(n)).clamp(max=3) / 3
        values = values * edge.view([-1 if a == axis else 1 for a in range(len(shape))])
    return length * values / values.abs().max()


def image(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(4))


def quadratic(shape: tuple[int, ...], degree: int) -> torch.Tensor:
    """A displacement whose components are random polynomials of the position, of degree 1 or 2."""
    generator = torch.Generator().manual_seed(5)
    position = spatial.identity_grid(shape)[0]
    linear = torch.randn(len(shape), len(shape), generator=generator)
    values = torch.einsum("ca,a...->c...", linear, position)
    if degree == 2:
        curve = torch.randn(len(shape), len(shape), len(shape), generator=generator) / 10
        values = values + torch.einsum("cab,a...,b...->c...", curve, position, position)
    return values[None]


@pytest.fixture(autouse=True)
def _monai_says_which_warp_it_uses():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_warp_is_monais(shape, padding):
    moving, displacement = image(shape), 3 * smooth_displacement(shape)
    expected = Warp(mode="bilinear", padding_mode=padding)(moving, displacement)
    torch.testing.assert_close(spatial.warp(moving, displacement, padding=padding), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_warp_is_simpleitks(shape):
    moving, displacement = image(shape), smooth_displacement(shape)
    vectors = np.moveaxis(displacement[0].numpy()[::-1], 0, -1).astype(np.float64)
    by_itk = sitk.Warp(
        sitk.GetImageFromArray(moving[0, 0].numpy()),
        sitk.GetImageFromArray(vectors, isVector=True),
        outputSize=shape[::-1],
    )
    warped = spatial.warp(moving, displacement)[0, 0].numpy()
    np.testing.assert_allclose(warped, sitk.GetArrayFromImage(by_itk), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_scaling_and_squaring_is_monais(shape):
    velocity = smooth_displacement(shape, 3.0)
    expected = DVF2DDF(num_steps=7, mode="bilinear", padding_mode="border")(velocity)
    torch.testing.assert_close(spatial.integrate(velocity, steps=7), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_smoothness_of_a_linear_displacement_is_monais(shape):
    """Where forward and central differences agree; MONAI takes the mean over components, we add them."""
    displacement = quadratic(shape, 1)
    torch.testing.assert_close(diffusion(displacement), len(shape) * DiffusionLoss()(displacement))


@pytest.mark.parametrize("shape", SHAPES)
def test_bending_of_a_quadratic_displacement_is_monais(shape):
    """Where MONAI's wider second difference and ours agree."""
    displacement = quadratic(shape, 2)
    expected = len(shape) * BendingEnergyLoss()(displacement)
    torch.testing.assert_close(bending(displacement), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_of_local_correlation_points_where_monais_does(shape):
    """Away from the border, where MONAI fills its windows with zeros."""
    fixed, moving = image(shape), spatial.warp(image(shape), smooth_displacement(shape))
    inner = torch.zeros_like(fixed)
    inner[(..., *[slice(5, -5)] * len(shape))] = 1

    def gradient(loss) -> torch.Tensor:
        values = moving.clone().requires_grad_()
        return torch.autograd.grad(loss(values), values)[0].mul(inner).flatten()

    by_monai = LocalNormalizedCrossCorrelationLoss(spatial_dims=len(shape), kernel_size=5)
    ours = gradient(lambda warped: LocalCorrelation(radius=2)(fixed, warped))
    theirs = gradient(lambda warped: by_monai(warped, fixed))
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.99
