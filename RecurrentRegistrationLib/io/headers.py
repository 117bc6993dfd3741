"""What ITK's readers overlook: files that end early, spacings that are not positive, placements in other units."""

from __future__ import annotations

import math
import re
from pathlib import Path

import SimpleITK as sitk

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io import lengths, nifti
from RecurrentRegistrationLib.io.files import suffix_of

TEXT = (".mha", ".mhd", ".nrrd", ".nhdr")
LONGEST = 1 << 20  # bytes of a header in text that are looked at
METRES = {"m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "microns": 1e-3, "nm": 1e-6}
MOST_AXES = 10  # of a MetaImage; ITK reads beyond its memory where there are more, or a negative number
# Fields of a MetaImage whose words are numbers, as many as axes to this power.
NUMBERS = {
    "dimsize": 1,
    "elementspacing": 1,
    "elementsize": 1,
    "offset": 1,
    "position": 1,
    "origin": 1,
    "transformmatrix": 2,
    "rotation": 2,
    "orientation": 2,
}


def check(file: Path) -> int:
    """Refuse an image that ITK reads without a word although it is damaged; how many of its values ITK sets to 0.

    Raises:
        InputError: the file ends before its last voxel, or its header says a spacing that is not positive.
    """
    ending = suffix_of(file)
    if ending in TEXT:
        fields = _fields(file)
        if ending in (".mha", ".mhd"):
            _check_numbers(fields, file)
            _check_list(fields, file)
        words = fields.get("elementspacing" if ending in (".mha", ".mhd") else "spacings", "").split()
        spacing = [float(word) for word in words if _is_number(word)]
        _require_positive([s for s in spacing if not math.isnan(s)], file)  # NRRD's sign for an axis without a spacing
    elif header := nifti.read_header(file) if is_nifti(file) else None:
        _require_positive(list(header.spacing), file)
        return nifti.check(file, header)
    else:
        lengths.check(file, ending)
    return 0


def check_name(file: Path) -> None:
    """Raise InputError where a compressed NIfTI has the name of one that is not, which ITK takes for another format."""
    if suffix_of(file) == ".nii" and file.is_file():
        with file.open("rb") as handle:
            if handle.read(2) == b"\x1f\x8b":
                raise InputError(f"{file} is compressed: give it a name that ends in .nii.gz.")


def place(image: sitk.Image, file: Path) -> tuple[sitk.Image, list[str]]:
    """An image of a file in millimetres, where its header puts it, and sentences about what had to be chosen."""
    if suffix_of(file) in TEXT:
        return image, _scale(image, _fields(file), file)
    header = nifti.read_header(file) if is_nifti(file) else None
    return nifti.place(image, header, file) if header else (image, [])


def is_nifti(file: Path) -> bool:
    """Whether a file is NIfTI or Analyze by its name."""
    return file.name.lower().endswith(nifti.ENDINGS)


def _require_positive(spacing: list[float], file: Path) -> None:
    if not all(s > 0 for s in spacing):
        raise InputError(f"{file} has a voxel spacing that is not positive ({spacing}): correct its header.")


def _fields(file: Path) -> dict[str, str]:
    """The fields of a header in text, names in lower case; keys of one's own (`name:=value`) and comments left out."""
    with file.open("rb") as handle:
        head = handle.read(LONGEST)
    fields: dict[str, str] = {}
    for line in head.split(b"\n"):
        text = line.strip().decode("latin-1")
        if not text and fields:
            break  # NRRD's end
        found = re.match(r"([A-Za-z][\w ]*?) *(=|:(?!=)) *(.*)$", text)
        if found:
            fields.setdefault(found.group(1).lower(), found.group(3))
            if found.group(1) == "ElementDataFile":
                break
    return fields


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _check_numbers(fields: dict[str, str], file: Path) -> None:
    """Raise InputError where a MetaImage has words for numbers; what follows them, a unit for example, may stay."""
    if "ndims" not in fields and "dimsize" not in fields:
        return  # not a MetaImage
    axes = fields.get("ndims", "").split()[:1]
    if not (axes and axes[0].isdigit() and 0 < int(axes[0]) <= MOST_AXES):
        raise InputError(f"{file} has no number of axes in its field NDims: correct its header.")
    for name, power in NUMBERS.items():
        if name in fields:
            words = fields[name].split()[: int(axes[0]) ** power]
            if len(words) < int(axes[0]) ** power or not all(_is_number(word) for word in words):
                raise InputError(
                    f"{file} has no {int(axes[0]) ** power} numbers in its field {name}: correct its header."
                )


def _check_list(fields: dict[str, str], file: Path) -> None:
    """Raise InputError where a MetaImage lists too few files; ITK leaves out a last line without its end."""
    words, axes = fields.get("elementdatafile", "").split(), fields.get("ndims", "")
    if not words or words[0].upper() != "LIST" or not axes.isdigit():
        return
    each = int(words[1].rstrip("Dd")) if len(words) > 1 and words[1].rstrip("Dd").isdigit() else int(axes) - 1
    needed = math.prod(int(float(n)) for n in fields["dimsize"].split()[each:])
    listed = re.split(rb"ElementDataFile[^\n]*\n", file.read_bytes(), maxsplit=1)[-1].count(b"\n")
    if listed < needed:
        raise InputError(
            f"{file} lists {listed} whole lines of {needed} files: complete the list, each line with its end."
        )


def _scale(image: sitk.Image, fields: dict[str, str], file: Path) -> list[str]:
    """Bring an image whose header names units to millimetres; sentences about it."""
    text = fields.get("space units") or fields.get("units") or fields.get("distanceunits", "")
    units = re.findall(r'"([^"]*)"', text) if '"' in text else text.split()
    units = [unit.strip().lower().strip("?") for unit in units][-3:]
    d = image.GetDimension()
    known = [METRES[u] for u in units if u in METRES]
    odd = sorted({u for u in units if u and u not in METRES})
    if odd:
        return [f"{file} gives '{odd[0]}' for the unit of an axis: its numbers are taken for millimetres."]
    if not known or set(known) == {1.0} or len(set(known)) > 1 or d < 2:
        return []
    scale = [known[0] if n < 3 else 1.0 for n in range(d)]
    image.SetSpacing([s * f for s, f in zip(image.GetSpacing(), scale, strict=True)])
    image.SetOrigin([o * f for o, f in zip(image.GetOrigin(), scale, strict=True)])
    return [f"{file} is in {units[0]}: it is read in millimetres."]
