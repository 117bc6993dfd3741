"""NIfTI-1, NIfTI-2 and Analyze headers: how long the data must be, and where the image lies.

ITK takes the closest rotation for an sform that is sheared and does not say which of two placements it used.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from RecurrentRegistrationLib.errors import InputError

ENDINGS = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz", ".nia")
UNITS = {1: ("metres", 1000.0), 2: ("millimetres", 1.0), 3: ("microns", 1e-3)}
APART = 0.1  # millimetres between sform and qform that are worth a word


@dataclass(frozen=True)
class Header:
    """What a header says: matrices from index to RAS in the units of the file, None without a code; bits of a voxel."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    offset: int
    bits: int
    units: int
    sform: np.ndarray | None
    qform: np.ndarray | None
    real: np.dtype | None  # of voxels that may hold NaN
    second: bool = False  # NIfTI-2

    @property
    def length(self) -> int:
        """Bytes from the beginning of the file with the data to its last voxel."""
        return self.offset + math.prod(self.size) * self.bits // 8


def files(file: Path) -> tuple[Path, Path]:
    """Header and data of a NIfTI or Analyze image, the same for a single file."""
    name = file.name
    for ending, other in ((".hdr", ".img"), (".img", ".hdr")):
        for packed in ("", ".gz"):
            if name.lower().endswith(ending + packed):
                stem = name[: -len(ending + packed)]
                partner = next((p for x in ("", ".gz") if (p := file.with_name(stem + other + x)).exists()), file)
                return (file, partner) if ending == ".hdr" else (partner, file)
    return file, file


def read_header(file: Path) -> Header | None:
    """The header of an image; None where it is of another format."""
    start = b"".join(_unpacked(files(file)[0], 540))[:540]
    for order in "<>":
        if len(start) >= 348 and struct.unpack_from(order + "i", start)[0] == 348:
            return _first(start, order)
        if len(start) >= 540 and struct.unpack_from(order + "i", start)[0] == 540:
            return _second(start, order)
    return None


def has_twin(file: Path) -> bool:
    """Whether the same name stands beside a file with and without compression."""
    twins = [
        part.with_name(n.removesuffix(".gz") if (n := part.name).endswith(".gz") else n + ".gz") for part in files(file)
    ]
    return any(twin.exists() for twin in twins)


def check(file: Path, header: Header) -> int:
    """How many values are not finite, which ITK reads as 0. Raises InputError where the data end before the last voxel.

    What follows the last voxel does not matter.
    """
    if header.second:
        raise InputError(f"{file} is NIfTI-2, which ITK does not read: save it as NIfTI-1 or .nrrd.")
    data, length, odd, rest = files(file)[1], 0, 0, b""
    for block in _unpacked(data, header.length):
        start = max(0, header.offset - length)
        length += len(block)
        if header.real:
            rest += block[start : len(block) - max(0, length - header.length)]
            whole = len(rest) - len(rest) % header.real.itemsize
            odd += int(np.count_nonzero(~np.isfinite(np.frombuffer(rest[:whole], header.real))))
            rest = rest[whole:]
    if length < header.length:
        raise InputError(f"{data} ends before its last voxel: it is damaged, copy it again.")
    return odd


def place(image: sitk.Image, header: Header, file: Path) -> tuple[sitk.Image, list[str]]:
    """The image where its header puts it, in millimetres, and sentences about what was chosen."""
    notes = []
    name, scale = UNITS.get(header.units, ("", 1.0))
    if header.units not in UNITS:
        notes.append(f"{file} says no unit of length: millimetres are assumed.")
    elif scale != 1:
        notes.append(f"{file} is in {name}: it is read in millimetres.")
    d = min(image.GetDimension(), 3)
    forms = {n: _scaled(m, scale) for n, m in (("sform", header.sform), ("qform", header.qform)) if m is not None}
    if d == 3 and not forms:
        notes.append(f"{file} does not say where it lies: its axes are taken for left, posterior and superior.")
    if d < 3 or not forms:
        if scale != 1:
            image.SetSpacing([s * (scale if n < 3 else 1) for n, s in enumerate(_header_spacing(image, header))])
        return image, notes
    corners = _corners(image.GetSize()[:3])
    itk = _matrix(image) @ corners
    away = {n: float(np.abs(m @ corners - itk).max()) for n, m in forms.items()}
    used = "sform" if "sform" in forms and _sheared(forms["sform"]) else min(away, key=lambda n: away[n])
    if away[used] > 1e-3:
        used = "sform" if "sform" in forms else "qform"
        _put(image, forms[used], file)
    if len(forms) == 2:
        apart = float(np.linalg.norm(((forms["sform"] - forms["qform"]) @ corners)[:3], axis=0).max())
        if apart > APART:
            notes.append(f"{file} has an sform and a qform that differ by up to {apart:.3g} mm: the {used} is used.")
    return image, notes


def _header_spacing(image: sitk.Image, header: Header) -> list[float]:
    return [*header.spacing[: image.GetDimension()], *image.GetSpacing()[len(header.spacing) :]]


def _scaled(matrix: np.ndarray, scale: float) -> np.ndarray:
    return np.diag([-scale, -scale, scale, 1.0]) @ matrix  # RAS to LPS, in millimetres


def _corners(size: tuple[int, ...]) -> np.ndarray:
    ends = np.meshgrid(*[(0, n - 1) for n in size], indexing="ij")
    return np.stack([*[e.ravel() for e in ends], np.ones(8)]).astype(float)


