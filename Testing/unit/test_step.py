"""What a step tells about itself: the map that it stands for, whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from geometry import GRIDS, smooth_displacement

from RecurrentRegistrationLib.step import Step, faded_out
from RecurrentRegistrationLib.transform import Affine, DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid


def step_of(field: DisplacementField, linear: np.ndarray, domain: Grid) -> Step:
    return Step(1, "deform", "full res 1/1", field, linear, domain, similarity=0.5)


def turned(d: int) -> np.ndarray:
    """A map that turns, stretches and moves."""
    matrix = np.eye(d + 1)
    matrix[:2, :2] = [[0.9, -0.2], [0.25, 1.1]]
    matrix[:d, d] = np.arange(d) * 7 - 3
    return matrix


def test_a_step_does_not_change():
    grid = Grid.regular((3, 4))
    step = step_of(DisplacementField.zero(grid), np.eye(3), grid)
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.index = 2


@pytest.mark.parametrize("name", ["oblique", "permuted", "left-handed oblique", "2D left-handed"])
def test_the_transform_is_the_deformation_and_then_the_linear_map(name):
    d = len(GRIDS[name].cosines)
    own = Grid((9, 8, 7)[:d], (2.0, 1.5, 3.0)[:d], (5.0, -40.0, 12.0)[:d], tuple(np.ravel(GRIDS[name].cosines)))
    field = DisplacementField(smooth_displacement(own.shape, 1.0), own)
    step = step_of(field, turned(d), own)
    points = own.physical(np.random.default_rng(0).uniform(1, np.array(own.size) - 2, (40, d)))
    expected = Affine(turned(d)).map_points(field.map_points(points))
    assert np.allclose(step.transform.map_points(points), expected, atol=1e-3)


def test_without_a_deformation_the_transform_is_linear():
    grid = Grid.regular((4, 5, 6))
    transform = step_of(DisplacementField.zero(grid), turned(3), grid).transform
    assert [type(part) for part in transform.parts] == [Affine]


def test_a_deformation_fades_around_its_grid_and_ends_with_the_domain():
    domain = Grid.regular((60, 60))
    own = domain.cropped((25, 25), (10, 10))
    values = torch.full((1, 2, 10, 10), 2.0)
    faded = faded_out(DisplacementField(values, own), domain)
    far, near = Transform((faded,)), own.physical([[5, 5], [-2, 5], [-9, 5]])
    moved = far.map_points(near) - near
    assert np.allclose(moved[0], 2, atol=1e-5)
    assert 1 < moved[1][0] < 2
    assert np.allclose(moved[2], 0, atol=1e-5)
    assert (far.jacobian_determinant(domain) > 0).all()


def test_a_record_tells_of_landmarks_only_where_there_are_any():
    grid = Grid.regular((3, 4))
    step = step_of(DisplacementField.zero(grid), np.eye(3), grid)
    assert "landmark_error_mm" not in step.record()
    assert dataclasses.replace(step, landmark_error=1.5).record()["landmark_error_mm"] == 1.5
