"""A guide steers a run between any two steps; a correction is quick, local and never folds; a wrong one is refused."""

import numpy as np
import pytest
import torch
from geometry import smooth_field
from phantom import centred, head

from RecurrentRegistrationLib import pipeline
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.pipeline.guide import Guide, LandmarkPairs, label_pairs, labels_of
from RecurrentRegistrationLib.pipeline.guide_checks import check_guide
from RecurrentRegistrationLib.pipeline.images import Images
from RecurrentRegistrationLib.points import Points
from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Volume

PLAIN = {"initial": "none", "linear": "none", "method": "refine"}


def pair(d=3, n=32, millimetres=3.0):
    """A head and the same bent: `truth` maps fixed to moving points."""
    grid = centred((n + 2, n, n - 1)[:d], (80 / n,) * d)
    truth = Transform((smooth_field(grid, millimetres),))
    return head(grid, truth), head(grid), truth


def landmarks(fixed, moving, names=None):
    names = tuple(names or "abcdefgh"[: len(fixed)])
    return LandmarkPairs.of(Points(np.array(fixed, float), names), Points(np.array(moving, float), names))


def finished(fixed, moving, guide=None, **options):
    run = pipeline.start(fixed, moving, options=pipeline.Options(**{**PLAIN, "steps": 12, **options}), guide=guide)
    for _ in run:
        pass
    return run


@pytest.mark.parametrize("d", [2, 3])
def test_given_landmarks_are_reached_though_the_images_say_otherwise(d):
    fixed, moving, truth = pair(d)
    points = np.array([[5.0, 3, 2], [-12, 8, -6], [10, -14, 9]])[:, :d]
    wanted = truth.map_points(points)
    wanted[0, 0] += 4
    run = finished(fixed, moving, Guide(landmarks(points, wanted)))
    assert max(run.last.landmarks.values()) < 0.25
    assert np.abs(run.result().transform.map_points(points) - wanted).max() < 0.25
    assert run.last.volume_change["folded_voxels"] == 0
    assert run.steps[-1]["landmark_worst_mm"] == max(run.last.landmarks.values())


def test_a_guide_that_comes_between_two_steps_is_followed_from_the_next_on():
    fixed, moving, truth = pair()
    points = np.array([[5.0, 3, 2]])
    wanted = truth.map_points(points) + np.array([0, 4, 0])
    run = pipeline.start(fixed, moving, options=pipeline.Options(**PLAIN, steps=20))
    error = []
    for step in run:
        error.append(float(np.linalg.norm(step.transform.map_points(points) - wanted)))
        if step.index == 10:
            run.guide(Guide(landmarks(points, wanted)))
    assert error[9] > 2
    assert error[-1] < 0.25
    assert "landmark_error_mm" not in run.steps[9]
    assert run.steps[10]["landmarks_mm"]["a"] == pytest.approx(error[10], abs=0.01)


def test_a_correction_changes_what_is_near_and_leaves_the_rest_bit_by_bit():
    fixed, moving, _ = pair(n=44)
    run = finished(fixed, moving, steps=30)
    before, points = run.last, np.array([[20.0, 0, 0]])
    wanted = before.transform.map_points(points) + np.array([0, 2, 0])
    run.guide(Guide(landmarks(points, wanted)))
    (step,) = run.correct()
    assert step.phase == "correct"
    assert step.landmarks["a"] < 0.25
    grid = fixed.grid
    changed = (step.transform.displacement_on(grid).values != before.transform.displacement_on(grid).values).any(dim=1)
    places = grid.physical(changed[0].nonzero().numpy()[:, ::-1])
    assert len(places) > 100
    assert np.linalg.norm(places - points, axis=1).max() < 8 * 80 / 44 + 2
    run.go_back(before)
    assert run.result().transform.map_points(points) == pytest.approx(before.transform.map_points(points))


def test_many_corrections_add_up_and_what_is_done_needs_no_other():
    fixed, moving, _ = pair()
    run = finished(fixed, moving)
    rng = np.random.default_rng(1)
    points = rng.uniform(-20, 20, (6, 3))
    wanted = run.last.transform.map_points(points) + rng.normal(size=(6, 3))
    for count in range(1, 7):
        run.guide(Guide(landmarks(points[:count], wanted[:count])))
        list(run.correct())
    assert max(run.last.landmarks.values()) < 0.5
    assert run.last.volume_change["folded_voxels"] == 0
    index = run.last.index
    assert list(run.correct()) == []
    assert run.last.index == index


def test_a_run_goes_on_from_a_correction():
    fixed, moving, _ = pair()
    run = finished(fixed, moving)
    points = np.array([[5.0, 3, 2]])
    wanted = run.last.transform.map_points(points) + np.array([0, 3, 0])
    run.guide(Guide(landmarks(points, wanted)))
    list(run.correct())
    first, *_ = run.extend(2)
    assert first.mean_update < 0.5
    assert max(run.last.landmarks.values()) < 1.0
    run.guide(None)
    *_, free = run.extend(10)
    assert np.linalg.norm(free.transform.map_points(points) - wanted) > 1.0


def test_after_a_method_that_takes_no_guide_it_enters_in_a_refinement():
    fixed, moving, truth = pair(2)
    points = np.array([[5.0, 3]])
    guide = Guide(landmarks(points, truth.map_points(points) + np.array([4, 0])))
    run = finished(fixed, moving, guide, method="demons", steps=3, refine=4)
    assert [record["phase"] for record in run.steps] == ["deform"] * 3 + ["refine"] * 4
    assert run.last.landmarks["a"] < 0.25
    assert any("enters in the refinement" in note for note in run.notes)


