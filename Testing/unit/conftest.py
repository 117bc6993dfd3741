"""Fixtures of the unit tests."""

from __future__ import annotations

import pytest
from geometry import AWKWARD, GRIDS, PAIRS

from RecurrentRegistrationLib.volume import Grid


@pytest.fixture(params=AWKWARD)
def grid(request: pytest.FixtureRequest) -> Grid:
    """Every awkward grid that has inner voxels and slopes along all of its axes."""
    return GRIDS[request.param]


@pytest.fixture(params=[*AWKWARD, "single slice"])
def any_grid(request: pytest.FixtureRequest) -> Grid:
    """Every awkward grid in turn."""
    return GRIDS[request.param]


@pytest.fixture(params=PAIRS, ids=" in ".join)
def grids(request: pytest.FixtureRequest) -> tuple[Grid, Grid]:
    """Two grids of one space, fixed and moving."""
    first, second = request.param
    return GRIDS[first], GRIDS[second]
