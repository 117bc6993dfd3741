"""What every source offers, and what several of them need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.cases import Case, Collection

IMAGES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".dcm")


class Source:
    """A data set on a disk. Subclasses give `collect`."""

    def collect(self) -> Collection:
        """Its cases, without reading any image. Raises InputError where there are none."""
        raise NotImplementedError


def stem(path: Path) -> str:
    """A file's name without the ending of an image."""
    ending = next((e for e in IMAGES if path.name.endswith(e)), path.suffix)
    return path.name.removesuffix(ending)


def images_in(folder: Path, pattern: str = "*") -> list[Path]:
    """The images of a folder whose names match, sorted. Raises InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}: get the data (training/README.md) or name another folder.")
    found = sorted(p for p in folder.glob(pattern) if p.name.endswith(IMAGES))
    if not found:
        raise InputError(f"No image in {folder} matches '{pattern}'.")
    return found


def annotated(cases: Sequence[Case], wanted: Mapping[str, object]) -> Sequence[Case]:
    """The cases. Raises InputError where an annotation that is asked for is nowhere, or two images share a name.

    Args:
        cases: of a source.
        wanted: where each kind of annotation is looked for, by its name in a `Case`; None for not at all.
    """
    for kind, place in wanted.items():
        if place is not None and not any(getattr(case, kind) for case in cases):
            raise InputError(f"No image has {kind} in '{place}': their files are named as the images are.")
    names = Counter(case.name for case in cases)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise InputError(f"Several images are named {twice}: rename them, or choose by a pattern.")
    return cases


def beside(folder: Path | str | None, name: str, endings: tuple[str, ...]) -> str | None:
    """The file of this name in a folder with any of the endings; None where there is none."""
    if folder is None:
        return None
    files = (Path(folder) / (name + ending) for ending in endings)
    return next((str(file) for file in files if file.exists()), None)