@pytest.mark.parametrize("d", [2, 3])
def test_given_labels_overlap(d):
    """A structure that the images do not show."""
    grid = centred((34, 32, 30)[:d], (2.5,) * d)
    image = head(grid)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"))
    balls = [
        Volume((((index - np.reshape(c, (d, *[1] * d))) ** 2).sum(0) < 36)[None].astype(np.uint8), grid)
        for c in ([16] * d, [19] + [16] * (d - 1))
    ]
    before = finished(image, image.resampled(grid), steps=2)
    assert before.last.similarity > 0.99
    guide = Guide(labels=label_pairs(*map(labels_of, balls)))
    assert finished(image, image.resampled(grid), guide, steps=30).last.overlap["1"] > 0.9
    before.guide(guide)
    assert before.agreement()["labels"][0]["after_dice"] < 0.7
    (corrected,) = before.correct()
    assert corrected.overlap["1"] > 0.85
    assert corrected.volume_change["folded_voxels"] == 0


def test_a_rigid_region_keeps_its_shape_to_the_end():
    fixed, moving, _ = pair(millimetres=5.0)
    bone = np.zeros((1, *fixed.grid.shape), np.uint8)
    bone[0, 12:19, 10:17, 12:18] = 1
    points = fixed.grid.physical(np.argwhere(bone[0])[:, ::-1])

    def bent(transform):
        distances = [np.linalg.norm(p[None] - p[:, None], axis=-1) for p in (points, transform.map_points(points))]
        return np.abs(distances[0] - distances[1]).max()

    plain = finished(fixed, moving)
    assert bent(plain.last.transform) > 0.5
    plain.guide(Guide(rigid=Volume(bone, fixed.grid)))
    (corrected,) = plain.correct()
    assert bent(corrected.transform) < 0.1
    run = finished(fixed, moving, Guide(rigid=Volume(bone, fixed.grid)))
    assert bent(run.result().transform) < 0.1
    assert run.last.volume_change["folded_voxels"] == 0


WRONG = {
    "outside": (landmarks([[500, 0, 0]], [[0, 0, 0]]), "'a' lies outside the fixed image"),
    "two points to one": (landmarks([[0, 0, 0], [20, 0, 0]], [[1, 0, 0], [1, 0, 0]]), "'a' and 'b' contradict"),
    "swapped": (
        landmarks(
            [[0, 0, 0], [20, 0, 0], [0, 20, 0], [0, 0, 20], [-15, 5, 5]],
            [[20, 1, 0], [1, 0, 0], [0, 20, 1], [1, 0, 20], [-15, 6, 5]],
        ),
        "'a' and 'b' look swapped",
    ),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_landmarks_are_refused_in_a_sentence(case):
    fixed, moving, _ = pair()
    pairs, sentence = WRONG[case]
    with pytest.raises(InputError, match=sentence):
        check_guide(Guide(pairs), Images(fixed, moving))


def test_landmarks_that_differ_a_little_are_not_called_swapped():
    fixed, moving, _ = pair()
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.uniform(-25, 25, (6, 3))
        check_guide(Guide(landmarks(points, points + rng.normal(0, 2, (6, 3)))), Images(fixed, moving))


def test_other_wrong_guides_are_refused_in_a_sentence():
    fixed, moving, _ = pair()
    images = Images(fixed, moving)
    with pytest.raises(InputError, match="1 fixed and 3 moving"):
        LandmarkPairs.of(Points(np.zeros((1, 3)), ("a",)), Points(np.zeros((3, 3)), ("a", "b", "c")))
    labels = [Volume(np.full((1, *fixed.grid.shape), v, np.uint8), fixed.grid) for v in (1, 2)]
    with pytest.raises(InputError, match="share none"):
        label_pairs(*map(labels_of, labels))
    with pytest.raises(InputError, match="'1' is not in the labels of the moving image"):
        label_pairs(*map(labels_of, labels), chosen=["1"])
    with pytest.raises(InputError, match="covers the whole image"):
        check_guide(Guide(rigid=labels[0]), images)
    with pytest.raises(InputError, match="give landmarks, labels or regions"):
        list(finished(fixed, moving, steps=1).correct())


def test_landmarks_are_paired_by_name_where_both_lists_hold_the_same():
    fixed = Points(np.array([[0.0, 0, 0], [9, 0, 0]]), ("left", "right"))
    moving = Points(np.array([[8.0, 0, 0], [1, 0, 0]]), ("right", "left"))
    assert LandmarkPairs.of(fixed, moving).moving[:, 0].tolist() == [1, 8]


def test_what_cannot_be_reached_is_named_with_what_it_stands_against():
    fixed, moving, _ = pair()
    still = np.zeros((1, *fixed.grid.shape), np.uint8)
    still[0, 12:20, 12:20, 12:20] = 1
    centre = fixed.grid.physical([16.0, 16, 16])
    guide = Guide(landmarks([centre], [centre + 4]), still=Volume(still, fixed.grid))
    run = finished(fixed, moving, guide, steps=3)
    assert any("'a'" in note and "left alone" in note for note in run.notes)
    guide = Guide(landmarks([[0, 0, 0], [0, 8, 0]], [[0, 10, 0], [0, 3, 0]]))
    run = finished(fixed, moving, guide, steps=3)
    assert any("fold space against the landmark" in note for note in run.notes)
    assert run.last.volume_change["folded_voxels"] == 0
    assert torch.isfinite(run.last.field.values).all()
