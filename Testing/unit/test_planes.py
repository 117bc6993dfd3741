"""Views through a grid lie where the image lies, and their letters tell the truth."""

from __future__ import annotations

import numpy as np
import pytest
from geometry import AWKWARD, GRIDS

from RecurrentRegistrationLib.report.views import planes

LPS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
SOLID = [name for name in AWKWARD if GRIDS[name].dimension == 3]


@pytest.mark.parametrize("name", SOLID)
def test_letters_name_the_nearest_anatomical_direction(name):
    for view in planes(GRIDS[name], GRIDS[name].centre):
        right, down = view.grid.cosines[:, 0], view.grid.cosines[:, 1]
        left_letter, right_letter, top_letter, bottom_letter = view.edges
        for letter, direction in (
            (right_letter, right),
            (left_letter, -right),
            (bottom_letter, down),
            (top_letter, -down),
        ):
            assert np.dot(LPS[letter], direction) > 0.5, (view.name, letter)


@pytest.mark.parametrize("name", SOLID)
def test_views_are_the_radiologist_s(name):
    edges = {view.name: view.edges for view in planes(GRIDS[name], GRIDS[name].centre)}
    assert edges == {
        "axial": ("R", "L", "A", "P"),
        "coronal": ("R", "L", "S", "I"),
        "sagittal": ("A", "P", "S", "I"),
    }


@pytest.mark.parametrize("name", SOLID)
def test_views_cover_the_image_with_square_pixels_and_hold_the_point(name):
    grid = GRIDS[name]
    centre = grid.physical([n // 2 for n in grid.size])
    for view in planes(grid, centre, pixels=200):
        assert view.grid.spacing[0] == view.grid.spacing[1] == max(grid.extent) / 200
        index = grid.index(view.grid.corners())
        assert (index > -0.51).all()
        assert (index < np.array(grid.size) - 0.49).all()
        assert view.grid.index(centre)[2] == pytest.approx(0, abs=1e-6)
        extents = sorted(grid.extent)
        assert all(min(abs(e - x) for x in extents) < 2 * view.grid.spacing[0] for e in view.grid.extent[:2])


def test_a_flat_image_is_shown_as_it_is_stored():
    (view,) = planes(GRIDS["2D oblique"], GRIDS["2D oblique"].centre)
    assert view.edges == ("", "", "", "")
    assert np.allclose(view.grid.cosines, GRIDS["2D oblique"].cosines)
