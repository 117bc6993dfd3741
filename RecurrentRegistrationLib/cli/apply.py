"""`apply`: resample an image or a label map through a transform."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from RecurrentRegistrationLib.errors import InputError


def apply(
    image: Annotated[str, typer.Argument(help="Image or label map in the moving image's space.")],
    transform: Annotated[Path, typer.Argument(help="From fixed to moving points: .h5, .tfm or a displacement image.")],
    reference: Annotated[str, typer.Option("--reference", "-r", help="Image whose voxels the result shall have.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; its ending names the format.")],
    interpolation: Annotated[
        str, typer.Option(help="linear, nearest, label or bspline; nearest or label for labels.")
    ] = "linear",
    background: Annotated[float, typer.Option(help="Value where the image was not scanned.")] = 0.0,
    invert: Annotated[
        bool, typer.Option("--invert", help="Bring a fixed image into the moving image's space.")
    ] = False,
) -> None:
    """Resample an image or a label map through a transform onto the voxels of a reference image."""
    from RecurrentRegistrationLib.transform import Transform
    from RecurrentRegistrationLib.volume import Volume, resample, write_image

    volume, grid, chain = Volume.read(image), Volume.read(reference).grid, Transform.read(transform)
    if not volume.grid.dimension == grid.dimension == chain.dimension:
        raise InputError(
            f"The image is {volume.grid.dimension}D, the reference {grid.dimension}D and the transform "
            f"{chain.dimension}D: they must agree."
        )
    # On the reference's voxels an inverse is exact.
    pulled = (chain.inverse().displacement_on(grid) if invert else chain).to_sitk()
    write_image(resample(volume.to_sitk(), grid, pulled, interpolation=interpolation, background=background), output)
