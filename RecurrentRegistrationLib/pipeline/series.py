"""A series of images over time, each registered to one frame of it, the template; and what that is worth.

Pairwise, as RIIR does it for quantitative MR and R2N2 for breathing lungs: frame by frame, independent of each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from RecurrentRegistrationLib import evaluation, pipeline
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io import dicom
from RecurrentRegistrationLib.io.quiet import silenced
from RecurrentRegistrationLib.metrics import intensity, principal
from RecurrentRegistrationLib.pipeline.options import Options
from RecurrentRegistrationLib.points import Points
from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Grid, Volume, resample, split_part, write_image


@dataclass(frozen=True)
class Frame:
    """One image of a series, registered.

    Attributes:
        number: in the series, from 0.
        image: as it was, on the template's grid.
        warped: as it is after registration, on the template's grid.
        transform: from the template's points to the frame's.
        report: of its registration; empty for the template.
    """

    number: int
    image: Volume
    warped: Volume
    transform: Transform
    report: dict[str, Any]


def slices(volume: Volume) -> list[Volume]:
    """The slices of a 3D image as frames of a 2D series; axis k is time.

    Raises:
        InputError: the image is not 3D.
    """
    if volume.grid.dimension != 3:
        raise InputError("Only the slices of a 3D image can be taken for frames; this one is 2D.")
    grid = Grid(volume.grid.size[:2], volume.grid.spacing[:2], volume.grid.origin[:2], (1.0, 0.0, 0.0, 1.0))
    return [Volume(volume.array[:, k], grid) for k in range(volume.grid.size[2])]


def timing(path: str | Path) -> tuple[float, float]:
    """Where the last axis of an image file begins and how far its samples are apart, in the units of the file."""
    path = split_part(path)[0]
    if path.is_dir() or dicom.is_dicom(path):
        return 0.0, 1.0  # DICOM does not tell in one way
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with silenced():
        reader.ReadImageInformation()
    return reader.GetOrigin()[-1], reader.GetSpacing()[-1]


def landmark_files(pattern: str, count: int) -> dict[int, Path]:
    """The files of landmarks that exist, by the number of their frame, of a series of `count` frames.

    Args:
        pattern: their path, `{frame}` where the number goes; a format may follow, as in `{frame:02d}`.
        count: of the frames.

    Raises:
        InputError: the pattern does not hold the number, holds more than that, or matches no file.
    """
    try:
        files = [Path(pattern.format(frame=n)) for n in range(count)]
    except (LookupError, ValueError, TypeError, AttributeError):
        files = []
    if len(set(files)) < count:
        raise InputError(
            f"The landmarks' pattern '{pattern}' needs '{{frame}}', and nothing else in braces, where the number of "
            "the frame goes: 'points_{frame:02d}.fcsv'."
        )
    found = {n: file for n, file in enumerate(files) if file.exists()}
    if not found:
        raise InputError(f"No file matches the landmarks' pattern '{pattern}': that of the first frame is {files[0]}.")
    return found


def check_landmarks(landmarks: dict[int, Points], template: int) -> None:
    """Raise InputError where landmarks, by number of their frame, cannot be compared with the template's."""
    if template not in landmarks:
        raise InputError(f"The landmarks of the template, frame {template}, are missing; frames count from 0.")
    if len(landmarks) < 2:
        raise InputError("There are landmarks of the template only: give those of another frame as well.")
    if len({len(points) for points in landmarks.values()}) > 1:
        raise InputError("Every frame needs the same landmarks in the same order.")


def register(
    frames: Sequence[Volume], template: int, options: Options, *, mask: Volume | None = None
) -> Iterator[Frame]:
    """Register every frame to the template, and yield it as soon as it is done.

    Args:
        frames: two or more of one dimension.
        template: the number of the frame that stays.
        options: of each registration.
        mask: above 0 where the template counts; None for everywhere.

    Raises:
        InputError: there are fewer than two frames, the template is none of them, or a frame cannot be registered.
    """
    if len(frames) < 2:
        raise InputError("A series needs two frames or more; for slices of a 3D image as frames, say so.")
    if not 0 <= template < len(frames):
        raise InputError(f"There is no frame {template}; the frames are 0 to {len(frames) - 1}.")
    fixed = frames[template]
    identity = Transform((), fixed.grid.dimension)
    for number, moving in enumerate(frames):
        image = _pulled(moving, fixed.grid, identity)
        if number == template:
            yield Frame(number, fixed, fixed, identity, {})
            continue
        found = pipeline.register(fixed, moving, fixed_mask=mask, options=options)
        yield Frame(number, image, _pulled(moving, fixed.grid, found.transform), found.transform, found.report)


def _pulled(moving: Volume, grid: Grid, transform: Transform) -> Volume:
    background = float(moving.array.min())
    return Volume.from_sitk(resample(moving.to_sitk(), grid, transform.to_sitk(), background=background))


def write(frames: Sequence[Frame], path: str | Path, *, start: float = 0.0, interval: float = 1.0) -> None:
    """Write the registered frames as one image with time, from `start` in steps of `interval`, as its last axis."""
    write_image(sitk.JoinSeries([frame.warped.to_sitk() for frame in frames], start, interval), path)


def evaluate(
    frames: Sequence[Frame], *, landmarks: dict[int, Points] | None = None, share: float = 0.7, components: int = 4
) -> dict[str, Any]:
    """What the registration of a series is worth, before and after; "d_pca1" is None where it says nothing.

    Args:
        frames: all of them, the template included.
        landmarks: of frames, by number, in one order; those of the template among them.
        share: of each axis around the centre where intensities are compared.
        components: of the principal component distances.

    Raises:
        InputError: the landmarks cannot be compared (`check_landmarks`).
    """
    template = next(frame for frame in frames if not frame.report)
    grid = template.image.grid
    mask = principal.central(grid.shape, share)
    report: dict[str, Any] = {"template": template.number, "frames": len(frames)}
    for name in ("before", "after"):
        stack = np.stack([(frame.image if name == "before" else frame.warped).array[0] for frame in frames])
        found = principal.principal_distances(stack, mask, components=components)
        report[name] = {
            "d_pca1": found.first,
            "d_pca2": found.second,
            "correlation": [intensity.correlation(stack[template.number][mask], image[mask]) for image in stack],
        }
    moved = [frame for frame in frames if frame.report]
    deformations = [evaluation.deformation(frame.transform, grid) for frame in moved]
    report["folding_percent"] = [d["folding"]["everywhere"]["percent"] for d in deformations]
    report["log_jacobian_deviation"] = [d["jacobian"]["log_deviation"] for d in deformations]
    report["displacement_mm"] = [d["displacement_mm"]["mean"] for d in deformations]
    if landmarks:
        report["landmarks_mm"] = _landmarks(frames, template.number, landmarks)
    return report


def _landmarks(frames: Sequence[Frame], template: int, landmarks: dict[int, Points]) -> dict[str, Any]:
    """Target registration errors over the series: of each frame, their mean and the worst frame (R2N2)."""
    check_landmarks(landmarks, template)
    fixed = landmarks[template]
    found: dict[str, Any] = {}
    for name in ("before", "after"):
        each = {}
        for frame in frames:
            if frame.number != template and frame.number in landmarks:
                transform = frame.transform if name == "after" else Transform((), frame.transform.dimension)
                each[frame.number] = evaluation.landmark_errors(transform, fixed, landmarks[frame.number])["mean"]
        values = list(each.values())
        found[name] = {"mean": float(np.mean(values)), "max": max(values), "frames": each}
    return found
