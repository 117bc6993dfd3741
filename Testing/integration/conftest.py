"""Small images in files, and the commands run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from RecurrentRegistrationLib.volume import Grid, Volume

SOLID = Grid((18, 20, 16), (2.0, 2.0, 2.5), (-17.0, -20.0, -19.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
FLAT = Grid((30, 26), (1.5, 1.5), (-22.0, -19.0), (1, 0, 0, 1))


def blob(grid: Grid, shift: float = 0.0, stretch: float = 1.0) -> np.ndarray:
    """A lop-sided blob with a core, `[1, *S]`; `shift` (mm) moves it along x, `stretch` widens it."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.size), indexing="ij"), axis=-1)
    points = (grid.physical(index) - np.eye(grid.dimension)[0] * shift) / stretch
    radius = np.linalg.norm(points * [1.0, 0.8, 1.2][: grid.dimension], axis=-1)
    values = 80 / (1 + np.exp(radius - 12)) + 60 / (1 + np.exp(2 * (radius - 5))) + points[..., 1]
    return np.maximum(values, 0).T[np.newaxis].astype(np.float32)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with fixed.nrrd and moving.nrrd, fixed2d.nrrd and moving2d.nrrd, mask.nrrd and labels.nrrd."""
    folder = tmp_path_factory.mktemp("images")
    for end, grid in (("", SOLID), ("2d", FLAT)):
        Volume(blob(grid), grid).write(folder / f"fixed{end}.nrrd")
        Volume(blob(grid, shift=3.0, stretch=1.1), grid).write(folder / f"moving{end}.nrrd")
        Volume((blob(grid) > 40).astype(np.uint8), grid).write(folder / f"mask{end}.nrrd")
        labels = (blob(grid) > 40).astype(np.uint8) + (blob(grid) > 100)
        Volume(labels, grid).write(folder / f"labels{end}.nrrd")
    return folder


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def command() -> Command:
    """Run a command line in a process of its own; all it takes and gives is text."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "RecurrentRegistrationLib", *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(line, capture_output=True, encoding="utf-8", check=False, env=environment, **options)

    return run
