"""A fresh scene for every test. Each test file begins with `pytest.importorskip("slicer", …)`: 3D Slicer's core."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "RecurrentRegistration"), str(ROOT / "Testing" / "unit")]  # the module, and its geometries


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Any]:
    """A new scene, which is also `slicer.mrmlScene`."""
    from slicer_scene import boot

    scene = boot(tmp_path)
    yield scene
    scene.Clear(True)
