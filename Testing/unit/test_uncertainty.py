"""Uncertainty: its three kinds on a run, and its calibration against a known error."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from phantom import centred, head
from safetensors.torch import save_file

from RecurrentRegistrationLib import methods, pipeline
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.metrics.calibration import calibration
from RecurrentRegistrationLib.pipeline import uncertainty
from RecurrentRegistrationLib.pipeline.kept_steps import History
from RecurrentRegistrationLib.pipeline.options import Options
from RecurrentRegistrationLib.transform import Affine, Transform

GRID = centred((40, 36), (2.0, 2.0))
SHIFT = Transform((Affine(np.array([[1.0, 0, 3], [0, 1, -2], [0, 0, 1]])),))


@pytest.fixture(scope="module")
def images() -> dict:
    return {"fixed": head(GRID, SHIFT), "moving": head(GRID)}


@pytest.fixture(scope="module")
def finished(images) -> tuple:
    options = Options(method="demons", steps=6, initial="none", linear="none")
    run, history = pipeline.start(**images, options=options), History()
    for step in run:
        history.offer(step)
    return run, history.kept


def test_spread_by_hand():
    fields = [torch.tensor([[0.0, 1.0], [0.0, 5.0]]), torch.tensor([[2.0, 1.0], [0.0, 5.0]])]
    assert uncertainty.spread(fields) == pytest.approx(np.array([[1.0, 0.0]]))


def test_spread_equals_numpys_variance():
    fields = torch.randn(7, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = np.sqrt(fields.numpy().var(axis=0).sum(axis=0, keepdims=True))
    assert uncertainty.spread(fields) == pytest.approx(expected, abs=1e-6)


def test_steps_that_agree_leave_no_uncertainty(finished):
    _, kept = finished
    one = uncertainty.of_steps([kept[-1]] * 3, GRID)
    assert one.array.max() == 0
    assert one.grid == GRID
    several = uncertainty.of_steps(kept, GRID)
    assert several.array.shape == (1, 40, 36)
    assert 0 < several.array.mean() < 4


def test_there_and_back(finished, images):
    """The residual is that of the two registrations, composed by hand."""
    run, kept = finished
    ((kind, found),) = uncertainty.maps(run, kept, images, ["inverse"])
    assert kind == "inverse"
    start = Transform((Affine(np.eye(3)),))
    swapped = {"fixed": images["moving"], "moving": images["fixed"]}
    back = pipeline.register(**swapped, options=dataclasses.replace(run.plan.options, initial=start))
    points = GRID.physical(np.array([[18, 20], [10, 25]]))
    returned = back.transform.map_points(run.result().transform.map_points(points))
    expected = np.linalg.norm(returned - points, axis=1)
    assert found.array[0, [20, 25], [18, 10]] == pytest.approx(expected, abs=0.05)


def test_samples_differ_where_the_method_is_random(images, tmp_path):
    small = {"channels": (8, 8, 8, 8), "blocks": 1}
    network = methods.create("r2n2", 2, **small)
    generator = torch.Generator().manual_seed(1)
    for weight in network.parameters():  # untrained it moves nothing, with or without noise
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    options = Options(
        method="r2n2",
        steps=3,
        initial="none",
        linear="none",
        method_options=small,
        weights=tmp_path / "weights.safetensors",
    )
    run = pipeline.start(**images, options=options)
    for _ in run:
        pass
    ((_, found),) = uncertainty.maps(run, [], images, ["samples"])
    assert found.array.max() > 0.01
    ((_, again),) = uncertainty.maps(run, [], images, ["samples"])
    assert np.array_equal(found.array, again.array)  # the seed decides


def test_sampling_keeps_the_noise_in_evaluation():
    method = methods.create("r2n2", 2)
    method.sampling = True
    assert method.eval().training
    method.sampling = False
    assert not method.eval().training


def test_nothing_random_is_refused(finished, images):
    run, kept = finished
    with pytest.raises(InputError, match="neither noise nor dropout"):
        list(uncertainty.maps(run, kept, images, ["samples"]))
    with pytest.raises(InputError, match="no uncertainty 'mood'"):
        list(uncertainty.maps(run, kept, images, ["mood"]))


def test_perfect_uncertainty():
    error = np.random.default_rng(0).random(1000)
    found = calibration(error, error)
    assert found.rank_correlation == pytest.approx(1)
    assert found.uncertainty == pytest.approx(found.error)
    assert found.excess == pytest.approx(0, abs=1e-12)
    assert found.left[0] == pytest.approx(error.mean())


def test_useless_uncertainty_leaves_the_mean_error():
    generator = np.random.default_rng(0)
    error = generator.random(20_000)
    found = calibration(generator.random(20_000), error)
    assert abs(found.rank_correlation) < 0.03
    assert found.left == pytest.approx([error.mean()] * 20, abs=0.04)
    # uniform errors: what is left of the best half is half of the mean; the area between is about 0.45
    assert found.excess == pytest.approx(0.95**2 / 2, abs=0.03)


def test_calibration_by_hand():
    error = np.array([4.0, 0, 1, 3, 2, 5, 6, 7, 8, 9])
    found = calibration(np.arange(10.0), error)
    assert found.error == tuple(error)
    assert found.removed[10] == pytest.approx(0.5)
    assert found.left[10] == pytest.approx(np.mean([4, 0, 1, 3, 2]))
    with pytest.raises(ValueError, match="10 or more"):
        calibration(np.arange(3.0), np.arange(3.0))