def _matrix(image: sitk.Image) -> np.ndarray:
    d = image.GetDimension()
    matrix = np.eye(4)
    matrix[:3, :3] = (np.reshape(image.GetDirection(), (d, d)) * image.GetSpacing())[:3, :3]
    matrix[:3, 3] = image.GetOrigin()[:3]
    return matrix


def _sheared(matrix: np.ndarray) -> bool:
    columns = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0).clip(1e-12)
    return bool(np.abs(columns.T @ columns - np.eye(3)).max() > 1e-3)


def _put(image: sitk.Image, matrix: np.ndarray, file: Path) -> None:
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.isfinite(matrix).all() or spacing.min() <= 0:
        raise InputError(f"{file} has a position matrix that is singular: correct the header.")
    d = image.GetDimension()
    direction = np.eye(d)
    direction[:3, :3] = matrix[:3, :3] / spacing
    if abs(np.linalg.det(direction)) < 1e-3:
        raise InputError(f"{file} has a position matrix that is singular: correct the header.")
    image.SetSpacing([*spacing.tolist(), *image.GetSpacing()[3:]])
    image.SetOrigin([*matrix[:3, 3].tolist(), *image.GetOrigin()[3:]])
    image.SetDirection(direction.ravel().tolist())


def _first(start: bytes, order: str) -> Header:
    dim, spacing = struct.unpack_from(order + "8h", start, 40), struct.unpack_from(order + "8f", start, 76)
    (bits,), (offset,) = struct.unpack_from(order + "h", start, 72), struct.unpack_from(order + "f", start, 108)
    magic = start[344:347]
    nifti = magic in (b"n+1", b"ni1")
    qform, sform = struct.unpack_from(order + "2h", start, 252) if nifti else (0, 0)
    b, c, d, *shift = struct.unpack_from(order + "6f", start, 256)
    rows = np.array(struct.unpack_from(order + "12f", start, 280)).reshape(3, 4)
    return Header(
        size=dim[1 : dim[0] + 1],
        spacing=spacing[1 : min(dim[0], 3) + 1],
        offset=int(offset) if math.isfinite(offset) and offset > 0 else 0,
        bits=bits,
        units=start[123] & 7 if nifti else 2,
        sform=np.vstack([rows, [0, 0, 0, 1]]) if sform > 0 else None,
        qform=_quaternion(b, c, d, shift, spacing) if qform > 0 else None,
        real=_real(start, order, 70),
    )


def _second(start: bytes, order: str) -> Header:
    dim, spacing = struct.unpack_from(order + "8q", start, 16), struct.unpack_from(order + "8d", start, 104)
    (bits,), (offset,) = struct.unpack_from(order + "h", start, 14), struct.unpack_from(order + "q", start, 168)
    qform, sform = struct.unpack_from(order + "2i", start, 344)
    b, c, d, *shift = struct.unpack_from(order + "6d", start, 352)
    rows = np.array(struct.unpack_from(order + "12d", start, 400)).reshape(3, 4)
    (units,) = struct.unpack_from(order + "i", start, 500)
    return Header(
        size=dim[1 : dim[0] + 1],
        spacing=spacing[1 : min(dim[0], 3) + 1],
        offset=max(offset, 0),
        bits=bits,
        units=units & 7,
        sform=np.vstack([rows, [0, 0, 0, 1]]) if sform > 0 else None,
        qform=_quaternion(b, c, d, shift, spacing) if qform > 0 else None,
        real=_real(start, order, 12),
        second=True,
    )


def _real(start: bytes, order: str, at: int) -> np.dtype | None:
    kinds = {16: "f4", 64: "f8"}
    (code,) = struct.unpack_from(order + "h", start, at)
    return np.dtype(order + kinds[code]) if code in kinds else None


def _quaternion(b: float, c: float, d: float, shift: list[float], spacing: tuple[float, ...]) -> np.ndarray:
    """Method 2 of the NIfTI-1 standard."""
    a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * [spacing[1], spacing[2], spacing[3] * (-1.0 if spacing[0] < 0 else 1.0)]
    matrix[:3, 3] = shift
    return matrix


def _unpacked(file: Path, needed: int) -> Iterator[bytes]:
    """The first bytes of a file, compressed or not whatever its name, until there are as many as needed.

    A stream that ends there is read to its checksum.
    """
    try:
        with file.open("rb") as handle:
            packed = handle.read(2) == b"\x1f\x8b"
            handle.seek(0)
            yield from _inflated(handle, needed) if packed else _plain(handle, needed)
    except (OSError, zlib.error) as error:
        raise InputError(f"{file} cannot be unpacked to its end: it is damaged, copy it again.") from error


def _plain(handle: BinaryIO, needed: int) -> Iterator[bytes]:
    while needed > 0 and (block := handle.read(1 << 20)):
        needed -= len(block)
        yield block


def _inflated(handle: BinaryIO, needed: int) -> Iterator[bytes]:
    unpacker, block = zlib.decompressobj(31), handle.read(1 << 16)
    while block:
        found = unpacker.decompress(block)
        needed -= len(found)
        yield found
        if unpacker.eof:
            if needed <= 0 or unpacker.unused_data[:2] != b"\x1f\x8b":
                return
            unpacker, block = zlib.decompressobj(31), unpacker.unused_data
        else:
            block = handle.read(1 << 16)
            if not block and needed > -8:  # the stream was to end about here, with its checksum
                raise zlib.error("ends early")
