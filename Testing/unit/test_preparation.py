"""What the method takes: images that show as much as each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from phantom import centred

from RecurrentRegistrationLib.pipeline.preparation import Prepared, antialiased, blurred_like


def impulse(grid) -> Prepared:
    values = torch.zeros(1, 1, *grid.shape)
    values[(0, 0, *(n // 2 for n in grid.shape))] = 1
    return Prepared(values, grid)


def spread(image: Prepared) -> np.ndarray:
    """Variance along each axis (i, j, k), square millimetres."""
    weight = image.values[0, 0].numpy()
    places = np.stack(np.meshgrid(*map(np.arange, weight.shape), indexing="ij"))[::-1]
    mean = (weight * places).sum(axis=tuple(range(1, places.ndim))) / weight.sum()
    around = places - mean.reshape(-1, *[1] * weight.ndim)
    variance = (weight * around**2).sum(axis=tuple(range(1, places.ndim))) / weight.sum()
    return variance * np.square(image.grid.spacing)


def test_slices_become_as_thick_as_those_of_the_other_image():
    grid, other = centred((21, 23, 41), (1.0, 1.0, 1.5)), centred((9, 9, 9), (0.8, 1.0, 4.5))
    found = spread(blurred_like(impulse(grid), other))
    assert found == pytest.approx([0, 0, 0.25 * (4.5**2 - 1.5**2)], rel=0.02, abs=1e-6)


def test_the_axes_of_the_scanner_count_not_those_of_the_arrays():
    sagittal = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    grid = centred((31, 21, 21), (1.0, 1.0, 1.0))
    other = centred((9, 9, 9), (1.0, 1.0, 3.0), sagittal)
    assert spread(blurred_like(impulse(grid), other)) == pytest.approx([2, 0, 0], rel=0.02, abs=1e-6)


def test_in_the_plane():
    found = blurred_like(impulse(centred((21, 31), (1.0, 1.0))), centred((9, 9), (1.0, 2.5)))
    assert spread(found) == pytest.approx([0, 0.25 * (2.5**2 - 1)], rel=0.02, abs=1e-6)


def test_what_is_smoothed_already_is_not_smoothed_again_for_a_coarser_grid():
    grid, coarse = centred((33, 33, 33), (1.0, 1.0, 1.0)), centred((17, 17, 17), (3.0, 3.0, 3.0))
    once = antialiased(impulse(grid).values, grid, coarse)
    for spacing in ((3.0, 3.0, 3.0), (1.0, 1.0, 3.0), (1.0, 2.0, 1.0)):
        image = blurred_like(impulse(grid), centred((9, 9, 9), spacing))
        found = antialiased(image.values, grid, coarse, image.shown)
        assert torch.allclose(found, once, atol=0.05 * once.max())


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 3.0), (0.5, 1.0, 2.0), (1.05, 1.05, 3.2)])
def test_an_image_that_shows_no_more_stays_as_it_is(spacing):
    image = impulse(centred((9, 11, 7), (1.0, 1.0, 3.0)))
    assert blurred_like(image, centred((9, 9, 9), spacing)) is image
