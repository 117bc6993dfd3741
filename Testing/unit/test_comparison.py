"""The measure that every step of a run is held against, and what follows from it: the best step and the stop rule."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from phantom import centred, head
from test_registration import made_pair

from RecurrentRegistrationLib import methods, pipeline
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.pipeline import Options
from RecurrentRegistrationLib.pipeline.comparison import MEASURES, Comparison
from RecurrentRegistrationLib.pipeline.images import Images
from RecurrentRegistrationLib.pipeline.plan import Plan
from RecurrentRegistrationLib.pipeline.presets import PRESETS
from RecurrentRegistrationLib.pipeline.stopping import PATIENCE, better, exhausted
from RecurrentRegistrationLib.transform import Affine, DisplacementField, Transform
from RecurrentRegistrationLib.volume import Volume


def compared(fixed: Volume, moving: Volume, measure: str = "correlation", **masks: Volume) -> Comparison:
    images = Images(fixed, moving, **masks)
    return Comparison(*images.prepared(PRESETS["mr"], torch.device("cpu")), measure)


def at(comparison: Comparison, linear: np.ndarray | None = None, field: DisplacementField | None = None) -> float:
    return comparison.at(comparison.mapped(field, np.eye(comparison.points.shape[1] + 1) if linear is None else linear))


def shifted(d: int, millimetres: float) -> np.ndarray:
    matrix = np.eye(d + 1)
    matrix[0, d] = millimetres
    return matrix


@pytest.mark.parametrize("measure", list(MEASURES))
@pytest.mark.parametrize("shape", [(30, 34, 28), (60, 52), (1, 44, 40)])
def test_equal_images_are_most_alike_where_they_lie_on_each_other(shape, measure):
    image = head(centred(shape, (2.0,) * len(shape)))
    comparison = compared(image, Volume(image.array.copy(), image.grid), measure)
    found = [at(comparison, shifted(len(shape), mm)) for mm in (0, 1, 3, 9)]
    assert found == sorted(found, reverse=True)
    if measure == "correlation":
        assert found[0] == pytest.approx(1, abs=1e-3)


def test_a_deformation_is_followed_on_its_own_grid():
    fixed, moving, _, _ = made_pair()
    comparison = compared(fixed, moving)
    field = pipeline.register(fixed, moving, options=QUICK).transform.parts[0]
    mapped = comparison.mapped(field, np.eye(4))
    assert np.allclose(mapped, field.map_points(comparison.points), atol=1e-2)
    assert comparison.at(mapped) > at(comparison)


QUICK = Options(initial="none", linear="none", method_options={"scales": (2,), "iterations": (6,)})


def test_what_lies_outside_the_masks_does_not_count():
    fixed, moving, _, _ = made_pair((30, 32, 28))
    spoilt = moving.array.copy()
    spoilt[0, :, :, : spoilt.shape[3] // 2] = 0
    moving = Volume(spoilt, moving.grid)
    half = np.zeros_like(fixed.array)
    half[0, :, :, fixed.array.shape[3] // 2 + 2 :] = 1
    whole, masked = compared(fixed, moving), compared(fixed, moving, fixed_mask=Volume(half, fixed.grid))
    assert at(masked) > at(whole) + 0.2


def test_what_is_not_seen_does_not_help():
    fixed, moving, _, _ = made_pair((30, 32, 28))
    comparison = compared(fixed, moving)
    assert at(comparison, shifted(3, 400.0)) == pytest.approx(0, abs=0.02)


EVERY = [(name, 2) for name in methods.names()] + [("refine", 3), ("riir", 3)]


@pytest.mark.parametrize(("method", "dimension"), EVERY, ids=[f"{name}-{d}d" for name, d in EVERY])
def test_every_step_of_every_method_is_measured_and_written_as_it_is(method, dimension, tmp_path):
    fixed, moving, points, _ = made_pair((34, 32, 36)[:dimension], (3.0, 3.2, 2.9)[:dimension])
    turned = np.eye(dimension + 1)
    turned[:2, :2], turned[0, dimension] = [[0.995, -0.1], [0.1, 0.995]], 2.0
    start = Transform((Affine(turned),))
    run = pipeline.start(fixed, moving, options=Options(method, initial=start, linear="none", steps=2, untrained=True))
    steps = list(run)
    assert np.isfinite([step.similarity for step in steps]).all()
    assert [record["similarity"] for record in run.steps] == [step.similarity for step in steps]
    result = run.result()
    chosen = next(step for step in steps if step.index == result.report["step"])
    result.transform.write(tmp_path / "transform.h5")
    written = Transform.read(tmp_path / "transform.h5").map_points(points)
    assert np.abs(written - chosen.transform.map_points(points)).max() < 1e-3
    again = compared(fixed, moving)
    assert run.before == pytest.approx(at(again), abs=1e-6)
    assert result.report["similarity"]["after"] == pytest.approx(
        again.at(chosen.transform.map_points(again.points)), abs=2e-3
    )


@dataclasses.dataclass
class Seen:
    index: int
    similarity: float
    folding: float = 0.0


def test_alike_steps_are_told_apart_by_folds_and_then_by_age():
    first = Seen(1, 0.9, 0.5)
    assert better(Seen(2, 0.95, 0.9), first)
    assert better(Seen(2, 0.90001, 0.1), first)
    assert not better(Seen(2, 0.90001, 0.5), first)
    assert not better(Seen(2, 0.8), first)


def test_a_method_is_exhausted_when_its_last_steps_bring_nothing():
    rising = [1 - 0.5**n for n in range(30)]
    ends = next(n for n in range(1, 31) if exhausted(rising[:n]))
    assert rising[ends - 1] > 0.99 * rising[-1]
    assert not exhausted([0.1 * n for n in range(40)])
    assert not exhausted([0.5] * PATIENCE)
    assert exhausted([0.5] * (PATIENCE + 1))
    assert exhausted([0, 1] + [0.5] * PATIENCE)


def test_the_stop_rule_ends_a_run_that_gets_no_further():
    fixed, moving, _, _ = made_pair()
    schedule = {"scales": (2,), "iterations": (200,), "tolerance": 0}
    options = Options(initial="none", linear="none", method_options=schedule)
    whole = pipeline.start(fixed, moving, options=options)
    stopped = pipeline.start(fixed, moving, options=dataclasses.replace(options, stop="auto"))
    made = len(list(whole)), len(list(stopped))
    assert made[1] < 0.7 * made[0]
    gain = whole.best.similarity - whole.before
    assert stopped.last.similarity > whole.best.similarity - 0.02 * gain
    assert any("brought next to nothing" in note for note in stopped.notes)


@pytest.mark.parametrize(("trained", "slope", "wanted"), [(4, -1, 4), (2, -1, 2), (2, 1, 4)])
def test_a_network_gives_its_last_step_and_beyond_its_training_the_best(trained, slope, wanted, monkeypatch):
    fixed, moving, _, _ = made_pair((14, 12, 16), (7.0, 7.2, 6.9))
    count = itertools.count()
    monkeypatch.setattr(Comparison, "at", lambda *_: 0.01 * slope * next(count))
    monkeypatch.setattr(Plan, "trained_steps", trained)
    options = Options("rcn", initial="geometry", linear="none", steps=4, untrained=True)
    run = pipeline.start(fixed, moving, options=options)
    steps = [step for step in run if step.phase == "deform"]
    assert run.result().report["step"] == steps[wanted - 1].index


def test_a_fold_is_removed_in_steps_of_its_own():
    fixed, moving, _, _ = made_pair((30, 32, 28))
    rough = {"scales": (1,), "iterations": (30,), "gradient_smoothing": 0.0, "field_smoothing": 0.0, "step": 1.0}
    run = pipeline.start(fixed, moving, options=Options(initial="none", linear="none", method_options=rough))
    steps = list(run)
    result = run.result()
    unfolding = [step for step in steps if step.phase == "conclude"]
    if unfolding:
        assert unfolding[0].stage == "unfold 1/5"
        assert result.report["step"] == unfolding[-1].index
    assert result.report["folded_voxels"] == 0 or any("remain folded" in note for note in run.notes)


@pytest.mark.parametrize("method", ["riir", "voxelmorph"])
def test_weights_are_used_by_name_alone(method):
    fixed, moving, _, _ = made_pair((30, 32, 28))
    with pytest.raises(InputError, match=f"hippocampus-{method}"):
        pipeline.start(fixed, moving, options=Options(method))
