"""Image files as SimpleITK images, whole and where their headers put them, or refused in a sentence."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import SimpleITK as sitk

from RecurrentRegistrationLib.errors import InputError, InputWarning
from RecurrentRegistrationLib.io import headers, nifti
from RecurrentRegistrationLib.io.quiet import silenced


def read(file: Path) -> sitk.Image:
    """Read any image that is not DICOM, in millimetres; warns of what had to be chosen.

    Raises:
        InputError: there is no such file, or it cannot be read to its last voxel.
    """
    image, odd = load(file)
    if odd:
        _tell(f"{file} holds {odd} values that are not finite numbers: they are read as 0.")
    return image


def load(file: Path) -> tuple[sitk.Image, int]:
    """The same, and how many values were read as 0 because they are not finite numbers, as ITK does in NIfTI."""
    if not file.is_file():
        raise InputError(f"There is no file {file}.")
    headers.check_name(file)
    try:
        odd = headers.check(file)  # first, as readers take memory for whatever a header says
        with _alone(file) as path, silenced():
            image = sitk.ReadImage(str(path))
    except (RuntimeError, UnicodeDecodeError) as error:
        if "spacing" in str(error).lower():
            raise InputError(f"{file} has a voxel spacing that is not positive: correct its header.") from error
        raise InputError(f"{file} cannot be read as an image: it is damaged or of another format.") from error
    image, notes = headers.place(image, file)
    for note in notes:
        _tell(note)
    return image, odd


def _tell(sentence: str) -> None:
    warnings.warn(sentence, InputWarning, stacklevel=5)


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[Path]:
    """A path to a file where its reader finds no other: it takes the voxels of `a.nii` for those of `a.nii.gz`."""
    if not (headers.is_nifti(file) and nifti.has_twin(file)):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        for part in set(nifti.files(file)):
            place = Path(folder) / part.name
            try:
                place.symlink_to(part.absolute())
            except OSError:  # Windows, without the right to
                shutil.copyfile(part, place)
        yield Path(folder) / file.name
