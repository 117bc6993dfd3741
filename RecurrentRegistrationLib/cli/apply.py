"""`apply`: resample images or label maps through transforms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from RecurrentRegistrationLib.cli.points import Chain
from RecurrentRegistrationLib.errors import InputError

if TYPE_CHECKING:
    from RecurrentRegistrationLib.volume import Volume


def apply(
    image: Annotated[str, typer.Argument(help="Image or label map in the moving image's space, 2D, 3D or 4D.")],
    transforms: Chain,
    reference: Annotated[str, typer.Option("--reference", "-r", help="Image whose voxels the result shall have.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; its ending names the format.")],
    interpolation: Annotated[
        str, typer.Option(help="linear, nearest, label or bspline; nearest or label for labels.")
    ] = "linear",
    background: Annotated[float, typer.Option(help="Value where the image was not scanned.")] = 0.0,
    invert: Annotated[
        bool,
        typer.Option("--invert", help="Bring a fixed image into the moving image's space: all transforms backwards."),
    ] = False,
    slices: Annotated[
        bool, typer.Option("--slices", help="Take the slices of a 3D image as frames over time, as 'series' does.")
    ] = False,
) -> None:
    """Resample an image, every volume of a 4D image, or a label map through transforms onto a reference's voxels.

    Several transforms are applied to the points of the reference in the order given, as by antsApplyTransforms -t, and
    the image is interpolated once. After 'register atlas t1 -o A' and 'register t1 bold -o B', bold comes to the atlas:

    apply bold A/transform.h5 B/transform.h5 -r atlas -o bold_on_atlas.nii.gz

    With --invert, the same transforms in the same order bring the atlas to bold:

    apply atlas A/transform.h5 B/transform.h5 --invert -r bold -o atlas_on_bold.nii.gz
    """
    import SimpleITK as sitk

    from RecurrentRegistrationLib.transform import Transform
    from RecurrentRegistrationLib.volume import Volume, resample, write_image

    frames, start, interval = _read(image, slices)
    grid = Volume.read(reference).grid
    chain = Transform.chained([Transform.read(file) for file in transforms])
    if not frames[0].grid.dimension == grid.dimension == chain.dimension:
        raise InputError(
            f"The image is {frames[0].grid.dimension}D, the reference {grid.dimension}D and the transform "
            f"{chain.dimension}D: they must agree (--slices takes the slices of a 3D image one by one)."
        )
    # On the reference's voxels an inverse is exact.
    pulled = (chain.inverse().displacement_on(grid) if invert else chain).to_sitk()
    warped = [resample(f.to_sitk(), grid, pulled, interpolation=interpolation, background=background) for f in frames]
    write_image(warped[0] if len(warped) == 1 else sitk.JoinSeries(warped, start, interval), output)


def _read(image: str, slices: bool) -> tuple[list[Volume], float, float]:
    """The volumes of an image over time, a single one of any other, with the origin and spacing of time."""
    from RecurrentRegistrationLib.pipeline import series
    from RecurrentRegistrationLib.volume import Volume, split_part

    frames = Volume.read_sequence(image)
    if slices and frames[0].grid.dimension == 3 and len(frames) == 1:
        grid = frames[0].grid
        return series.slices(frames[0]), grid.origin[-1], grid.spacing[-1]
    if slices:
        frames = [each for frame in frames for each in series.slices(frame)]
    return frames, *series.timing(split_part(image)[0])
