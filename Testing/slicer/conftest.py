"""A fresh scene for every test. Each test file begins with `pytest.importorskip("slicer", …)`: 3D Slicer's core."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "RecurrentRegistration"))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Any]:
    """A new scene, which is also `slicer.mrmlScene`."""
    from slicer_scene import boot

    scene = boot(tmp_path)
    yield scene
    scene.Clear(True)
