"""Landmarks on a grid: brought together by smooth updates that reach no further than they say, and that never fold."""

import pytest
import torch
from geometry import smooth_displacement

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.landmarks import Landmarks, kernel
from RecurrentRegistrationLib.losses.guidance import Guidance


def landmarks(fixed, moving, spacing=1.0, error=1.0):
    fixed, moving = torch.tensor(fixed, dtype=torch.float32), torch.tensor(moving, dtype=torch.float32)
    n, d = fixed.shape
    return Landmarks(fixed, moving, torch.full((d,), spacing), torch.full((n,), error), torch.zeros(d))


def test_the_kernel_is_one_at_its_centre_and_nothing_from_its_radius_on():
    assert kernel(torch.tensor([0.0, 0.5, 1.0, 2.0])).tolist() == pytest.approx([1, 0.1875, 0, 0])


@pytest.mark.parametrize(
    ("shape", "fixed", "moving"),
    [
        ((40, 36), [[12, 10], [25, 26]], [[15, 9], [22, 27]]),
        ((30, 28, 26), [[9, 10, 11], [20, 18, 15]], [[12, 9, 11], [18, 19, 17]]),
    ],
)
def test_landmarks_meet_and_nothing_folds(shape, fixed, moving):
    pairs = landmarks(fixed, moving)
    settled = Guidance(pairs).settled(smooth_displacement(shape, 1.0))
    assert pairs.distances(settled).max() < 0.1
    assert spatial.jacobian_determinant(settled).min() > 0.05


def test_an_update_ends_where_the_radius_says():
    pairs = landmarks([[20, 20, 20]], [[22, 20, 20]])
    still = torch.zeros(1, 3, 40, 40, 40)
    moved = pairs.update(still)[0].norm(dim=0) > 0
    places = moved.nonzero().float()
    radius = (places - 20).norm(dim=1).max()
    assert 0.8 * pairs.radii(still).max() < radius < pairs.radii(still).max()


def test_landmarks_that_would_fold_space_are_left_apart():
    """Two neighbours that ask to change places: both cannot be had."""
    pairs = landmarks([[20, 20], [20, 24]], [[20, 24], [20, 20]])
    settled = Guidance(pairs).settled(torch.zeros(1, 2, 40, 44))
    assert spatial.jacobian_determinant(settled).min() > 0.05
    assert pairs.distances(settled).max() > 1


def test_a_plane_of_one_voxel_is_not_left():
    pairs = Landmarks(
        torch.tensor([[0.0, 10, 12]]),
        torch.tensor([[0.4, 12, 11]]),
        torch.tensor([5.0, 1, 1]),
        torch.ones(1),
        torch.tensor([1.0, 0, 0]),
    )
    settled = Guidance(pairs).settled(torch.zeros(1, 3, 1, 24, 26))
    assert pairs.distances(settled).max() < 0.1
    assert settled[:, 0].abs().max() == 0
