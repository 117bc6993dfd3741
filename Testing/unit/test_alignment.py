import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from phantom import centred, head
from scipy.spatial.transform import Rotation

from RecurrentRegistrationLib.pipeline.linear import align
from RecurrentRegistrationLib.pipeline.poses import Adam, centre_of_mass, named_start, rotations
from RecurrentRegistrationLib.pipeline.preparation import prepare
from RecurrentRegistrationLib.pipeline.presets import PRESETS
from RecurrentRegistrationLib.transform import Affine, Transform


def matrix(rotation, shift=(0.0, 0.0, 0.0), stretch=1.0):
    d = len(rotation)
    found = np.eye(d + 1)
    found[:d, :d] = rotation * stretch
    found[:d, d] = shift[:d]
    return found


def found(fixed, moving, **options):
    preset = PRESETS["mr"]
    *_, last = align(prepare(fixed, None, preset), prepare(moving, None, preset), **options)
    return last.matrix


def error_mm(found_matrix, true_matrix):
    """Mean distance over points in the head."""
    d = len(true_matrix) - 1
    points = np.random.default_rng(0).normal(size=(200, d)) * 15
    return np.linalg.norm(
        Affine(found_matrix).map_points(points) - Affine(true_matrix).map_points(points), axis=1
    ).mean()


FIXED = centred((44, 40, 46), (2.0, 2.2, 1.8))


def pair(true, grid):
    """Head and turned head: a fixed point `x` lies at `true x` in the moving image."""
    return head(FIXED), head(grid, Transform((Affine(np.linalg.inv(true)),)))


@pytest.mark.parametrize("seed", [1, 2])  # one mirrored
def test_any_posture_and_place_is_found(seed):
    true = matrix(Rotation.random(random_state=seed).as_matrix(), shift=(300.0 * seed, -80.0, 25.0))
    turned = Rotation.random(random_state=10 + seed).as_matrix() @ np.diag([1, 1, (-1) ** seed])
    grid = centred((52, 50, 48), (1.9, 1.7, 2.1), turned)
    grid = type(grid)(grid.size, grid.spacing, tuple(np.array(grid.origin) + true[:3, 3]), grid.direction)
    fixed, moving = pair(true, grid)
    assert error_mm(found(fixed, moving, kind="rigid", search=True), true) < 0.5


def test_an_affine_map_is_found_from_the_header():
    true = matrix(Rotation.from_euler("xyz", [6, -4, 8], degrees=True).as_matrix(), (3.0, -2.0, 4.0), 1.06)
    fixed, moving = pair(true, centred((46, 46, 46), (2.0, 2.0, 2.0)))
    assert error_mm(found(fixed, moving, kind="affine", search=False), true) < 0.4


def test_a_turn_in_the_plane_is_found():
    angle = np.radians(150)
    true = matrix(np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]), (60.0, -35.0))
    grid = centred((96, 100), (0.9, 1.0))
    grid = type(grid)(grid.size, grid.spacing, tuple(np.array(grid.origin) + true[:2, 2]), grid.direction)
    fixed, moving = head(centred((90, 84), (1.0, 1.0))), head(grid, Transform((Affine(np.linalg.inv(true)),)))
    assert error_mm(found(fixed, moving, kind="rigid", search=True), true) < 0.5


def test_rotations_leave_no_large_gap():
    covering = Rotation.from_matrix(rotations(3))
    samples = Rotation.random(300, random_state=1)
    nearest = [np.degrees((covering * sample.inv()).magnitude().min()) for sample in samples]
    assert max(nearest) < 32
    np.testing.assert_allclose(np.linalg.det(rotations(3)), 1, atol=1e-9)


def test_named_starts_bring_together_what_they_name():
    fixed, moving = pair(matrix(np.eye(3), (40.0, 5.0, -20.0)), centred((60, 60, 60), (2.5, 2.0, 2.0)))
    preset = PRESETS["mr"]
    fixed, moving = prepare(fixed, None, preset), prepare(moving, None, preset)
    np.testing.assert_allclose(named_start(fixed, moving, "none"), np.eye(4))
    geometry = Affine(named_start(fixed, moving, "geometry")).map_points(fixed.grid.centre[None])[0]
    np.testing.assert_allclose(geometry, moving.grid.centre, atol=1e-9)
    moments = Affine(named_start(fixed, moving, "moments")).map_points(centre_of_mass(fixed)[None])[0]
    np.testing.assert_allclose(moments, centre_of_mass(moving), atol=1e-6)


def noisy(volume, seed, deviation=0.1):
    noise = np.random.default_rng(seed).normal(0, deviation, volume.array.shape)
    return type(volume)((volume.array + noise).astype(np.float32), volume.grid)


@pytest.mark.parametrize("search", [False, True])
def test_images_that_lie_on_each_other_stay_where_they_are(search):
    one, other = noisy(head(FIXED), 0), noisy(head(FIXED), 1)
    np.testing.assert_array_equal(found(one, other, kind="auto", search=search), np.eye(4))


def test_a_turned_head_gets_the_simplest_map_that_most_of_it_speaks_for():
    turn = Rotation.from_euler("xyz", [6, -4, 8], degrees=True).as_matrix()
    for stretch, expected in ((1.0, "linear: rigid"), (1.08, "linear: affine")):
        true = matrix(turn, (3.0, -2.0, 4.0), stretch)
        preset = PRESETS["mr"]
        images = [prepare(image, None, preset) for image in pair(true, centred((50, 50, 50), (2.0, 2.0, 2.0)))]
        *_, last = align(*images, kind="auto", search=False)
        assert last.stage == expected
        assert error_mm(last.matrix, true) < 0.4


def test_unlike_contrast_is_noticed():
    true = matrix(np.eye(3), (2.0, 1.0, -2.0))
    fixed, moving = pair(true, FIXED)
    inverted = type(moving)(np.where(moving.array > 0.05, 2.2 - moving.array, 0), moving.grid)
    preset = PRESETS["mr"]

    def agreement(image):
        stream = align(prepare(fixed, None, preset), prepare(image, None, preset), kind="rigid", search=False)
        return next(a.agreement for a in stream if a.agreement is not None)

    assert agreement(moving) > 0.95
    assert agreement(inverted) < 0.7


def test_the_optimiser_is_torchs():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.ones(2, 3, requires_grad=True) for _ in range(2))
    optimiser, expected = Adam(ours), torch.optim.Adam([theirs])
    for n in range(8):
        gradient, rate = torch.randn(2, 3, generator=generator), 0.5 / (1 + n)
        optimiser.step(gradient, rate)
        theirs.grad, expected.param_groups[0]["lr"] = gradient.clone(), rate
        expected.step()
        torch.testing.assert_close(ours, theirs)


def test_a_registration_does_not_wait_for_torchs_compiler():
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; from phantom import centred, head;"
        "from RecurrentRegistrationLib.pipeline import register;"
        "register(head(centred((30, 31), (3, 3))), head(centred((32, 30), (3, 3))));"
        "assert 'torch' in sys.modules; assert 'torch._dynamo' not in sys.modules"
    )
    folder = Path(__file__).parent
    subprocess.run([sys.executable, "-c", code, str(folder), str(folder.parents[1])], check=True)
