import numpy as np
import pytest
import torch

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.pipeline.comparison import Comparison
from RecurrentRegistrationLib.pipeline.preparation import Prepared
from RecurrentRegistrationLib.pipeline.search import create_search, judged_start, look, search_grid
from RecurrentRegistrationLib.volume import Grid

SPACING = 4.0


def body(shift_mm=0.0):
    """A textured ball of 240 mm; the lower half of what it holds is `shift_mm` further along the last axis."""
    torch.manual_seed(0)
    shape = (48, 64, 64)
    texture = spatial.gaussian_smooth(torch.randn(1, 1, *shape), 1.5)
    values = 0.5 + 0.15 * texture / texture.std()
    z, y, x = spatial.identity_grid(shape)[0]
    values = values * ((((z - 24) / 22) ** 2 + ((y - 32) / 30) ** 2 + ((x - 32) / 30) ** 2) < 1)
    moves = torch.zeros(1, 3, *shape)
    moves[:, 2] = -shift_mm / SPACING * torch.sigmoid((y - 32) / 4)
    grid = Grid(shape[::-1], (SPACING,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel()))
    return Prepared(spatial.warp(values, moves), grid)


@pytest.mark.parametrize(("shift", "wanted"), [(0.0, False), (4.0, False), (20.0, True)])
def test_only_large_motion_asks_for_a_search(shift, wanted):
    fixed = body()
    motion = look(fixed, body(shift), np.eye(4), fixed.grid)
    assert motion.length == pytest.approx(shift, abs=2.5)
    assert motion.wants_search is wanted
    assert f"{motion.length:.0f} mm" in motion.note


def along_x(millimetres):
    matrix = np.eye(4)
    matrix[0, 3] = millimetres
    return matrix


@pytest.mark.parametrize(
    ("shift", "found", "expected"),
    [
        (40.0, 20.0, 0.0),  # half of the body was followed half of the way: the search need not start from there
        (4.0, 2.0, 2.0),  # nothing to search for: what the linear stage found stays
    ],
)
def test_a_search_starts_where_nothing_that_is_still_was_moved(shift, found, expected):
    fixed, moving = body(), body(shift)
    starts = np.eye(4), along_x(found)
    start, motion = judged_start((fixed, moving), starts, fixed.grid, Comparison(fixed, moving, "correlation"))
    assert motion.wants_search is (expected != found)
    np.testing.assert_array_equal(start, along_x(expected))


def test_a_search_does_not_start_from_where_nothing_is_found():
    fixed, far = body(), body(30.0)
    away = Prepared(far.values, Grid(far.grid.size, far.grid.spacing, (200.0, 0.0, 0.0), far.grid.direction))
    starts = np.eye(4), along_x(200.0)
    start, motion = judged_start((fixed, away), starts, fixed.grid, Comparison(fixed, away, "correlation"))
    assert motion.wants_search
    np.testing.assert_array_equal(start, starts[1])


def test_the_search_covers_the_working_grid():
    grid = Grid((200, 150, 160), (1.0, 1.0, 1.0), (5.0, 6.0, 7.0), tuple(np.eye(3).ravel()))
    coarse = search_grid(grid)
    assert max(coarse.size) == pytest.approx(100, abs=2)
    np.testing.assert_allclose(coarse.corners(), grid.corners())
    assert search_grid(coarse).size == coarse.size
    assert create_search().card.initial
