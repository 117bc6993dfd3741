"""ITK's transform files, read whole or refused: ITK takes the first of several, and a cut one for the identity."""

from __future__ import annotations

import struct
from pathlib import Path

import SimpleITK as sitk

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io.quiet import silenced

MAGIC = b"#Insight Transform File"  # of ITK's text format
MATLAB = {0: 8, 1: 4}  # bytes of a number, by the digit of tens in an array's kind


def read(path: Path) -> sitk.Transform:
    """Read an ITK transform (.h5, .tfm, .txt, .mat, .xfm).

    Raises:
        InputError: it is damaged, or holds several transforms beside each other.
        RuntimeError: of SimpleITK, where it is none.
    """
    with silenced() as heard:
        transform = sitk.ReadTransform(str(path))
    if "more than one transform" in heard.text:
        raise InputError(f"{path} holds several transforms beside each other: save each in a file of its own.")
    with path.open("rb") as handle:
        text = handle.read(len(MAGIC)) == MAGIC
    if (text and not _is_whole(path.read_text(encoding="latin-1"))) or (path.suffix == ".mat" and _arrays(path) < 2):
        raise InputError(f"{path} lacks numbers of its transform: it is damaged, copy it again.")
    return transform


def _is_whole(text: str) -> bool:
    """Whether every transform of a text file has its two lines of numbers; a composite one needs none."""
    lines = [line.partition(":") for line in text.splitlines() if not line.startswith("#")]
    names = [name.strip() for name, _, value in lines if "CompositeTransform" not in value]
    return names.count("Transform") == names.count("Parameters") == names.count("FixedParameters")


def _arrays(path: Path) -> int:
    """Whole arrays in a file of MATLAB 4: 20 bytes, a name, and as many numbers as these say."""
    data, at, count = path.read_bytes(), 0, 0
    while at + 20 <= len(data):
        kind, rows, columns, _, name = struct.unpack_from("<5i", data, at)
        length = name + rows * columns * MATLAB.get(kind // 10 % 10, 8)
        if not 0 <= length <= len(data) - at - 20:
            break
        at, count = at + 20 + length, count + 1
    return count
