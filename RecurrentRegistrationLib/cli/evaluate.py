"""`evaluate`: measure a transform against images, labels and landmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    transform: Annotated[Path, typer.Argument(help="From fixed to moving points: .h5, .tfm or a displacement image.")],
    fixed: Annotated[str, typer.Option(help="Fixed image.")],
    moving: Annotated[str | None, typer.Option(help="Moving image, for the similarity.")] = None,
    fixed_mask: Annotated[str | None, typer.Option(help="Where to look in the fixed image (non-zero).")] = None,
    moving_mask: Annotated[str | None, typer.Option(help="Where to look in the moving image (non-zero).")] = None,
    preset: Annotated[str, typer.Option(help="How the images are compared, as in register.")] = "auto",
    fixed_labels: Annotated[str | None, typer.Option(help="Label map of the fixed image.")] = None,
    moving_labels: Annotated[str | None, typer.Option(help="Label map of the moving image, same numbers.")] = None,
    fixed_points: Annotated[Path | None, typer.Option(help="Landmarks of the fixed image.")] = None,
    moving_points: Annotated[Path | None, typer.Option(help="Their partners in the moving image, same order.")] = None,
) -> None:
    """Print one JSON object with every measure that the inputs allow, before and after."""
    from RecurrentRegistrationLib.evaluation import evaluate
    from RecurrentRegistrationLib.io.documents import to_json
    from RecurrentRegistrationLib.pipeline.comparison import measured
    from RecurrentRegistrationLib.pipeline.images import Images
    from RecurrentRegistrationLib.points import read_points
    from RecurrentRegistrationLib.transform import Transform
    from RecurrentRegistrationLib.volume import Volume

    def read(path: str | None) -> Volume | None:
        return None if path is None else Volume.read(path)

    fixed_image, moving_image = Volume.read(fixed), read(moving)
    moving_grid = None if moving_image is None else moving_image.grid
    found = Transform.read(transform)
    report = evaluate(
        found,
        fixed_image,
        moving_image,
        fixed_mask=read(fixed_mask),
        fixed_labels=read(fixed_labels),
        moving_labels=read(moving_labels),
        fixed_points=None if fixed_points is None else read_points(fixed_points, fixed_image.grid),
        moving_points=None if moving_points is None else read_points(moving_points, moving_grid),
    )
    if moving_image is not None:
        images = Images(fixed_image, moving_image, read(fixed_mask), read(moving_mask))
        report["similarity_of_steps"] = measured(found, images, preset)
    print(to_json(report, indent=2))
