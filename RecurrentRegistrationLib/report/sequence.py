"""`.seq.nrrd`: displacement fields over the steps, as 3D Slicer's sequence reader takes them."""

from __future__ import annotations

import gzip
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from RecurrentRegistrationLib.io.files import complete
from RecurrentRegistrationLib.transform import DisplacementField
from RecurrentRegistrationLib.volume import Grid


def coarsened(grid: Grid, longest: int) -> Grid:
    """A grid with the same first and last voxels along every axis, of at most about `longest` voxels each.

    Its nodes reach the corners of the image, because Slicer repeats a field's edge outside of it.
    """
    pitch = max(grid.extent) / longest
    spans = [(n - 1) * s for n, s in zip(grid.size, grid.spacing, strict=True)]
    size = [min(n, math.ceil(span / pitch - 1e-6) + 1) for n, span in zip(grid.size, spans, strict=True)]
    spacing = [span / (m - 1) if m > 1 else s for span, m, s in zip(spans, size, grid.spacing, strict=True)]
    return Grid(tuple(size), tuple(spacing), grid.origin, grid.direction)


def vectors(field: DisplacementField) -> np.ndarray:
    """A field as float32 `[k, j, i, 3]` in LPS millimetres; a 2D field is one slice that stays in its plane."""
    array = field.millimetres()[0].movedim(0, -1).float().numpy()
    return array if field.dimension == 3 else np.pad(array, ((0, 0), (0, 0), (0, 1)))[np.newaxis]


def write_sequence(grid: Grid, fields: Iterable[DisplacementField], steps: Sequence[int], path: str | Path) -> None:
    """Write fields on one grid, one at a time, under the numbers of their steps.

    Before them comes the zero field that Slicer asks for, as step 0. Each frame pulls: it goes from fixed to moving
    points ("resampling", Slicer's transform from parent).
    """
    flat = grid.dimension == 2
    axes = np.eye(3)
    axes[: grid.dimension, : grid.dimension] = grid.cosines * np.array(grid.spacing)
    sizes = " ".join(map(str, (3, *grid.size, *([1] if flat else []), len(steps) + 1)))
    directions = " ".join(f"({','.join(map(repr, column))})" for column in axes.T.tolist())
    origin = ",".join(repr(float(x)) for x in (*grid.origin, *([0.0] if flat else [])))
    header = [
        "NRRD0005",
        "type: float",
        "dimension: 5",
        "space: left-posterior-superior",
        f"sizes: {sizes}",
        f"space directions: none {directions} none",
        "kinds: vector domain domain domain list",
        'labels: "" "" "" "" "step"',
        "endian: little",
        "encoding: gzip",
        f"space origin: ({origin})",
        "measurement frame: (1,0,0) (0,1,0) (0,0,1)",
        "axis 3 index type:=numeric",
        f"axis 3 index values:={' '.join(map(str, (0, *steps)))}",
        "displacement field type:=resampling",
        "intent_code:=1006",
    ]
    with complete(path) as temporary, temporary.open("wb") as file:
        file.write(("\n".join(header) + "\n\n").encode("ascii"))
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as packed:
            for field in itertools.chain([DisplacementField.zero(grid)], fields):
                packed.write(vectors(field).astype("<f4").tobytes())
