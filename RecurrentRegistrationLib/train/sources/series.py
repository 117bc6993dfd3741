"""Series in time: the frames of a slice are registered to one of them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import numpy as np

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.cases import Case, Collection
from RecurrentRegistrationLib.train.sources.base import Source, images_in, stem
from RecurrentRegistrationLib.volume import Grid, Volume

Reference = Literal["mean", "last", "first"]


class Series(Source):
    """2D+t series, one file each: 3D images whose third axis is time, or 4D ones whose slices are series.

    Args:
        root: folder of the files.
        pattern: of their names.
        reference: the frame that the others are registered to: the one nearest to the "mean" of all (the mean phase of
            a breathing cycle; R2N2), the "last" (RIIR's template) or the "first".
    """

    def __init__(self, root: Path, pattern: str = "*", reference: Reference = "mean") -> None:
        self.root, self.pattern, self.reference = root, pattern, reference

    def collect(self) -> Collection:
        """One case for each frame of each slice; a file is a subject, a slice a group."""
        return Collection(tuple(c for path in images_in(Path(self.root), self.pattern) for c in self._cases(path)))

    def _cases(self, path: Path) -> list[Case]:
        cases = []
        frames, _ = read_series(str(path))
        for place in range(frames.shape[1]):
            chosen = reference_frame(frames[:, place], self.reference)
            cases += [
                Case(
                    name=f"{stem(path)}/{place}/{time}",
                    subject=stem(path),
                    image=frame_name(path, place, time),
                    group=f"{stem(path)}/{place}",
                    reference=time == chosen,
                )
                for time in range(len(frames))
            ]
        return cases


def reference_frame(frames: np.ndarray, reference: Reference) -> int:
    """Which of the frames `[T, *S]` the others are registered to."""
    if reference == "mean":
        error = np.square(frames - frames.mean(axis=0)).reshape(len(frames), -1).mean(axis=1)
        return int(error.argmin())
    return 0 if reference == "first" else len(frames) - 1


def frame_name(path: Path, place: int, time: int) -> str:
    """A frame's name, for `read_frame`."""
    return f"{path}?{place}/{time}"


def is_frame(name: str) -> bool:
    """Whether `frame_name` made it."""
    return "?" in name


def file_of(name: str) -> str:
    """The file of a frame; any other name as it is."""
    return name.rpartition("?")[0] if is_frame(name) else name


def read_frame(name: str) -> Volume:
    """The 2D image of a frame."""
    path, _, position = name.rpartition("?")
    place, time = map(int, position.split("/"))
    frames, grid = read_series(path)
    return Volume(np.ascontiguousarray(frames[time, place])[np.newaxis], grid)


@functools.lru_cache(maxsize=4)
def read_series(path: str) -> tuple[np.ndarray, Grid]:
    """Frames `[T, slices, *S]` and the 2D grid of a frame."""
    volumes = Volume.read_sequence(path)
    grid = volumes[0].grid
    if grid.dimension != 3:
        raise InputError(f"{path} is not a series: 3 or 4 dimensions are needed.")
    flat = Grid(grid.size[:2], grid.spacing[:2], (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    if len(volumes) > 1:
        return np.stack([v.array[0] for v in volumes]), flat
    return volumes[0].array[0][:, np.newaxis], flat
