"""Tiny configurations, data sets and trainings that the tests share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scans_made import scan

from RecurrentRegistrationLib.volume import Grid, Volume

lightning = pytest.importorskip("lightning", reason="training needs the extra 'train'")

Tree = dict[str, Any]

SYNTHETIC: Tree = {
    "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "max_steps": 6, "log_every_n_steps": 1},
    "model": {
        "method": "rcn",
        "dimension": 2,
        "options": {"width": 4},
        "steps": 2,
        "losses": [{"term": "mse"}, {"term": "diffusion", "weight": 0.1}],
        "half_precision": False,
    },
    "data": {
        "class_path": "SyntheticPairs",
        "init_args": {"shape": [24, 20], "validation_pairs": 1, "batch_size": 2},
    },
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Bitwise comparisons need the same order of sums, and other tests may have changed the number."""
    torch.set_num_threads(1)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a configuration: the synthetic one with changes, given as `section__key=value`."""

    def written(name: str = "config", base: Tree = SYNTHETIC, **changes: Any) -> Path:
        tree = copy.deepcopy(base)
        for path, value in changes.items():
            place = tree
            *sections, key = path.split("__")
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = value
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return file

    return written


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`images` and `labels` of six 2D cases, two of each subject."""
    for number in range(6):
        name = f"subject{number // 2}_{number % 2}.nrrd"
        image = scan(number)
        grid = Grid.regular(image.shape[1:])
        Volume(image, grid).write(tmp_path / "images" / name)
        Volume((image > 50).astype(np.uint8), grid).write(tmp_path / "labels" / name)
    return tmp_path
