"""A fresh scene for every test. Each test file begins with `pytest.importorskip("slicer", …)`: 3D Slicer's core."""

from __future__ import annotations

import sys
import time
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


@pytest.fixture(scope="session")
def worker() -> Iterator[Any]:
    """One real worker process for all tests: it takes seconds to start."""
    from RecurrentRegistrationSlicer.process import WorkerProcess

    worker = WorkerProcess()
    yield worker
    worker.close()


@pytest.fixture
def logic(scene: Any, worker: Any) -> Iterator[Any]:
    """The Python interface on the scene, and `logic.heard`: the events that listeners were told."""
    from RecurrentRegistrationSlicer.logic import RegistrationLogic

    logic = RegistrationLogic(worker)
    logic.heard = []
    logic.listeners.append(logic.heard.append)
    yield logic
    logic.revert()
    while worker.pending:  # the next test begins with an idle worker
        logic.pump()
        time.sleep(0.005)
    logic.disconnect()
