"""The pipeline on a made head: right in every geometry, stoppable, repeatable, honest about what it cannot do."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from geometry import GRIDS, wave
from phantom import centred, head

from RecurrentRegistrationLib import methods, weights
from RecurrentRegistrationLib.errors import InputError, OutOfMemoryError
from RecurrentRegistrationLib.methods.affine_opt import AffineOpt
from RecurrentRegistrationLib.pipeline import Options, Registration, Run, plan, register, start
from RecurrentRegistrationLib.pipeline import run as run_module
from RecurrentRegistrationLib.pipeline.images import Images
from RecurrentRegistrationLib.pipeline.kept_steps import History
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.transform import Affine, DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid, Volume

QUICK = {"scales": (2, 1), "iterations": (12, 12)}
FAST = Options(initial="none", linear="rigid", method_options=QUICK)


def known_map(grid: Grid, millimetres: float = 5.0) -> Transform:
    """From a head to the same head deformed: `x + wave(x)`."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    points = grid.physical(index.reshape(-1, grid.dimension)[:, ::-1])
    values = wave(points, np.zeros(grid.dimension), millimetres).reshape(*grid.shape, grid.dimension)
    image = sitk.GetImageFromArray(values, isVector=True)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return Transform((DisplacementField.from_sitk(image),))


def made_pair(shape=(40, 44, 42), spacing=(2.1, 1.8, 2.0), cosines=None):
    """Fixed, moving, and points with where they belong: `fixed(x) = head(x + wave(x))`, `moving = head`."""
    grid = centred(shape, spacing, cosines)
    truth = known_map(grid)
    d = grid.dimension
    points = np.random.default_rng(1).normal(size=(150, d)) * 11
    moving = head(centred(tuple(n + 4 for n in shape), spacing[::-1]))
    return head(grid, truth), moving, points, truth.map_points(points)


def error_mm(transform, points, targets):
    return np.linalg.norm(transform.map_points(points) - targets, axis=1).mean()


@pytest.mark.parametrize("name", ["permuted", "left-handed oblique", "2D oblique", "2D left-handed"])
def test_a_known_deformation_is_found_in_every_orientation(name):
    cosines = GRIDS[name].cosines
    shape = (40, 44, 42)[: len(cosines)] if len(cosines) == 3 else (80, 76)
    spacing = (2.1, 1.8, 2.0) if len(cosines) == 3 else (1.1, 0.9)
    fixed, moving, points, targets = made_pair(shape, spacing, cosines)
    result = register(fixed, moving, options=FAST)
    before = error_mm(Transform((), len(cosines)), points, targets)
    assert error_mm(result.transform, points, targets) < 0.4 * before
    assert result.report["folded_voxels"] == 0


def test_what_has_learnt_one_orientation_sees_no_other():
    fixed, moving, points, targets = made_pair(cosines=GRIDS["left-handed oblique"].cosines)
    features = {"features": {"labels": 3, "width": 4}, "feature_weight": 0.0}
    run = start(fixed, moving, options=dataclasses.replace(FAST, method_options={**QUICK, **features}))
    for _ in run:
        pass
    assert (run.plan.grid.cosines.argmax(axis=0) == [0, 1, 2]).all()
    before = error_mm(Transform((), 3), points, targets)
    assert error_mm(run.result().transform, points, targets) < 0.4 * before


@pytest.fixture(scope="module")
def finished() -> Registration:
    fixed, moving, _, _ = made_pair()
    copies = fixed.array.copy(), moving.array.copy()
    result = register(fixed, moving, options=FAST)
    assert np.array_equal(copies[0], fixed.array), "inputs stay as they were"
    assert np.array_equal(copies[1], moving.array)
    return result


def test_plain_simpleitk_reproduces_the_warped_image(finished, tmp_path):
    finished.transform.write(tmp_path / "transform.h5")
    transform = sitk.ReadTransform(str(tmp_path / "transform.h5"))
    background = float(finished.moving.array.min())
    expected = sitk.Resample(
        finished.moving.to_sitk(), finished.grid.empty_sitk(), transform, sitk.sitkLinear, background
    )
    np.testing.assert_allclose(
        finished.warped().array[0], sitk.GetArrayFromImage(expected).astype(np.float32), atol=1e-3
    )


