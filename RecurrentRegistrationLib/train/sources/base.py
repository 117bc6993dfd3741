"""What every source offers, and what several of them need."""

from __future__ import annotations

from pathlib import Path

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.cases import Collection

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


def beside(folder: Path | str | None, name: str, endings: tuple[str, ...]) -> str | None:
    """The file of this name in a folder with any of the endings; None where there is none."""
    if folder is None:
        return None
    files = (Path(folder) / (name + ending) for ending in endings)
    return next((str(file) for file in files if file.exists()), None)
