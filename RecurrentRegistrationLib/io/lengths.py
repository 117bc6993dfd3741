"""Formats whose readers fill what a file lacks with zeros, or with whatever lies in memory: how long they must be."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import SimpleITK as sitk

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io.quiet import silenced

RAW = (".vtk", ".gipl", ".gipl.gz", ".mrc", ".rec", ".bmp", ".isq", ".aim", ".spr", ".pic", ".lsm")
HEADERS = {".gipl": 256, ".mrc": 1024, ".rec": 1024}  # bytes before the first voxel, where they are always as many
VTK_HEADER = rb"\n(COLOR_SCALARS|SCALARS|VECTORS|TENSORS)[^\n]*\n(LOOKUP_TABLE[^\n]*\n)?"
TYPES = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}  # bytes of the kinds of integers in TIFF


def check(file: Path, ending: str) -> None:
    """Refuse a file that ends before its last pixel.

    Raises:
        InputError: it does, or its directory leads out of the file.
    """
    if ending in (".tif", ".tiff", ".lsm"):
        _require(_tiff_is_whole(file), file)
    elif ending in (".jpg", ".jpeg"):
        data = file.read_bytes()
        _require(data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda"), file)  # an end after the last scan's begin
    elif ending in RAW or file.name.lower().endswith(".gipl.gz"):
        _require(_length(file) >= _promised(file), file)


def _require(whole: bool, file: Path) -> None:
    if not whole:
        raise InputError(f"{file} ends before its last voxel: it is damaged, copy it again.")


def _length(file: Path) -> int:
    with file.open("rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
    if not packed:
        return file.stat().st_size
    try:
        with gzip.open(file) as handle:
            return sum(len(block) for block in iter(lambda: handle.read(1 << 20), b""))
    except (OSError, EOFError, zlib.error):
        return 0


def _promised(file: Path) -> int:
    """Bytes of a file as its header says; of one in text, more than it has where numbers are missing."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    with silenced():
        reader.ReadImageInformation()
    count = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    pixel = sitk.Image([1] * reader.GetDimension(), reader.GetPixelID(), reader.GetNumberOfComponents())
    pixels = count * pixel.GetSizeOfPixelComponent()
    ending = file.suffix.lower()
    if ending == ".bmp":
        return _bitmap_length(file)
    if ending == ".vtk":
        data = file.read_bytes()
        if found := re.search(VTK_HEADER, data):
            missing = b"\nASCII" in data[: found.start()] and len(data[found.end() :].split()) < count
            return len(data) + missing if b"\nASCII" in data[: found.start()] else found.end() + pixels
    return pixels + HEADERS.get(".gipl" if ".gipl" in file.name.lower() else ending, 0)


def _bitmap_length(file: Path) -> int:
    """Of a Windows bitmap: rows fill whole words of 4 bytes."""
    with file.open("rb") as handle:
        whole, offset, _, width, height, _, bits, packed = struct.unpack("<2xI4xIIiiHHI", handle.read(34))
    return whole if packed else offset + (abs(width) * bits + 31) // 32 * 4 * abs(height)


def _tiff_is_whole(file: Path) -> bool:
    """Whether all directories, strips and tiles of a TIFF, classic or big, lie inside the file."""
    data = file.read_bytes()
    order = {b"II": "<", b"MM": ">"}.get(data[:2], "<")
    try:
        big = struct.unpack_from(order + "H", data, 2)[0] == 43
        pointer, entry, count = ("Q", 20, "Q") if big else ("I", 12, "H")
        (place,) = struct.unpack_from(order + pointer, data, 8 if big else 4)
        seen = set()
        while place and place not in seen:
            seen.add(place)
            (entries,) = struct.unpack_from(order + count, data, place)
            start = place + struct.calcsize(count)
            tags = {}
            for n in range(entries):
                tag, kind = struct.unpack_from(order + "HH", data, start + entry * n)
                tags[tag] = _numbers(data, order, start + entry * n + 4, kind, pointer)
            for offsets, lengths in ((273, 279), (324, 325)):
                pairs = zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False)
                if any(offset + length > len(data) for offset, length in pairs):
                    return False
            (place,) = struct.unpack_from(order + pointer, data, start + entry * entries)
    except struct.error:
        return False
    return True


def _numbers(data: bytes, order: str, at: int, kind: int, pointer: str) -> tuple[int, ...]:
    """The integers of an entry, () for other kinds."""
    if kind not in TYPES:
        return ()
    width = struct.calcsize(pointer)
    (count,) = struct.unpack_from(order + pointer, data, at)
    where = at + width
    if count * TYPES[kind] > width:
        (where,) = struct.unpack_from(order + pointer, data, where)
    letter = {1: "B", 2: "H", 4: "I", 8: "Q"}[TYPES[kind]]
    return struct.unpack_from(f"{order}{count}{letter}", data, where)