def test_transform_and_inverse_agree(finished):
    points = np.random.default_rng(2).normal(size=(100, 3)) * 12
    there_and_back = finished.transform.inverse().map_points(finished.transform.map_points(points))
    assert np.linalg.norm(there_and_back - points, axis=1).mean() < 0.1


def flat_pair():
    """As `made_pair`, one slice."""
    return made_pair((80, 76), (1.1, 0.9))


def test_a_run_may_end_at_any_step_goes_on_and_is_refined():
    fixed, moving, points, targets = flat_pair()
    run = start(fixed, moving, options=dataclasses.replace(FAST, linear="none"))
    errors = []
    for step in run:
        errors.append(error_mm(step.transform, points, targets))
        if step.index == 20:
            break
    result = run.result()
    assert len(result.steps) == 20
    assert errors[-1] < 0.5 * errors[0]
    assert result.warped().grid == fixed.grid
    first, made = errors[-1], len(run.steps)
    assert len(list(run.extend(8))) == 8
    assert len(list(run.refine(6))) == 6
    assert [s["index"] for s in run.steps] == list(range(1, made + 15))
    assert error_mm(run.result().transform, points, targets) < first


def coarse_run(tmp_path, monkeypatch) -> tuple[Run, np.ndarray, np.ndarray]:
    """A finished run of a network that works on 6 mm and has learnt nothing; points with where they belong."""
    monkeypatch.setenv("RECURRENT_REGISTRATION_MODELS", str(tmp_path))
    card = weights.Model("coarse", "voxelmorph", 3, "", "", "", "", 0, spacing=6.0, steps=2)
    weights.save(card, methods.create("voxelmorph", 3))
    fixed, moving, points, targets = made_pair()
    run = start(fixed, moving, options=Options(initial="none", linear="rigid", weights="coarse"))
    for _ in run:
        pass
    return run, points, targets


def test_a_coarse_method_is_refined_as_finely_as_the_images_allow(tmp_path, monkeypatch):
    run, points, targets = coarse_run(tmp_path, monkeypatch)
    coarse, last = run.plan.grid, run.last
    moved = last.transform.map_points(points)
    refined = list(run.refine(40))
    stages = {step.stage.split(" ")[0] for step in refined}
    assert max(coarse.spacing) == 6.0
    assert max(run.last.field.grid.spacing) < 2.2
    assert np.allclose(run.last.field.grid.corners(), coarse.corners())
    assert stages == {"1/2", "full"}  # the levels between the method's grid and the finest
    assert len(refined) == 40
    assert np.allclose(last.transform.map_points(points), moved, atol=1e-4)  # earlier steps stay what they were
    assert error_mm(run.result().transform, points, targets) < 0.5 * error_mm(last.transform, points, targets)


def test_a_coarse_method_goes_on_where_it_was_before_a_refinement(tmp_path, monkeypatch):
    run, points, _ = coarse_run(tmp_path, monkeypatch)
    coarse, last = run.plan.grid, run.last
    list(run.refine(4))
    run.go_back(last)
    assert len(list(run.extend(1))) == 1
    assert run.last.field.grid.shape == last.field.grid.shape
    assert np.allclose(run.last.field.grid.corners(), coarse.corners())
    assert np.isfinite(run.result().transform.map_points(points)).all()


def in_a_wide_field(spacing: tuple[float, ...]) -> tuple[Volume, Volume, Grid]:
    """A head and the same head turned and stretched, small in a field of view, and its grid."""
    d = len(spacing)
    grid = centred((72,) * d, spacing)
    matrix = np.eye(d + 1)
    matrix[:2, :2] = [[0.97, -0.12], [0.12, 1.04]]
    matrix[0, d] = 3.0
    return head(grid, Transform((Affine(matrix),))), head(grid), grid


def kept(step: Step) -> Step:
    """A step as a history gives it back."""
    history = History()
    history.offer(step)
    return history.step(step.index)


@pytest.mark.parametrize("spacing", [(2.4, 2.6), (2.8, 2.5, 2.6)], ids=["2D", "3D"])
def test_an_affine_method_gives_an_affine_map(spacing):
    fixed, moving, grid = in_a_wide_field(spacing)
    options = Options("affine-opt", initial="none", linear="none", steps=24)
    run = start(fixed, moving, options=options)
    steps = list(run)
    assert run.plan.grid.size != grid.size  # the working grid does not cover the image
    for step in (steps[0], steps[-1], kept(steps[11])):
        transform = step.transform
        assert [type(part) for part in transform.parts] == [Affine]
        assert np.allclose(transform.parts[0].matrix, step.linear)
    determinant = run.result().jacobian().array
    assert determinant.std() < 1e-4
    assert determinant.mean() != pytest.approx(1, abs=0.01)
    again = start(fixed, moving, options=dataclasses.replace(options, initial=run.result().transform))
    assert np.allclose(again.plan.start, run.result().transform.simplified().parts[0].matrix)


