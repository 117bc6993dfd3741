"""Pairs that mislead: a mirrored head, a slab far away, spikes of intensity, masks beside the grid, bent starts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from phantom import centred, head

from RecurrentRegistrationLib import pipeline
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.transform import Affine, DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid, Volume

GRID = centred((40, 48, 44), (3.0, 3.0, 3.0))
HEAD = (head(GRID).array * 900).astype(np.float32)
PART = slice(15, 25)  # slices
SLAB = GRID.cropped((0, 0, PART.start), (44, 48, PART.stop - PART.start))
POINTS = SLAB.physical(np.argwhere(HEAD[0, PART] > 300)[::29][:, ::-1])


def found(fixed: Volume, moving: Volume, **more) -> Transform:
    """The rigid map of a pair; `more` are masks, or a start."""
    masks = {name: value for name, value in more.items() if name.endswith("mask")}
    others = {name: value for name, value in more.items() if name not in masks}
    options = pipeline.Options(method="none", linear="rigid", device="cpu", **others)
    return pipeline.register(fixed, moving, **masks, options=options).transform


def errors(transform: Transform, points: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Millimetres between where points go and where a shift takes them."""
    return np.linalg.norm(transform.map_points(points) - points - shift, axis=1)


def test_a_mirrored_head_is_not_mirrored_back():
    transform = found(Volume(HEAD, GRID), Volume(HEAD[..., ::-1].copy(), GRID))
    corners = transform.map_points(np.vstack([np.zeros(3), np.eye(3)]))
    assert np.linalg.det(corners[1:] - corners[0]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_slab_far_from_its_volume_is_found(side):
    shift = np.array([0, 0, 150.0])
    away = dataclasses.replace(SLAB, origin=tuple(np.array(SLAB.origin) + shift))
    whole, slab = Volume(HEAD, GRID), Volume(HEAD[:, PART].copy(), away)
    if side == "moving":
        assert errors(found(whole, slab), POINTS, shift).max() < 1
    else:
        assert errors(found(slab, whole), POINTS + shift, -shift).max() < 1


SPIKES = {
    "hot voxels": lambda values, draw: values.ravel().__setitem__(draw.choice(values.size, values.size // 250), 6e4),
    "an object in the head": lambda values, _: values[0, 18:23, 20:26, 20:25].fill(1e5),
    "an object beside it": lambda values, _: values[0, 2:8, 2:8, 2:8].fill(1e5),
}


@pytest.mark.parametrize("name", SPIKES)
def test_spikes_in_one_image_do_not_lead_away(name):
    moving = np.roll(HEAD, (1, 2), (2, 3))  # voxels along y and x
    SPIKES[name](moving, np.random.default_rng(0))
    off = errors(found(Volume(HEAD, GRID), Volume(moving, GRID)), POINTS, np.array([6.0, 3.0, 0.0])).max()
    assert off < (7.5 if name == "hot voxels" else 1.5)  # everywhere in the head they cost two voxels


@pytest.mark.parametrize("beside", [0.0, 1e-5])
@pytest.mark.parametrize("side", ["fixed_mask", "moving_mask"])
def test_one_mask_alone_on_its_grid_or_almost(side, beside):
    moved = np.roll(HEAD, (1, 2), (2, 3))
    grid = dataclasses.replace(GRID, origin=tuple(np.array(GRID.origin) + beside))
    mask = Volume(((HEAD if side == "fixed_mask" else moved) > 100).astype(np.uint8), grid)
    transform = found(Volume(HEAD, GRID), Volume(moved, GRID), **{side: mask})
    assert errors(transform, POINTS, np.array([6.0, 3.0, 0.0])).max() < 1.5


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        (Transform((DisplacementField.zero(Grid.regular((5, 5, 5))),)), "must be linear and 3D"),
        (Transform((Affine(np.eye(3)),)), "must be linear and 3D"),
        (Transform((Affine(np.diag([1.0, 1, 0, 1])),)), "singular"),
    ],
)
def test_starts_that_cannot_be_used(start, sentence):
    with pytest.raises(InputError, match=sentence):
        found(Volume(HEAD, GRID), Volume(HEAD + 1, GRID), initial=start)
