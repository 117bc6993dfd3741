"""Affine maps in [-1, 1] coordinates against matrices applied to points."""

from __future__ import annotations

import pytest
import torch

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.affine_map import (
    affine_displacement,
    affine_matrix,
    compose_affine,
    few_voxels,
    identity_affine,
)

SHAPES = [(7, 12), (5, 9, 8), (1, 6)]


def random_affine(dimension: int, batch: int = 2, size: float = 0.2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(dimension)
    like = torch.zeros((), dtype=torch.float64)
    noise = torch.randn(batch, dimension, dimension + 1, generator=generator, dtype=torch.float64)
    return identity_affine(batch, dimension, like) + size * noise


@pytest.mark.parametrize("shape", SHAPES)
def test_displacement_is_the_map_of_normalised_positions(shape: tuple[int, ...]) -> None:
    d = len(shape)
    affine = random_affine(d)
    half = torch.tensor([(n - 1) / 2 for n in shape], dtype=torch.float64)
    voxels = spatial.identity_grid(shape, dtype=torch.float64).reshape(d, -1)
    normalised = (voxels - half[:, None]) / half.clamp(min=0.5)[:, None]
    moved = (affine[:, :, :d] @ normalised + affine[:, :, d:]) * half[:, None] + half[:, None]
    torch.testing.assert_close(affine_displacement(affine, shape).flatten(2), moved - voxels)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_matrix_is_the_displacement_in_voxels(shape: tuple[int, ...]) -> None:
    affine = random_affine(len(shape))
    for one, expected in zip(affine, affine_displacement(affine, shape), strict=True):
        found = spatial.linear_displacement(affine_matrix(one, shape), shape)[0]
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_shift_along_the_first_axis_moves_the_first_axis() -> None:
    affine = identity_affine(1, 3, torch.zeros(()))
    affine[0, 0, 3] = 0.5
    u = affine_displacement(affine, (9, 5, 7))
    torch.testing.assert_close(u[0, 0], torch.full((9, 5, 7), 2.0))
    assert not u[0, 1:].any()


@pytest.mark.parametrize("shape", [(9, 12), (10, 9, 8)])
def test_composition_follows_the_displacements(shape: tuple[int, ...]) -> None:
    new, old = random_affine(len(shape), size=0.05), random_affine(len(shape), size=0.05).flip(0)
    u_new, u_old = (affine_displacement(a, shape) for a in (new, old))
    assert u_new.abs().max() < 2
    inside = (..., *[slice(2, -2)] * len(shape))  # there nothing leaves the grid: linear interpolation is exact
    expected = affine_displacement(compose_affine(new, old), shape)
    torch.testing.assert_close(spatial.compose(u_new, u_old)[inside], expected[inside])


@pytest.mark.parametrize("shape", [(40, 12), (21, 9, 30), (5, 1)])
def test_a_few_voxels_hold_all_of_it(shape: tuple[int, ...]) -> None:
    affine = random_affine(len(shape))
    few = few_voxels(affine, shape)
    assert max(few.shape[2:]) <= 9
    torch.testing.assert_close(spatial.resize_displacement(few, shape), affine_displacement(affine, shape))


def test_mixed_precision_leaves_maps_alone() -> None:
    new, old = random_affine(3).float(), random_affine(3).float().flip(0)
    with torch.autocast("cpu", torch.bfloat16):
        composed, displacement = compose_affine(new, old), affine_displacement(new, (8, 8, 8))
    torch.testing.assert_close(composed, compose_affine(new, old))
    torch.testing.assert_close(displacement, affine_displacement(new, (8, 8, 8)))
