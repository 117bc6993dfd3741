"""What a step costs in 3D Slicer: from the worker to the scene, the slider, memory. Needs slicer-core; prints a table.

    python Testing/benchmarks/slicer_steps.py [--size 128] [--steps 25] [--large 256]

"Step to scene" runs from the moment the worker has written a step's file (its modification time) to the moment the
transform node has been updated by a pump that is called every 50 ms, as the module's timer does. "Slider" is a
selection of a step, with the moving image resampled on three slices through the middle, as the slice views do.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "RecurrentRegistration"), str(ROOT / "Testing" / "slicer"), str(ROOT)]

import numpy as np
import slicer.util
import vtk
from RecurrentRegistrationSlicer.frame import FLIP, Frame
from RecurrentRegistrationSlicer.logic import RegistrationLogic
from RecurrentRegistrationSlicer.steps import LONGEST, Steps
from slicer_scene import boot

from RecurrentRegistrationLib.report.sequence import coarsened
from RecurrentRegistrationLib.volume import Grid

INTERVAL = 0.05  # seconds between two pumps


def blob(size: int, shift: float) -> np.ndarray:
    """A smooth image `[k, j, i]`, moved along i by some voxels."""
    k, j, i = (np.ogrid[:size, :size, :size][n].astype(np.float32) - size / 2 for n in range(3))
    radius = np.sqrt((i - shift) ** 2 + (0.8 * j) ** 2 + (1.2 * k) ** 2)
    return (80 / (1 + np.exp((radius - size / 3) / 3)) + 10 * np.sin(6 * (i - shift) / size) + j / 8 + 20).astype("f4")


def memory() -> dict[str, float]:
    """Megabytes of this process: its own, and all that is resident (mapped files included)."""
    rows = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    values = {row.split(":")[0]: row.split()[1] for row in rows if row.startswith(("RssAnon", "VmRSS"))}
    return {name: int(value) / 1024 for name, value in values.items()}


def step_to_scene(size: int) -> tuple[Any, list[float]]:
    """Register a pair; the logic, and for each step that is shown its seconds to the scene."""
    fixed, moving = (slicer.util.addVolumeFromArray(blob(size, shift), name=f"{shift}") for shift in (0.0, 5.0))
    logic = RegistrationLogic()
    logic.startWorker()
    while not logic.methods:
        logic.pump()
        time.sleep(INTERVAL)
    delays: list[float] = []
    written: dict[int, float] = {}
    add_step = logic._addStep

    def timed(run: Any, event: dict[str, Any]) -> None:
        if event["display"] is not None:
            written[event["index"]] = os.stat(event["display"]["path"]).st_mtime
        add_step(run, event)

    logic._addStep = timed  # type: ignore[method-assign]
    run = logic.registerVolumes(fixed, moving, wait=False, linear="none", initial="none", device="cpu", steps=24)
    while logic.busy:
        time.sleep(INTERVAL)
        logic.pump()
        if run.selectedStep in written:
            delays.append(time.time() - written.pop(run.selectedStep))
    return logic, delays


def slider(logic: Any) -> tuple[list[float], list[float]]:
    """Seconds for the node to be updated, and for three resampled slices after it, step by step."""
    run, node, slices = logic.run, [], []
    for step in run.keptSteps[1:] + run.keptSteps[-2:0:-1]:
        began = time.perf_counter()
        logic.selectStep(step)
        node.append(time.perf_counter() - began)
        for axis in range(3):
            resliced(run, axis)
        slices.append(time.perf_counter() - began)
    return node, slices


def resliced(run: Any, axis: int) -> None:
    """One slice of the moving image through its transform, as a slice view makes it."""
    size = run.movingNode.GetImageData().GetDimensions()
    transform = vtk.vtkGeneralTransform()
    run.stepTransformNode.GetTransformFromWorld(transform)
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(run.movingNode.GetImageData())
    reslice.SetResliceTransform(transform)
    reslice.SetInterpolationModeToLinear()
    extent = [0, size[0] - 1, 0, size[1] - 1, 0, size[2] - 1]
    extent[2 * axis] = extent[2 * axis + 1] = size[axis] // 2
    reslice.SetOutputExtent(extent)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.Update()


def stored_steps(size: int, count: int, folder: Path) -> dict[str, float]:
    """Megabytes that the steps of a large pair take, after each has been looked at."""
    grid = coarsened(Grid.regular((size, size, size)), LONGEST)
    placed = {name: list(getattr(grid, name)) for name in ("size", "spacing", "origin", "direction")}
    steps = Steps.create("Large")
    frame, before, on_disk = Frame(3, np.eye(4)), memory(), 0
    for index in range(1, count + 1):
        path = folder / f"{index}.npy"
        np.save(path, np.full((*grid.shape, 3), index, np.float32))
        on_disk += path.stat().st_size
        steps.add(index, {"path": str(path), **placed}, frame, FLIP)
    for index in steps.indices:
        steps.select(index)
    after = memory()
    return {
        "own memory": after["RssAnon"] - before["RssAnon"],
        "with mapped files": after["VmRSS"] - before["VmRSS"],
        "files": on_disk / 2**20,
    }


def row(name: str, values: list[float]) -> str:
    """Median and largest, milliseconds."""
    return f"{name:<48} median {1000 * np.median(values):6.1f} ms   max {1000 * max(values):6.1f} ms   n {len(values)}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="voxels along a side of the pair that is registered")
    parser.add_argument("--steps", type=int, default=25, help="stored steps of the large pair")
    parser.add_argument("--large", type=int, default=256, help="voxels along a side of the large pair")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        boot(Path(name))
        stored = stored_steps(arguments.large, arguments.steps, Path(name))
        print(f"{arguments.steps} steps of a {arguments.large}³ pair: ", end="")
        print(", ".join(f"{what} {value:.0f} MB" for what, value in stored.items()), flush=True)
        logic, delays = step_to_scene(arguments.size)
        print(row(f"step to scene, {arguments.size}³", delays))
        node, slices = slider(logic)
        print(row(f"slider: transform node, {arguments.size}³", node))
        print(row(f"slider: transform node and three slices, {arguments.size}³", slices))
        logic.revert()
        logic.shutdown()


if __name__ == "__main__":
    main()
