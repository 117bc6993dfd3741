"""Regions that move as rigid bodies: projected exactly, whatever the grid and the linear map that follows."""

import numpy as np
import pytest
import torch
from geometry import smooth_field

from RecurrentRegistrationLib.layers.regions import rigid_map
from RecurrentRegistrationLib.pipeline.guide import Guide
from RecurrentRegistrationLib.pipeline.guide_on_grid import on_grid
from RecurrentRegistrationLib.transform import Affine, DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid, Volume


def blocks(grid, *boxes):
    array = np.zeros((1, *grid.shape), np.uint8)
    for box in boxes:
        array[0][box] = 1
    return Volume(array, grid)


def inside(volume):
    return volume.grid.physical(np.argwhere(volume.array[0])[:, ::-1])


def from_rigid(points, mapped):
    return np.linalg.norm(Affine(rigid_map(points, mapped)).map_points(points) - mapped, axis=1).max()


def test_the_best_rigid_map_of_a_turned_cloud_is_the_turn():
    rng = np.random.default_rng(0)
    points, angle = rng.normal(size=(20, 3)), 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    found = rigid_map(points, points @ turn.T + [1, 2, 3])
    assert np.allclose(found[:3, :3], turn)
    assert np.allclose(found[:3, 3], [1, 2, 3])


@pytest.mark.parametrize("size", [(30, 28), (26, 24, 22)])
def test_each_connected_part_becomes_rigid_and_far_places_stay(size):
    d = len(size)
    grid = Grid(size, (2.0, 1.5, 2.5)[:d], (5.0, -3.0, 8.0)[:d], tuple(np.eye(d).ravel()))
    linear = np.eye(d + 1)
    linear[:2, :2] = [[1.1, -0.1], [0.15, 0.95]]
    first, second = (blocks(grid, (slice(a, a + 5),) * d) for a in (3, 15))
    both = Volume(first.array | second.array, grid)
    field = smooth_field(grid, 3.0)
    guidance = on_grid(Guide(rigid=both), grid, linear, torch.device("cpu"))(grid.shape)
    projected = DisplacementField(guidance.settled(field.values), grid)
    bent, rigid = (Transform((f, Affine(linear))) for f in (field, projected))
    for part in (first, second):
        points = inside(part)
        assert from_rigid(points, bent.map_points(points)) > 0.3
        assert from_rigid(points, rigid.map_points(points)) < 1e-3
    corner = (..., *[slice(-2, None)] * (d - 1), slice(0, 2))
    assert torch.equal(projected.values[corner], field.values[corner])


def test_a_region_to_be_left_alone_does_not_deform():
    grid = Grid.regular((20, 22, 24))
    mask = blocks(grid, (slice(5, 10),) * 3)
    guidance = on_grid(Guide(still=mask), grid, np.eye(4), torch.device("cpu"))(grid.shape)
    settled = guidance.settled(smooth_field(grid, 3.0).values)
    assert settled[..., 5:10, 5:10, 5:10].abs().max() == 0
    assert settled[..., 18:, 18:, 18:].abs().max() > 0
