"""What every peer's adapter shares: the task it is given and the one form in which it answers.

The answer is a displacement image on the fixed grid in LPS millimetres, u(x) = moving point − fixed point x: the
direction in which ITK resamples, warped(x) = moving(x + u(x)).
"""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import SimpleITK as sitk

AIR, METAL = -1024.0, 3071.0  # Hounsfield units; scanners pad with values far below air
NOT_FOR_THIS_PAIR = 77  # exit status, the one by which automake's tests say that they were skipped


@dataclass(frozen=True)
class Task:
    """One registration: files in, and what a user would know about the pair.

    modality: `mr`, `ct` (both images) or `multi` (different contrasts).
    initial: `header` (trust it), `geometry` (image centres) or `moments` (centres of mass).
    """

    fixed_path: Path
    moving_path: Path
    fixed_mask_path: Path | None
    moving_mask_path: Path | None
    modality: str
    initial: str
    threads: int
    folder: Path
    options: dict[str, str]

    def image(self, path: Path) -> sitk.Image:
        """Read an image as float32, CT within the range of Hounsfield units."""
        image = sitk.ReadImage(str(path), sitk.sitkFloat32)
        return sitk.Clamp(image, sitk.sitkFloat32, AIR, METAL) if self.modality == "ct" else image

    @property
    def fixed(self) -> sitk.Image:
        return self.image(self.fixed_path)

    @property
    def moving(self) -> sitk.Image:
        return self.image(self.moving_path)

    @property
    def fixed_mask(self) -> sitk.Image | None:
        return read_mask(self.fixed_mask_path, self.fixed_path)

    @property
    def moving_mask(self) -> sitk.Image | None:
        return read_mask(self.moving_mask_path, self.moving_path)


def read_mask(path: Path | None, image_path: Path) -> sitk.Image | None:
    """Read a mask (any non-zero) on the grid of its image."""
    if path is None:
        return None
    mask = sitk.Cast(sitk.ReadImage(str(path)) != 0, sitk.sitkUInt8)
    image = sitk.ReadImage(str(image_path))
    return sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)


def displacement_of(transform: sitk.Transform, grid: sitk.Image) -> sitk.Image:
    """Sample a transform's displacement on a grid, LPS mm."""
    return sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        grid.GetSize(),
        grid.GetOrigin(),
        grid.GetSpacing(),
        grid.GetDirection(),
    )


def compose(outer: sitk.Transform, displacement: sitk.Image, grid: sitk.Image) -> sitk.Image:
    """Displacement of x ↦ outer(x + u(x)) on a grid, LPS mm."""
    inner = sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64))
    return displacement_of(sitk.CompositeTransform([outer, inner]), grid)


def onto(displacement: sitk.Image, grid: sitk.Image) -> sitk.Image:
    """Sample a displacement image on another grid, held constant beyond its border."""
    return sitk.Resample(displacement, grid, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkVectorFloat64, True)


def in_physical_axes(voxels: np.ndarray, grid: sitk.Image) -> sitk.Image:
    """Turn a displacement in voxels, array (z, y, x, component xyz), into an LPS mm image on the grid."""
    dimension = grid.GetDimension()
    direction = np.array(grid.GetDirection()).reshape(dimension, dimension)
    image = sitk.GetImageFromArray(voxels @ (direction * grid.GetSpacing()).T, isVector=True)
    image.CopyInformation(grid)
    return image


def decline(reason: str) -> NoReturn:
    """End because the method is not made for the pair, which is not a failure."""
    print(reason)
    raise SystemExit(NOT_FOR_THIS_PAIR)


def main(register: Callable[[Task], sitk.Image]) -> None:
    """Run an adapter as a command: arguments to `Task`, `register`, then OUTPUT/displacement.nrrd."""
    parser = argparse.ArgumentParser(description=register.__doc__)
    parser.add_argument("fixed", type=Path)
    parser.add_argument("moving", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for displacement.nrrd")
    parser.add_argument("--fixed-mask", type=Path)
    parser.add_argument("--moving-mask", type=Path)
    parser.add_argument("--modality", choices=["mr", "ct", "multi"], default="mr")
    parser.add_argument("--initial", choices=["header", "geometry", "moments"], default="geometry")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        task = Task(
            arguments.fixed.absolute(),
            arguments.moving.absolute(),
            arguments.fixed_mask and arguments.fixed_mask.absolute(),
            arguments.moving_mask and arguments.moving_mask.absolute(),
            arguments.modality,
            arguments.initial,
            int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
            Path(scratch),
            dict(option.split("=", 1) for option in arguments.option),
        )
        with contextlib.chdir(scratch):  # elastix leaves files where it runs
            displacement = sitk.Cast(register(task), sitk.sitkVectorFloat32)
    arguments.output.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(displacement, str(arguments.output / "displacement.nrrd"))
