"""What landmarks and structures say of the linear stage."""

import numpy as np
import pytest
from phantom import centred, head

from RecurrentRegistrationLib import pipeline
from RecurrentRegistrationLib.pipeline.guide import Guide, LandmarkPairs, label_pairs, labels_of
from RecurrentRegistrationLib.pipeline.guided_start import Anchors
from RecurrentRegistrationLib.points import Points
from RecurrentRegistrationLib.transform import Affine, Transform
from RecurrentRegistrationLib.volume import Grid, Volume


def guide(fixed, moving):
    names = tuple(str(n) for n in range(len(fixed)))
    return Guide(LandmarkPairs.of(Points(np.array(fixed, float), names), Points(np.array(moving, float), names)))


def turned(d, degrees):
    matrix, angle = np.eye(d + 1), np.radians(degrees)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:d, d] = np.arange(d) * 10 - 8
    return matrix


@pytest.mark.parametrize("d", [2, 3])
def test_landmarks_tell_a_turn_and_a_shift(d):
    points = np.random.default_rng(0).uniform(-40, 40, (d + 1, d))
    anchors = Anchors.of(guide(points, Affine(turned(d, 150)).map_points(points)))
    assert anchors.tell_a_rotation
    assert np.allclose(anchors.start(), turned(d, 150), atol=1e-6)


@pytest.mark.parametrize("points", [[[1, 2, 3]], [[0, 0, 0], [5, 5, 5], [10, 10, 10]]])
def test_points_on_a_line_tell_a_shift_alone(points):
    anchors = Anchors.of(guide(points, np.array(points) + np.array([30, -20, 10])))
    assert not anchors.tell_the_posture
    assert np.allclose(anchors.start()[:3], np.eye(4)[:3] + np.outer([30, -20, 10], [0, 0, 0, 1]))


def test_the_middle_of_a_structure_counts_as_a_place():
    maps = []
    for first in ((2, 3), (12, 8)):
        array = np.zeros((1, 30, 30), np.uint8)
        array[0, first[0] : first[0] + 5, first[1] : first[1] + 7] = 4
        maps.append(labels_of(Volume(array, Grid.regular((30, 30), 2.0))))
    anchors = Anchors.of(Guide(labels=label_pairs(*maps)))
    assert anchors.start()[:2, 2] == pytest.approx([10, 20])
    assert anchors.tell_the_posture
    assert Anchors.of(None) is None
    assert Anchors.of(Guide()) is None


def test_the_linear_stage_starts_from_the_landmarks():
    """A head lying on its side: three places say so, and no posture is searched for."""
    grid, truth = centred((30, 28, 26), (3.0, 3.0, 3.2)), turned(3, 100)
    fixed, moving = head(grid, Transform((Affine(truth),))), head(grid.padded((20,) * 3, (20,) * 3))
    points = np.array([[10.0, 5, -8], [-12, 9, 4], [3, -14, 10]])
    known = guide(points, Affine(truth).map_points(points))
    run = pipeline.start(fixed, moving, guide=known, options=pipeline.Options(method="none", linear="rigid"))
    stages = [step.stage for step in run]
    assert not any("search" in stage for stage in stages)
    assert max(run.last.landmarks.values()) < 1.5
