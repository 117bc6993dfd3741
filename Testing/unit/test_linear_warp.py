"""Images pulled through linear maps: against `warp` of the displacement, and the fused kernel against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.kernels import volumes
from RecurrentRegistrationLib.layers.linear_warp import linear_warp

SHAPES = [
    ((7, 9), (8, 6)),
    ((5, 8, 6), (7, 4, 9)),
    ((1, 7, 9), (3, 6, 8)),
    ((6, 1, 5), (6, 4, 5)),
    ((4, 6, 1), (5, 6, 2)),
]
shapes = pytest.mark.parametrize(("size", "shape"), SHAPES, ids=str)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def maps(dimension: int) -> Tensor:
    """Three maps: one that turns, one whose rows run along the edge of the image, one that leaves it on all sides.

    None of them hits a voxel, where the derivative jumps.
    """
    straight = torch.eye(dimension, dimension + 1).repeat(3, 1, 1)
    straight[1, :, -1] = -0.25
    return straight + torch.tensor([0.3, 0.0, 0.9]).view(3, 1, 1) * (random(*straight.shape, seed=3) - 0.5) * 2


@shapes
def test_it_is_the_warp_of_the_maps_displacement(size: tuple[int, ...], shape: tuple[int, ...]) -> None:
    image, matrices = random(1, 1, *size), maps(len(shape))
    values, inside = linear_warp(image, matrices, shape)
    for found, within, matrix in zip(values, inside, matrices, strict=True):
        homogeneous = np.vstack([matrix.double().numpy(), np.eye(len(shape) + 1)[-1]])
        displacement = spatial.linear_displacement(homogeneous, shape)
        torch.testing.assert_close(found[None], spatial.warp(image, displacement), atol=2e-5, rtol=0)
        points = spatial.identity_grid(shape) + displacement
        limit = torch.tensor(size).view(1, -1, *[1] * len(shape)) - 0.5
        expected = ((points > -0.5) & (points < limit)).all(dim=1)
        unsure = ((points + 0.5).abs() < 1e-5).any(dim=1) | ((points - limit).abs() < 1e-5).any(dim=1)
        assert ((within == expected) | unsure).all()


@shapes
def test_the_derivative_is_torchs(size: tuple[int, ...], shape: tuple[int, ...], monkeypatch) -> None:
    image, weights = random(1, 1, *size), random(3, 1, *shape, seed=2)
    found = []
    for usable in (volumes._usable, False):
        monkeypatch.setattr(volumes, "_usable", usable)
        matrices = maps(len(shape)).requires_grad_()
        values, _ = linear_warp(image, matrices, shape)
        found.append(torch.autograd.grad((values * weights).sum(), matrices)[0])
    torch.testing.assert_close(*found, atol=2e-4, rtol=2e-4)


def test_a_map_that_is_no_number_reads_nothing() -> None:
    matrices = torch.full((1, 3, 4), torch.nan)
    matrices[:, :, 3] = 1
    _, inside = linear_warp(random(1, 1, 4, 5, 6), matrices, (4, 5, 6))
    assert not inside.any()


@pytest.mark.parametrize("far", [1e3, 1e8, 1e20])
def test_a_map_to_far_away_reads_nothing(far: float) -> None:
    matrices = torch.eye(3, 4)[None] * torch.tensor([1.0, 1.0, 1.0, 0.0])
    matrices[:, 2, 3] = far
    values, inside = linear_warp(random(1, 1, 4, 5, 6), matrices, (4, 5, 6))
    assert not values.any()
    assert not inside.any()


def test_without_a_gradient_of_the_image_only() -> None:
    # The kernel has none; torch takes over.
    image = random(1, 1, 4, 5, 6).requires_grad_()
    values, _ = linear_warp(image, torch.eye(3, 4)[None], (4, 5, 6))
    (gradient,) = torch.autograd.grad(values.sum(), image)
    torch.testing.assert_close(gradient, torch.ones_like(image))
