"""What ITK's readers overlook: a NIfTI file that ends early, and a spacing that is not positive."""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io.files import suffix_of

_TEXT_SPACING = re.compile(rb"^(?:ElementSpacing *=|spacings:)(.*)$", re.MULTILINE)


def check(file: Path) -> None:
    """Refuse an image that ITK reads without a word although it is damaged.

    Raises:
        InputError: the file ends before its last voxel, or its header says a spacing that is not positive.
    """
    ending = suffix_of(file)
    if ending in (".nii", ".nii.gz"):
        header, length = _read_nifti(file, compressed=ending == ".nii.gz")
        if header is not None:
            _require_positive(header.spacing, file)
            if length < header.length:
                raise InputError(f"{file} ends before its last voxel: it is damaged, copy it again.")
    elif ending in (".mha", ".mhd", ".nrrd", ".nhdr"):
        with file.open("rb") as handle:
            found = _TEXT_SPACING.search(handle.read(4096))
        spacing = [float(word) for word in found.group(1).split()] if found else []
        _require_positive([s for s in spacing if not math.isnan(s)], file)  # NRRD's sign for an axis without a spacing


def _require_positive(spacing: list[float], file: Path) -> None:
    if not all(s > 0 for s in spacing):
        raise InputError(f"{file} has a voxel spacing that is not positive ({spacing}): mend its header.")


@dataclass(frozen=True)
class _Nifti:
    spacing: list[float]
    length: int  # bytes that the header promises


def _read_nifti(file: Path, *, compressed: bool) -> tuple[_Nifti | None, int]:
    """Header of a NIfTI file, None if it is another kind, and the number of bytes that the file holds, unpacked."""
    try:
        with gzip.open(file) if compressed else file.open("rb") as handle:
            header = _parse_nifti(handle.read(348))
            return header, handle.seek(0, io.SEEK_END)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file} cannot be unpacked to its end: it is damaged, copy it again.") from error


def _parse_nifti(head: bytes) -> _Nifti | None:
    for order in "<>":
        if len(head) >= 348 and struct.unpack_from(order + "i", head)[0] == 348:
            size, spacing = struct.unpack_from(order + "8h", head, 40), struct.unpack_from(order + "8f", head, 76)
            (bits,), (offset,) = struct.unpack_from(order + "h", head, 72), struct.unpack_from(order + "f", head, 108)
            length = int(offset) + math.prod(size[1 : size[0] + 1]) * bits // 8
            return _Nifti(list(spacing[1 : min(size[0], 3) + 1]), length)
    return None
