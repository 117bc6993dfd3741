"""Volumes of one to three slices: what a slice cannot tell is left alone, and the rest is found as in 2D."""

from __future__ import annotations

import numpy as np
import pytest
from phantom import centred, intensity

from RecurrentRegistrationLib import pipeline
from RecurrentRegistrationLib.transform import Affine, Transform
from RecurrentRegistrationLib.volume import Grid, Volume

TURN = np.deg2rad(14)
IN_PLANE = np.array([[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]])
TILT = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])


def slab(grid: Grid, flat: np.ndarray, to_head: np.ndarray) -> Volume:
    """The same picture in every slice; `flat` holds the directions of the plane, `to_head` moves it in the plane."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    plane = grid.physical(index[:, ::-1]) @ flat
    values = intensity((plane - to_head[:2, 2]) @ to_head[:2, :2])
    return Volume(values.reshape(1, *grid.shape).astype(np.float32), grid)


@pytest.mark.parametrize(("slices", "thick", "cosines"), [(1, 3.0, np.eye(3)), (2, 8.0, np.eye(3)), (3, 3.0, TILT)])
def test_a_turn_in_the_plane_is_found(slices, thick, cosines):
    grid = centred((slices, 66, 58), (1.5, 1.4, thick), cosines)
    flat = cosines[:, :2]
    motion = IN_PLANE.copy()
    motion[:2, 2] = 5.0, -4.0
    fixed, moving = slab(grid, flat, np.eye(3)), slab(grid, flat, motion)
    found = pipeline.register(fixed, moving, options=pipeline.Options(linear="rigid", method="none", device="cpu"))
    truth = np.eye(4)
    truth[:3, :3] = cosines @ IN_PLANE @ cosines.T
    truth[:3, 3] = flat @ motion[:2, 2]
    points = grid.physical(np.random.default_rng(0).uniform([10, 10, 0], [48, 56, slices - 1], (50, 3)))
    away = found.transform.map_points(points) - Transform((Affine(truth),)).map_points(points)
    assert np.linalg.norm(away, axis=1).mean() < 0.3
    assert np.abs(away @ cosines[:, 2]).max() < 1e-3  # nothing moves across the slices
    assert not any("memory" in note for note in found.report["notes"])