def test_around_a_deformation_the_affine_part_goes_on():
    fixed, moving, grid = in_a_wide_field((2.4, 2.6))
    affine = AffineOpt(2, iterations=(8, 8, 2))
    schedule = {"affine": affine, "scales": (0.5, 1.0), "map_scales": (1.0, 0.5), "iterations": (2, 2)}
    run = start(fixed, moving, options=Options("vsvf-opt", initial="none", linear="none", method_options=schedule))
    *_, last = run
    assert last.stage.startswith("vSVF")
    corners = grid.corners()
    there = Affine(last.linear).map_points(corners)
    assert np.abs(there - corners).max() > 1
    assert np.allclose(run.result().transform.map_points(corners), there, atol=1e-3)
    list(run.refine(2))
    assert np.allclose(run.result().transform.map_points(corners), there, atol=1e-3)


@pytest.mark.parametrize("linear", ["rigid", "affine"])
def test_the_linear_stage_alone(linear):
    fixed, moving, _, _ = made_pair()
    run = start(fixed, moving, options=Options("none", initial="none", linear=linear))
    steps = list(run)
    assert run.plan.planned_steps == len(steps)
    assert not [step for step in steps if step.field.values.any()]
    result = run.result()
    assert [type(part) for part in result.transform.parts] == [Affine]
    assert result.report["method"] == "none"
    determinant = np.linalg.det(result.transform.parts[0].matrix)
    assert (determinant == pytest.approx(1, abs=1e-5)) == (linear == "rigid")
    with pytest.raises(InputError, match="no step to continue"):
        list(run.extend(1))
    list(run.refine(3))
    assert run.result().transform.jacobian_determinant(fixed.grid).std() > 1e-3


def test_the_same_seed_gives_the_same_transform():
    fixed, moving, _, _ = flat_pair()
    first, again = (register(fixed, moving, options=FAST).transform.parts for _ in range(2))
    assert torch.equal(again[0].values, first[0].values)


def test_a_given_transform_is_where_it_starts():
    fixed, moving, points, targets = flat_pair()
    away = np.eye(3)
    away[:2, 2] = (400.0, -300.0)
    placed = tuple(np.add(moving.grid.origin, away[:2, 2]))
    far = Volume(moving.array, Grid(moving.grid.size, moving.grid.spacing, placed, moving.grid.direction))
    options = dataclasses.replace(FAST, initial=Transform((Affine(away),)))
    result = register(fixed, far, options=options)
    assert error_mm(result.transform, points, targets + away[:2, 2]) < 2.0


@pytest.mark.parametrize("initial", ["geometry", "moments"])
def test_a_named_start_holds_without_a_linear_stage(initial):
    grid = centred((40, 44), (2.0, 2.0))
    far = Grid(grid.size, grid.spacing, (500.0, -400.0), grid.direction)
    options = Options(initial=initial, linear="none", steps=1, method_options={"scales": (1,), "iterations": (1,)})
    result = register(head(grid), Volume(head(grid).array, far), options=options)
    moved = result.transform.map_points(grid.corners()) - grid.corners()
    assert np.allclose(moved, np.subtract(far.origin, grid.origin), atol=2.0)


def test_a_small_memory_gives_a_coarser_grid_and_says_so():
    fixed, moving, _, _ = made_pair((64, 66, 60))
    plenty = start(fixed, moving, options=FAST)
    need = plenty.plan.estimated_bytes()
    for_voxels = need - plan.FIXED_COST
    limit = int((need - 0.3 * for_voxels) / 0.8)
    tight = start(fixed, moving, options=dataclasses.replace(FAST, memory_limit=limit))
    assert np.prod(tight.plan.grid.size) < np.prod(plenty.plan.grid.size)
    assert any("to fit in memory" in note for note in tight.notes)
    with pytest.raises(OutOfMemoryError, match="free memory"):
        start(fixed, moving, options=dataclasses.replace(FAST, memory_limit=2**20))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel tells the peak of a process")
