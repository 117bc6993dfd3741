"""Measures of series, of motion and of cost: hand values, and second implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from RecurrentRegistrationLib import methods
from RecurrentRegistrationLib.metrics import compactness, cost, principal
from RecurrentRegistrationLib.metrics.separability import motion_histogram


def test_equal_frames_have_one_component():
    frame = np.random.default_rng(0).random((5, 6))
    found = principal.principal_distances(np.stack([frame, 3 * frame + 2, frame]), components=1)
    assert found.first == pytest.approx(0, abs=1e-9)  # tr K = 3, all of it in the first
    assert found.second == pytest.approx(3)


def test_unrelated_frames_by_hand():
    """Three frames that do not correlate: K = I, eigenvalues 1, 1, 1."""
    frames = np.array([[1.0, -1, 0, 0], [0, 0, 1, -1], [1, 1, -1, -1]])
    found = principal.principal_distances(frames, components=2)
    assert found.first == pytest.approx(3 - 2)
    assert found.second == pytest.approx(1 + 2 + 3)


def test_two_frames_of_known_correlation_by_hand():
    """Correlation 0.5: eigenvalues 1.5 and 0.5."""
    frames = np.array([[1.0, -1, 0], [1, 0, -1]])
    found = principal.principal_distances(frames, components=1)
    assert (found.first, found.second) == (pytest.approx(0.5), pytest.approx(1.5 + 2 * 0.5))


def test_as_many_components_as_frames_leave_nothing_to_measure():
    frames = np.random.default_rng(2).random((4, 6))
    assert principal.principal_distances(frames, components=4).first is None
    assert principal.principal_distances(frames[:3], components=4).first is None


def test_the_first_distance_is_never_below_zero():
    frame = np.random.default_rng(3).random(50)
    assert principal.principal_distances(np.stack([frame] * 6), components=4).first >= 0


def test_principal_distances_equal_numpys_correlation():
    frames = np.random.default_rng(1).random((6, 9, 8))
    mask = principal.central((9, 8))
    eigenvalues = np.linalg.eigvals(np.corrcoef(frames[:, mask])).real
    eigenvalues = np.sort(eigenvalues)[::-1]
    found = principal.principal_distances(frames, mask, components=4)
    assert found.first == pytest.approx(eigenvalues[4:].sum())
    assert found.second == pytest.approx((np.arange(1, 7) * eigenvalues).sum())


def test_frame_without_contrast_correlates_with_none():
    frames = np.stack([np.ones(4), np.arange(4.0)])
    assert principal.principal_distances(frames, components=1).first == pytest.approx(1)


def test_central_part_of_each_axis():
    mask = principal.central((10, 20))
    assert mask.sum() == 6 * 14  # margins 1.5, rounded to even 2, and 3
    assert mask[2, 3]
    assert not mask[1].any()


def test_motion_histogram_of_two_halves_that_part():
    """The left half rests, the right half moves 5 voxels: near pairs move alike or 5 apart, nothing between."""
    displacement = np.zeros((2, 30, 30))
    displacement[0, :, 15:] = 5.5
    found = motion_histogram(displacement, np.ones((30, 30), bool), longest=8, largest=8, sigma=0.0)
    assert found.density.sum() == pytest.approx(1)
    by_difference = found.density.sum(axis=0)
    assert by_difference[0] + by_difference[5] == pytest.approx(1)
    share = found.density[1:, 5] / found.density[1:].sum(axis=1)
    assert share[0] < share[3] < share[6]  # the farther apart, the more pairs lie on both sides
    assert found.density[0].sum() == 0  # no voxel is its own neighbour


def test_motion_histogram_share_across_the_cut_by_hand():
    """Neighbours along the second axis only: of 9 pairs of a row of 10 voxels one lies across the cut."""
    displacement = np.zeros((1, 10))
    displacement[0, 5:] = 3.5
    found = motion_histogram(displacement, np.ones(10, bool), longest=1, largest=4, sigma=0.0, pairs=400_000)
    assert found.density[-1, 3] == pytest.approx(1 / 9, abs=0.005)


def test_motion_histogram_looks_at_correct_voxels_only():
    displacement = np.random.default_rng(0).normal(size=(2, 12, 12))
    correct = np.zeros((12, 12), bool)
    correct[3:6, 3:6] = True
    displacement[:, correct] = 1.0
    found = motion_histogram(displacement, correct, longest=6, sigma=0.0)
    assert found.density[:, 0].sum() == pytest.approx(1)
    assert motion_histogram(displacement, np.zeros((12, 12), bool)).density.sum() == 0


def test_numbers_of_a_sum_of_gaussians():
    assert compactness.gaussian_numbers(25, 2) == 175
    assert compactness.gaussian_numbers(25, 3) == 300


def test_numbers_of_the_published_bsplines():
    levels = [((64, 64), 3), ((128, 128), 8), ((256, 256), 19)]
    assert compactness.bspline_numbers(levels) == 2312
    assert 175 / compactness.bspline_numbers(levels) == pytest.approx(0.0757, abs=1e-4)


class Plain(nn.Module):
    """One convolution for each step, as a method is called."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3, padding=1)
        self.convolution.bias.requires_grad_(False)

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor, *, count: int | None = None) -> torch.Tensor:
        return sum(self.convolution(torch.cat([fixed, moving], 1)) for _ in range(count or 1))


def test_parameters_and_operations_by_hand():
    assert cost.parameters(Plain()) == 2 * 4 * 9  # the bias is not trained
    assert cost.multiply_accumulates(Plain(), (6, 5)) == 2 * 4 * 9 * 30
    assert cost.multiply_accumulates(Plain(), (6, 5), steps=3) == 3 * 2 * 4 * 9 * 30


def test_parameters_of_a_network_equal_its_card():
    network = methods.create("riir", 2)
    assert cost.parameters(network) == network.card.parameters[2]
