"""Gaussian displacements, rotations and soft positions against hand values."""

from __future__ import annotations

import math

import pytest
import torch

from RecurrentRegistrationLib.layers.gaussian_field import (
    Gaussian,
    axis_coordinates,
    coordinate_channels,
    expected_position,
    rotation_of_angle,
    rotation_of_quaternion,
    spatial_softmax,
)

STILL = torch.tensor([[1.0, 0.0, 0.0, 0.0]])


def turn_about_first_axis(angle: float) -> torch.Tensor:
    return torch.tensor([[math.cos(angle / 2), math.sin(angle / 2), 0.0, 0.0]])


def by_hand(gaussian: Gaussian, item: int, point: list[float]) -> list[float]:
    """The formula of the paper at one point."""
    offset = torch.tensor(point) - gaussian.centre[item]
    along = gaussian.rotation[item].T @ offset
    form = sum((a / s) ** 2 for a, s in zip(along.tolist(), gaussian.sigma[item].tolist(), strict=True))
    return [v * math.exp(-0.5 * form) for v in gaussian.weight[item].tolist()]


@pytest.mark.parametrize("dimension", [2, 3])
def test_displacement_is_the_formula(dimension):
    shape = (5, 9) if dimension == 2 else (5, 9, 7)
    torch.manual_seed(0)
    orientation = torch.tensor([[0.3], [2.0]]) if dimension == 2 else torch.randn(2, 4)
    gaussian = Gaussian(
        0.5 * torch.randn(2, dimension), 0.2 + torch.rand(2, dimension), orientation, torch.randn(2, dimension)
    )
    field = gaussian.displacement(shape)
    assert field.shape == (2, dimension, *shape)
    for item in range(2):
        for index in ([0] * dimension, [4, 2, 6][:dimension], [1, 8, 3][:dimension]):
            point = [2 * i / (n - 1) - 1 for i, n in zip(index, shape, strict=True)]
            found = field[(item, slice(None), *index)]
            torch.testing.assert_close(found, torch.tensor(by_hand(gaussian, item, point)), atol=1e-6, rtol=1e-4)


def test_a_turned_gaussian_lies_along_its_angle():
    """A long Gaussian along the first axis, turned by 90 degrees, lies along the second."""
    centre, weight = torch.zeros(1, 2), torch.ones(1, 2)
    long = Gaussian(centre, torch.tensor([[0.8, 0.1]]), torch.tensor([[math.pi / 2]]), weight)
    wide = Gaussian(centre, torch.tensor([[0.1, 0.8]]), torch.tensor([[0.0]]), weight)
    torch.testing.assert_close(long.displacement((9, 9)), wide.displacement((9, 9)), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("angle", [0.0, 0.7, -2.0])
def test_in_its_central_slice_a_volume_is_a_plane(angle):
    """A quaternion about the first axis turns the two others as the angle does in 2D; (1, 0, 0, 0) turns nothing."""
    flat = Gaussian(
        torch.tensor([[0.2, -0.3]]), torch.tensor([[0.5, 0.2]]), torch.tensor([[angle]]), torch.tensor([[1.0, -2.0]])
    )
    solid = Gaussian(
        torch.tensor([[0.0, 0.2, -0.3]]),
        torch.tensor([[0.4, 0.5, 0.2]]),
        turn_about_first_axis(angle) if angle else STILL,
        torch.tensor([[3.0, 1.0, -2.0]]),
    )
    slice_ = solid.displacement((7, 9, 8))[:, 1:, 3]
    torch.testing.assert_close(slice_, flat.displacement((9, 8)), atol=1e-6, rtol=1e-4)


def test_rotations_are_rotations():
    torch.manual_seed(0)
    for rotation in (rotation_of_angle(torch.randn(5, 1)), rotation_of_quaternion(3 * torch.randn(5, 4))):
        eye = torch.eye(rotation.shape[1]).expand_as(rotation)
        torch.testing.assert_close(rotation @ rotation.transpose(1, 2), eye, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(5))
    torch.testing.assert_close(rotation_of_quaternion(STILL)[0], torch.eye(3))


def test_mean_length_is_the_mean_of_the_lengths():
    gaussian = Gaussian(
        torch.zeros(1, 2), torch.tensor([[0.1, 0.2]]), torch.tensor([[0.4]]), torch.tensor([[0.3, 0.4]])
    )
    unit = torch.tensor([50.0, 20.0])
    # Corner voxels stand for half a voxel: on a fine grid that hardly matters.
    field = gaussian.displacement((401, 401)) * unit.view(1, 2, 1, 1)
    assert gaussian.mean_length(unit).item() == pytest.approx(field.norm(dim=1).mean().item(), rel=0.01)


def test_softmax_sums_to_one_over_space():
    probability = spatial_softmax(torch.randn(2, 3, 4, 5))
    torch.testing.assert_close(probability.sum((2, 3)), torch.ones(2, 3))


@pytest.mark.parametrize("shape", [(11, 21), (11, 13, 9)])
def test_position_of_one_voxel_is_its_own(shape):
    dimension = len(shape)
    probability = torch.zeros(1, 1, *shape)
    probability[(0, 0, *[2] * dimension)] = 1
    expected = torch.tensor([[2 * 2 / (n - 1) - 1 for n in shape]])
    torch.testing.assert_close(expected_position(probability), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_position_moves_with_what_it_looks_at(axis):
    logits = torch.full((1, 1, 12, 14, 16), -30.0)
    logits[0, 0, 3:6, 4:7, 2:5] = torch.randn(3, 3, 3)
    shifted = logits.roll(5, dims=axis + 2)
    change = expected_position(spatial_softmax(shifted)) - expected_position(spatial_softmax(logits))
    expected = torch.zeros(1, 3)
    expected[0, axis] = 5 * 2 / (logits.shape[axis + 2] - 1)
    torch.testing.assert_close(change, expected, atol=1e-4, rtol=0)


def test_coordinates_follow_the_axes():
    channels = coordinate_channels(torch.zeros(2, 4, 3, 5))
    assert channels.shape == (2, 2, 3, 5)
    torch.testing.assert_close(channels[1, 0, :, 2], torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(channels[0, 1, 1], torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))
    assert axis_coordinates((1, 3))[0].item() == 0, "the only voxel lies in the middle"


def test_half_precision_around_it_does_not_touch_it():
    gaussian = Gaussian(torch.tensor([[0.1, 0.2, 0.3]]), torch.full((1, 3), 0.2), torch.randn(1, 4), torch.ones(1, 3))
    expected = gaussian.displacement((5, 6, 7))
    with torch.autocast("cpu", torch.bfloat16):
        found = gaussian.displacement((5, 6, 7))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