def test_the_estimate_of_memory_is_what_a_run_takes():
    """In a process of its own, whose peak nothing else has raised: above it, by no more than a quarter."""
    program = """
import torch
from RecurrentRegistrationLib.pipeline import Options, memory, start
from RecurrentRegistrationLib.volume import Grid, Volume
def image(seed):
    coarse = torch.rand(1, 1, 12, 12, 12, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, size=(128, 128, 128), mode="trilinear")
    return Volume(fine[0].numpy(), Grid.regular((128, 128, 128)))
once = {"scales": (1,), "iterations": (2,)}
run = start(image(0), image(1), options=Options(preset="mr", initial="none", linear="none", method_options=once))
assert run.plan.grid.shape == (128, 128, 128)
list(run)
run.result()
print(memory.peak() / run.plan.estimated_bytes())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert 0.75 < float(done.stdout) < 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "nonsense"}, "no method 'nonsense'"),
        ({"preset": "nonsense"}, "no preset 'nonsense'"),
        ({"similarity": "nonsense"}, "no similarity 'nonsense'"),
        ({"device": "nonsense"}, "no device 'nonsense'"),
        ({"linear": "nonsense"}, "not 'nonsense'"),
        ({"steps": 0}, "steps cannot be 0"),
        ({"refine": -1}, "refine cannot be -1"),
        ({"spacing": -2.0}, "spacing must be positive"),
        ({"spacing": 100.0}, "100 mm leaves 1 voxels along the longest side: give a finer one"),
        ({"method": "none", "linear": "none"}, "'none' is the linear stage alone"),
        ({"method": "none", "steps": 3}, "'none' is the linear stage alone"),
        ({"method_options": {"colour": "red"}}, "'refine' cannot be made with these options: .*'colour'"),
        ({"method": "lapirn"}, "'lapirn' has no weights here"),
    ],
)
def test_wrong_options_are_refused_before_the_work(change, sentence):
    fixed, moving, _, _ = made_pair((20, 22, 24))
    with pytest.raises(InputError, match=sentence):
        start(fixed, moving, options=Options(**change))


def test_unlike_contrast_turns_to_the_multimodal_preset():
    fixed, moving, points, targets = made_pair()
    other = Volume(np.where(moving.array > 0.05, 2.2 - moving.array, 0).astype(np.float32), moving.grid)
    run = start(fixed, other, options=Options(initial="none", linear="rigid"))
    for _ in run:
        pass
    assert run.plan.preset == "multimodal"
    assert error_mm(run.result().transform, points, targets) < error_mm(Transform((), 3), points, targets)


@pytest.mark.parametrize("name", methods.names())
def test_a_method_that_does_not_use_masks_says_so(name):
    fixed, moving, _, _ = made_pair((30, 28), (2.0, 2.2))
    mask = Volume(np.ones_like(fixed.array), fixed.grid)
    run = start(fixed, moving, fixed_mask=mask, options=Options(name, initial="none", untrained=True))
    told = [note for note in run.notes if "does not use masks" in note]
    assert len(told) == (not methods.card(name).uses_masks)
    assert not [note for note in start(fixed, moving, options=run.plan.options).notes if "does not use masks" in note]


def test_images_are_not_trusted_blindly():
    fixed, moving, _, _ = made_pair((20, 22, 24))
    broken = moving.array.copy()
    broken[0, 3, 3, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        start(fixed, Volume(broken, moving.grid))
    with pytest.raises(InputError, match="constant"):
        start(Volume(np.zeros_like(fixed.array), fixed.grid), moving)
    with pytest.raises(InputError, match="empty"):
        start(fixed, moving, fixed_mask=Volume(np.zeros_like(fixed.array), fixed.grid))
    far = Volume(moving.array, Grid(moving.grid.size, moving.grid.spacing, (1e4, 0, 0), moving.grid.direction))
    with pytest.raises(InputError, match="do not overlap"):
        start(fixed, far, options=Options(initial="none"))


def test_memory_running_out_is_told_in_one_sentence(monkeypatch):
    fixed, moving, _, _ = made_pair((20, 22, 24))

    def fail(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    run = Run(Images(fixed, moving), FAST)
    monkeypatch.setattr(run_module, "align", fail)
    with pytest.raises(OutOfMemoryError, match="not enough memory"):
        list(run)
