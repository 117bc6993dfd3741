"""Pairs of volume nodes with a known map between them, and the files that a worker would write for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import slicer
import slicer.util
from geometry import GRIDS, voxel_centres, wave
from RecurrentRegistrationSlicer import inputs, results
from RecurrentRegistrationSlicer.found import Written
from RecurrentRegistrationSlicer.frame import FLIP, Frame, indexToWorld, matrixFromArray, toWorld
from RecurrentRegistrationSlicer.runs import Outputs, Result, Run, Settings

from RecurrentRegistrationLib.pipeline.inputs import Input
from RecurrentRegistrationLib.pipeline.registration import Registration
from RecurrentRegistrationLib.report.folder import write_results
from RecurrentRegistrationLib.report.sequence import vectors
from RecurrentRegistrationLib.transform import Affine, DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid

Map = Callable[[np.ndarray], np.ndarray]


def turned(
    degrees: float, translation: tuple[float, float, float], scale: float = 1.0, shear: float = 0.0
) -> np.ndarray:
    """A linear parent transform: a turn about z after one about x, a scale, a shear."""
    a, b = np.radians(degrees), np.radians(degrees / 2)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3] = scale * about_z @ about_x @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1]])
    matrix[:3, 3] = translation
    return matrix


PARENTS = {
    "no parent": (None, None),
    "moving under a turn": (None, turned(25, (12, -7, 5))),
    "fixed under a turn": (turned(-40, (-20, 9, 14)), None),
    "both under transforms": (turned(15, (3, 4, 5)), turned(-70, (30, 2, -8), scale=1.3)),
    "moving under a shear": (None, turned(10, (5, -5, 2), shear=0.2)),
}


@dataclass
class Pair:
    """Two volume nodes and the map from fixed to moving points, LPS millimetres of the world."""

    fixedNode: Any
    movingNode: Any
    map: Map
    transform: Transform  # the same in the worker's coordinates
    grid: Grid  # of the fixed image, there
    frame: Frame


def volumeNode(grid: Grid, name: str, parent: np.ndarray | None, offset: float = 0.0) -> Any:
    """A smooth image on a grid (2D: one slice, `offset` above the plane), under a parent transform."""
    index = np.eye(4)
    d = grid.dimension
    index[:d, :d] = grid.cosines * np.array(grid.spacing)
    index[:d, 3] = grid.origin
    index[2, 3] += offset
    points = voxel_centres(grid) - grid.centre
    array = 3 + np.cos(0.2 * points).prod(axis=1) + 0.05 * points @ np.arange(1, d + 1)
    array = array.reshape(grid.shape if d == 3 else (1, *grid.shape)).astype(np.float32)
    ijkToRas = FLIP @ index
    node = slicer.util.addVolumeFromArray(array, name=name)
    node.SetIJKToRASMatrix(matrixFromArray(ijkToRas))
    if parent is not None:
        above = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", f"{name} parent")
        above.SetMatrixTransformToParent(matrixFromArray(parent))
        node.SetAndObserveTransformNodeID(above.GetID())
    return node


def workerGrid(node: Any, frame: Frame) -> Grid:
    """The grid of a volume node as the worker sees it."""
    d = frame.dimension
    index = frame.seen(indexToWorld(node))
    spacing = np.linalg.norm(index[:d, :d], axis=0)
    size = node.GetImageData().GetDimensions()[:d]
    return Grid(size, tuple(spacing), tuple(index[:d, 3]), tuple((index[:d, :d] / spacing).ravel()))


def pair(geometry: str, parents: str, movingGeometry: str | None = None) -> Pair:
    """A pair whose map is a smooth wave followed by a linear map."""
    above = PARENTS[parents]
    fixedNode = volumeNode(GRIDS[geometry], "Fixed", above[0])
    movingNode = volumeNode(GRIDS[movingGeometry or geometry], "Moving", above[1])
    frame = Frame.of(fixedNode, movingNode)
    return mapped(fixedNode, movingNode, frame)


def mapped(fixedNode: Any, movingNode: Any, frame: Frame) -> Pair:
    """Give two volume nodes a map."""
    grid = workerGrid(fixedNode, frame)
    d = frame.dimension
    linear = np.eye(d + 1)
    linear[0, 1], linear[1, 0], linear[0, -1], linear[1, -1] = 0.04, -0.03, 2.0, -1.5

    def worker(points: np.ndarray) -> np.ndarray:
        return Affine(linear).map_points(points + wave(points, grid.centre))

    def world(points: np.ndarray) -> np.ndarray:
        inside = _apply(np.linalg.inv(frame.world), points)
        inside = np.hstack([worker(inside[:, :d]), inside[:, d:] + frame.offset])
        return _apply(frame.world, inside)

    values = wave(voxel_centres(grid), grid.centre).T.reshape(1, d, *grid.shape)
    matrix = grid.physical_to_tensor[:-1, :-1]
    field = DisplacementField(_tensor(np.einsum("tp,bp...->bt...", matrix, values)), grid)
    return Pair(fixedNode, movingNode, world, Transform((field, Affine(linear))), grid, frame)


def accepted(pair: Pair, folder: Path, **outputs: Any) -> tuple[Run, Result]:
    """The result of a run that has found the pair's map, in the scene, by the files that the worker writes."""
    settings = Settings()
    (folder / "in").mkdir()
    files = inputs.written(pair.fixedNode, pair.movingNode, settings, pair.frame, folder / "in")
    sources = {name: Input.read(files[name]) for name in ("fixed", "moving")}
    run = Run.create(pair.fixedNode, pair.movingNode, settings, pair.frame, folder)
    run.keep("basis", pair.frame.into(toWorld(pair.movingNode)).tolist())
    record = {"index": 1, "stage": "1/1", "similarity": 0.9, "mean_update_mm": 1.0, "folding": 0.0, "seconds": 1.0}
    told = {
        "method": "known",
        "preset": "mr",
        "device": "cpu",
        "notes": [],
        "steps": [record],
        "folded_voxels": 0,
        "folding": 0.0,
        "seconds": {"deform": 1.0},
        "peak_memory_bytes": None,
        "jacobian": {"min": 0.5, "mean": 1.0, "max": 1.5},
    }
    registration = Registration(pair.transform, sources["fixed"].volume.grid, sources["moving"].volume, [record], told)
    (folder / "out").mkdir()
    with mock.patch("RecurrentRegistrationLib.report.folder._write_picture"):  # takes a second, and nobody looks
        report = write_results(registration, sources, folder / "out")
    if outputs.get("inverse"):
        pair.transform.inverse().write(folder / "out" / "inverse.h5")
    return run, results.load(run, Written(run, folder / "out", report), Outputs(**outputs))


def display(pair: Pair, grid: Grid, path: Path, part: float = 1.0) -> dict[str, Any]:
    """What the worker tells of a step that has found a part of the way."""
    field = pair.transform.displacement_on(grid)
    np.save(path, vectors(DisplacementField(field.values * part, grid)).astype(np.float32, order="C"))
    return {
        "path": str(path),
        **{name: list(getattr(grid, name)) for name in ("size", "spacing", "origin", "direction")},
    }


def fixedPoints(pair: Pair) -> np.ndarray:
    """The voxels of the fixed image in the world, LPS, apart from the outermost, `[N, 3]`."""
    size = pair.fixedNode.GetImageData().GetDimensions()
    axes = [np.arange(1, n - 1) if n > 1 else np.zeros(1) for n in size]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return _apply(indexToWorld(pair.fixedNode), index)


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array).float()
