"""`points`: map landmarks through a transform."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Chain = Annotated[
    list[Path],
    typer.Argument(
        metavar="TRANSFORM",
        help="From fixed to moving points: .h5, .tfm or a displacement image. Of several, the first is applied first.",
    ),
]


def points(
    landmarks: Annotated[
        Path, typer.Argument(metavar="POINTS", help="Landmarks: .fcsv, .mrk.json, .csv, elastix .txt or .vtk.")
    ],
    transforms: Chain,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; its ending names the format.")],
    invert: Annotated[bool, typer.Option("--invert", help="Map points of the moving image to the fixed one.")] = False,
    reference: Annotated[
        str | None, typer.Option("--reference", "-r", help="Image of the landmarks, where they are voxel indices.")
    ] = None,
) -> None:
    """Map landmarks of the fixed image to the moving image (or back with --invert); written in LPS millimetres.

    Several transforms are applied in the order given; --invert goes back through all of them, the last first.
    """
    from RecurrentRegistrationLib.points import Points, read_points, write_points
    from RecurrentRegistrationLib.transform import Transform
    from RecurrentRegistrationLib.volume import Volume

    chain = Transform.chained([Transform.read(file) for file in transforms])
    grid = None if reference is None else Volume.read(reference).grid
    given = read_points(landmarks, grid).in_dimension(chain.dimension)
    mapped = (chain.inverse() if invert else chain).map_points(given.positions)
    write_points(Points(mapped, given.labels), output)
