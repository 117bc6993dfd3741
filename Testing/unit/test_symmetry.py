"""Symmetry losses: zero for exact inverses, hand values otherwise."""

from __future__ import annotations

import pytest
import torch

from RecurrentRegistrationLib.layers.affine_map import affine_displacement, identity_affine
from RecurrentRegistrationLib.losses import symmetry


def affine_and_inverse(dimension: int) -> tuple[torch.Tensor, torch.Tensor]:
    forward = identity_affine(2, dimension, torch.zeros((), dtype=torch.float64))
    forward += 0.03 * torch.arange(forward.numel()).sin().view_as(forward)
    linear = torch.linalg.inv(forward[..., :-1])
    return forward, torch.cat([linear, -linear @ forward[..., -1:]], dim=-1)


@pytest.mark.parametrize("dimension", [2, 3])
def test_affine_maps_that_undo_each_other_cost_nothing(dimension: int) -> None:
    forward, backward = affine_and_inverse(dimension)
    assert symmetry.affine_symmetry(forward, backward) < 1e-24
    assert symmetry.affine_symmetry(backward, forward) < 1e-24
    assert symmetry.affine_symmetry(forward, forward) > 1e-4


def test_affine_deviation_counts_matrix_and_shift() -> None:
    affine = identity_affine(2, 2, torch.zeros(()))
    affine[0, 0, 1], affine[0, 1, 2] = 0.3, 0.4
    torch.testing.assert_close(symmetry.affine_deviation(affine), torch.tensor((0.09 + 0.16) / 2))


@pytest.mark.parametrize("shape", [(12, 15), (9, 10, 12)])
def test_displacements_that_undo_each_other_cost_nothing(shape: tuple[int, ...]) -> None:
    forward, backward = (affine_displacement(a, shape) for a in affine_and_inverse(len(shape)))
    undone = symmetry.map_symmetry(forward, backward)
    # Only where the map leaves the grid, whose border is repeated, something is left.
    assert undone < 0.02 * symmetry.map_symmetry(forward, torch.zeros_like(backward))


def test_a_shift_is_measured_in_the_unit_cube() -> None:
    shift = torch.zeros(1, 2, 11, 6)
    shift[:, 0] = 2
    torch.testing.assert_close(symmetry.map_symmetry(shift, torch.zeros_like(shift)), torch.tensor(0.2**2 / 2))
