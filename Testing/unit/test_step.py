"""What a step tells about itself."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from geometry import smooth_displacement

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.step import Step


def shift(shape, voxels) -> torch.Tensor:
    return torch.tensor(voxels).view(1, -1, *[1] * len(shape)).expand(1, len(shape), *shape).contiguous()


def test_a_step_does_not_change():
    step = Step(1, "affine 1/2", shift((3, 4), [0.0, 0.0]), (3, 4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.index = 2


def test_a_coarse_displacement_is_given_on_the_working_lattice():
    coarse = smooth_displacement((5, 4, 3), 1.0)
    step = Step(1, "1/2 res 1/1", coarse, (9, 7, 5))
    assert torch.equal(step.displacement, spatial.resize_displacement(coarse, (9, 7, 5)))
    assert step.displacement is step.displacement


def test_similarity_is_measured_once_and_only_when_asked():
    asked = []

    def measure(step):
        asked.append(step.displacement.shape)
        return 0.5

    step = Step(1, "", shift((3, 3), [0.0, 0.0]), (5, 5), measure=measure)
    assert asked == []
    assert (step.similarity, step.similarity) == (0.5, 0.5)
    assert asked == [(1, 2, 5, 5)]
    assert math.isnan(Step(1, "", shift((3, 3), [0.0, 0.0]), (3, 3)).similarity)


def test_what_the_maker_knows_of_the_update_is_believed():
    assert Step(1, "", shift((3, 4), [3.0, 4.0]), (3, 4), moved=0.25).mean_update == 0.25


def test_folding_is_in_per_cent():
    values = torch.zeros(1, 2, 6, 8)
    values[:, 1, :, 4:] = -3
    assert Step(1, "", values, (6, 8)).folding == pytest.approx(25)


def test_mean_update_is_in_voxels_of_the_working_lattice():
    first = Step(1, "", shift((3, 4), [3.0, 4.0]), (3, 4))
    assert first.mean_update == pytest.approx(5)
    second = Step(2, "", shift((3, 4), [3.0, 5.0]), (3, 4), previous=first.values)
    assert second.mean_update == pytest.approx(1)


@pytest.mark.parametrize("coarse", [(5, 4, 3), (1, 4, 3)])
def test_mean_update_of_a_coarse_step_is_that_of_its_displacement(coarse):
    values = shift(coarse, [1.0, 2.0, 3.0])
    step = Step(1, "", values, (9, 7, 5))
    assert step.mean_update == pytest.approx(step.displacement.norm(dim=1).mean().item())


def test_a_finer_step_compares_with_the_coarser_one():
    coarse = Step(1, "", smooth_displacement((5, 4), 1.0), (9, 7))
    fine = Step(2, "", coarse.displacement + 0.6, (9, 7), previous=coarse.values)
    assert fine.mean_update == pytest.approx(0.6 * math.sqrt(2), rel=1e-4)
