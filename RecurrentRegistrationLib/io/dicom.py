"""DICOM: which frames of which files make up a volume, where they lie, and what is not a single volume.

Every frame says its own position, orientation, pixel spacing and rescale slope (PS3.3 C.7.6.2, C.7.6.16, C.11.1); none
is taken for another's. Slices that are shifted evenly, by a tilted gantry for example, make a sheared grid: the true
step from slice to slice is the third axis, and nothing is interpolated. What has no straight axes is refused.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from RecurrentRegistrationLib.errors import InputError, InputWarning
from RecurrentRegistrationLib.io.quiet import silenced

if TYPE_CHECKING:
    import pydicom

ENDINGS = (".dcm", ".dicom", ".ima")
OFF = 0.1  # millimetres, or a fifth of a slice where that is less, that a slice may lie beside its place
LOOKED_AT = 1000  # files below a folder without images
SAME = 1e-3  # millimetres between positions that are one
DIFFERS = {  # what may tell volumes of one position apart, in the order they are counted
    "TemporalPositionIndex": "time point {}",
    "TemporalPositionIdentifier": "time point {}",
    "EchoTime": "echo time {} ms",
    "EffectiveEchoTime": "echo time {} ms",
    "DiffusionBValue": "b value {}",
    "NominalPercentageOfCardiacPhase": "cardiac phase {} %",
    "TriggerTime": "trigger time {} ms",
    "AcquisitionNumber": "acquisition {}",
    "AcquisitionTime": "acquired at {}",
}


@dataclass(frozen=True)
class Plane:
    """One frame of a DICOM file.

    Attributes:
        file: its file.
        frame: its number there, from 0.
        series: UID of its series.
        size: columns and rows.
        spacing: millimetres along a row and along a column; None where the file does not say.
        position: of its first pixel, LPS millimetres; None where the file does not say.
        axes: directions of a row and of a column, `[2, 3]`; None with the position.
        thickness: millimetres.
        number: of the instance.
        rescale: slope and intercept of this frame alone, where ITK does not apply them, as they change from frame to
            frame or belong to a dose; otherwise None.
        inverted: whether small values are bright in the file, which ITK turns round.
        told: what may tell it from others of the same place (`DIFFERS`).
    """

    file: Path
    frame: int
    series: str
    size: tuple[int, int]
    spacing: tuple[float, float] | None
    position: np.ndarray | None
    axes: np.ndarray | None
    thickness: float
    number: int
    rescale: tuple[float, float] | None = None
    inverted: bool = False
    told: dict[str, float | str] = field(default_factory=dict)

    @property
    def order(self) -> tuple:
        """Sorts planes of one position."""
        values = [self.told.get(name, -math.inf) for name in DIFFERS]
        return *[v if isinstance(v, float) else 0.0 for v in values], self.number, self.frame, self.file.name


def is_dicom(file: Path) -> bool:
    """Whether a file is of the DICOM kind, with or without a preamble, whole or damaged."""
    try:
        with file.open("rb") as handle:
            start = handle.read(132)
    except OSError:
        return False
    if start[128:] == b"DICM" or file.suffix.lower() in ENDINGS:
        return True
    if start[:2] != b"\x08\x00":  # group 8 of a file without preamble, as ACR-NEMA's
        return False
    with silenced():
        return sitk.ImageFileReader.GetImageIOFromFileName(str(file)) == "GDCMImageIO"


def read(path: Path, part: str | None = None) -> sitk.Image:
    """The one volume of a file or a folder; `part` picks of several: "UID" a series, "2" a volume, "UID#2" both.

    Raises:
        InputError: there is none, there are several, or its slices are not a single volume.
    """
    number, found = _found(path, part)
    if len(found) == 1 and number in (None, 0):
        return load(found[0])
    if number is None:
        raise InputError(_several(found, path, part))
    if number >= len(found):
        raise InputError(f"{path} has no volume {number}; its volumes are 0 to {len(found) - 1}.")
    return load(found[number])


def read_all(path: Path, part: str | None = None) -> list[sitk.Image]:
    """Every volume of a file or a folder, in the order of time, echoes or whatever tells them apart."""
    number, found = _found(path, part)
    return [load(volume) for volume in (found if number is None else found[number : number + 1])]


def _found(path: Path, part: str | None) -> tuple[int | None, list[list[Plane]]]:
    words = part.split("#") if part else []
    number = int(words.pop()) if words and words[-1].isdigit() else None
    uid = words[0] if words else None
    planes = _of_folder(path) if path.is_dir() else _of_file(path)
    if path.is_dir():
        if not planes:
            below = next((f for f in itertools.islice(path.glob("*/**/*"), LOOKED_AT) if is_dicom(f)), None)
            remark = f" itself, but its folder {below.parent.relative_to(path)} does: name that one" if below else ""
            raise InputError(f"The folder {path} holds no DICOM series{remark}.")
        planes = _of_series(planes, path, uid)
    elif uid is not None:
        raise InputError(f"{path} is one file, it has no series to pick from: leave out '#{uid}'.")
    if not planes:
        raise InputError(f"{path} is a DICOM file without an image.")
    return number, volumes(planes, f"The DICOM series in {path}" if path.is_dir() else str(path))


def _of_series(planes: list[Plane], folder: Path, uid: str | None) -> list[Plane]:
    series = sorted({plane.series for plane in planes})
    if uid is None and len(series) > 1:
        raise InputError(f"The folder {folder} holds {len(series)} DICOM series: pick one as '{folder}#{series[0]}'.")
    chosen = [s for s in series if uid is None or s == uid] or [s for s in series if uid and uid.startswith(s + ".")]
    if not chosen:
        raise InputError(f"The folder {folder} holds no DICOM series {uid}; it has {', '.join(series)}.")
    return [plane for plane in planes if plane.series == chosen[0]]


def _several(found: list[list[Plane]], path: Path, part: str | None) -> str:
    name = f"{path}#{part}" if part else str(path)
    where = f"at each of {len(found[0])} positions" if len(found[0]) > 1 else "of one position"
    if found[0][0].position is None:
        where = "without a position"
    reason = _difference(found)
    return (
        f"{name} holds {len(found)} images {where}{f' ({reason})' if reason else ''}: pick one by its number, for "
        f"example '{name}#0', or take them all as a series over time with 'series'."
    )


def _difference(found: list[list[Plane]]) -> str:
    """What tells volumes of the same place apart, for two of them."""
    for name, sentence in DIFFERS.items():
        values = [{plane.told.get(name) for plane in volume} for volume in found]
        first = [v for v in values if len(v) == 1 and None not in v]
        if len(first) == len(found) and len(set.union(*values)) == len(found):
            shown = [f"{v:g}" if isinstance(v, float) else str(v) for (v,) in values[:3]]
            return sentence.format(", ".join(shown) + (", …" if len(found) > 3 else ""))
    return ""


# ---- headers


def _of_folder(folder: Path) -> list[Plane]:
    files = sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith(".") and is_dicom(f))
    return [plane for file in files for plane in _of_file(file)]


def _of_file(file: Path) -> list[Plane]:
    """The frames of a file; none where it is not an image, a structured report or a directory for example."""
    import pydicom  # here, as few images are DICOM

    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(file, defer_size=1024, force=True)
            if "MediaStorageSOPClassUID" not in header.get("file_meta", {}) and "SOPClassUID" not in header:
                raise ValueError("not one element that every file has")
            if "Rows" not in header and "Image Storage" not in _kind(header):
                return []
            _require_pixels(header, file)
            return _planes(header, file)
    except InputError:
        raise
    except Exception as error:  # a damaged header can raise anything
        raise InputError(
            f"{file} cannot be read as an image: part of it is missing or damaged, copy it again."
        ) from error


def _kind(header: pydicom.Dataset) -> str:
    """What a file holds, for example "CT Image Storage"."""
    uid = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    return str(uid.name)


def _require_pixels(header: pydicom.Dataset, file: Path) -> None:
    """Raise InputError where a file ends before its last pixel."""
    from pydicom.uid import ImplicitVRLittleEndian

    name = next((n for n in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if n in header), None)
    element: Any = header.get_item(name) if name else None
    if element is None:
        raise InputError(f"{file} holds no pixels: they are missing or damaged, copy it again.")
    if header.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian).is_compressed:
        return
    samples = int(header.get("SamplesPerPixel", 1)) * int(header.get("NumberOfFrames", 1) or 1)
    needed = int(header.Rows) * int(header.Columns) * samples * int(header.BitsAllocated) // 8
    length = element.length if element.value is None else len(element.value)
    tell = int(getattr(element, "value_tell", 0) or 0)
    if "YBR" not in header.get("PhotometricInterpretation", "") and length < needed:
        raise InputError(f"{file} holds fewer pixels than its header says: they are missing or damaged, copy it again.")
    if element.value is None and tell + length > file.stat().st_size:
        raise InputError(f"{file} ends before its last pixel: part of it is missing or damaged, copy it again.")


def _planes(header: pydicom.Dataset, file: Path) -> list[Plane]:
    count = int(header.get("NumberOfFrames", 1) or 1)
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
    dose = float(header.get("DoseGridScaling") or 1.0)
    rescale = [_rescale([frames[n] if n < len(frames) else None, shared], dose) for n in range(count)]
    own = len(set(rescale)) > 1 or dose != 1.0
    planes = []
    for n in range(count):
        groups = [g for g in (frames[n] if n < len(frames) else None, shared) if g is not None]
        position, axes = _place(header, groups, n, count)
        thickness = _value(header, groups, "PixelMeasuresSequence", "SpacingBetweenSlices") or _value(
            header, groups, "PixelMeasuresSequence", "SliceThickness"
        )
        planes.append(
            Plane(
                file=file,
                frame=n,
                series=str(header.get("SeriesInstanceUID", "")),
                size=(int(header.Columns), int(header.Rows)),
                spacing=_pixel_spacing(header, groups),
                position=position,
                axes=axes,
                thickness=abs(float(thickness or 0.0)) or 1.0,
                number=int(header.get("InstanceNumber") or 0),
                rescale=rescale[n] if own else None,
                inverted=header.get("PhotometricInterpretation") == "MONOCHROME1",
                told=_told(header, groups),
            )
        )
    return planes


def _value(header: pydicom.Dataset, groups: Sequence[pydicom.Dataset], sequence: str, name: str) -> Any:
    """An attribute of a frame: of its own functional group, the shared one, or the file as a whole."""
    for group in groups:
        item = (group.get(sequence) or [None])[0]
        if item is not None and item.get(name) is not None:
            return item.get(name)
    return header.get(name)


def _rescale(groups: Sequence[pydicom.Dataset | None], slope: float) -> tuple[float, float]:
    """Slope and intercept of a frame, by the first of its groups that says them; otherwise those of the file."""
    for group in groups:
        item = (group.get("PixelValueTransformationSequence") or [None])[0] if group is not None else None
        if item is not None:
            return float(item.get("RescaleSlope", 1.0)), float(item.get("RescaleIntercept", 0.0))
    return slope, 0.0


def _pixel_spacing(header: pydicom.Dataset, groups: Sequence[pydicom.Dataset]) -> tuple[float, float] | None:
    found = _value(header, groups, "PixelMeasuresSequence", "PixelSpacing") or header.get("ImagerPixelSpacing")
    return (float(found[1]), float(found[0])) if found else None


def _place(
    header: pydicom.Dataset, groups: Sequence[pydicom.Dataset], n: int, count: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Position and directions of frame `n`; None where the file does not say them for every frame."""
    position = _value(header, groups, "PlanePositionSequence", "ImagePositionPatient")
    axes = _value(header, groups, "PlaneOrientationSequence", "ImageOrientationPatient")
    detector = (header.get("DetectorInformationSequence") or [None])[0]
    if position is None and detector is not None:  # nuclear medicine
        position, axes = detector.get("ImagePositionPatient"), axes or detector.get("ImageOrientationPatient")
    if position is None or axes is None:
        return None, None
    place, directions = np.array(position, float), np.array(axes, float).reshape(2, 3)
    along = np.cross(*directions)
    if count > 1 and not any(g.get("PlanePositionSequence") for g in groups):
        offsets = header.get("GridFrameOffsetVector")  # of radiotherapy doses
        step = header.get("SpacingBetweenSlices")
        if offsets is not None and len(offsets) == count:
            place = place + along * (float(offsets[n]) - (float(offsets[0]) if offsets[0] else 0.0))
        elif "RECON TOMO" in header.get("ImageType", []) and step:
            place = place + along * n * float(step)
    return place, directions


def _told(header: pydicom.Dataset, groups: Sequence[pydicom.Dataset]) -> dict[str, float | str]:
    sequences = {
        "TemporalPositionIndex": "FrameContentSequence",
        "EffectiveEchoTime": "MREchoSequence",
        "DiffusionBValue": "MRDiffusionSequence",
        "NominalPercentageOfCardiacPhase": "CardiacSynchronizationSequence",
    }
    told: dict[str, float | str] = {}
    for name in DIFFERS:
        value = _value(header, groups, sequences.get(name, ""), name)
        if value is not None and value != "":
            try:
                told[name] = float(value)
            except (TypeError, ValueError):
                told[name] = str(value)
    return told


# ---- from planes to volumes


def volumes(planes: Sequence[Plane], name: str) -> list[list[Plane]]:
    """The volumes that planes make up, each from its first slice to its last; several where places are repeated.

    Args:
        planes: of one series.
        name: of the series, at the beginning of a sentence.

    Raises:
        InputError: sizes, orientations or pixel spacings differ, some places are repeated and some not, or the slices
            of a volume do not lie on a straight line at even distances.
    """
    if any(plane.position is None for plane in planes):
        _require_one(Counter(p.size for p in planes), name, "sizes", "")
        return [[plane] for plane in sorted(planes, key=lambda p: p.order)]
    _require_one(Counter(_orientation(planes)), name, "orientations", ", as with a localizer")
    _require_one(Counter(p.size for p in planes), name, "sizes", "")
    _require_one(Counter(p.spacing for p in planes), name, "pixel spacings", "")
    if planes[0].spacing is None or min(planes[0].spacing) <= 0:
        raise InputError(f"{name} says no pixel spacing that is positive: correct the header.")
    places = _places(planes)
    counts = [len(place) for place in places]
    if min(counts) < max(counts):
        many = max(places, key=len)
        files = " and ".join(_called(plane) for plane in many[:2])
        raise InputError(
            f"{name} holds {len(planes)} slices at {len(places)} positions: some are repeated, "
            f"for example {files}; keep one slice of each position, or the same number of each."
        )
    found = [_in_order([place[n] for place in places]) for n in range(counts[0])]
    for volume in found:
        _require_straight(volume, name)
    return found


def _called(plane: Plane) -> str:
    return f"{plane.file.name}, frame {plane.frame}" if plane.frame else plane.file.name


def _require_one(counts: Counter, name: str, what: str, remark: str) -> None:
    if len(counts) > 1:
        shown = " and ".join(str(n) for _, n in counts.most_common(4))
        raise InputError(
            f"{name} holds slices of {len(counts)} {what} ({shown} slices){remark}: move those that do not belong to "
            "the volume out of it."
        )


def _orientation(planes: Sequence[Plane]) -> list[int]:
    """A number for each plane, the same for those whose corners differ by less than `OFF` for their directions."""
    known: list[np.ndarray] = []
    numbers = []
    reach = max(max(p.size) * max(p.spacing or (1.0, 1.0)) for p in planes)
    for plane in planes:
        axes = plane.axes
        assert axes is not None
        lengths = np.linalg.norm(axes, axis=1)
        if not np.allclose(lengths, 1, atol=0.01) or abs(axes[0] @ axes[1]) > 0.01:
            raise InputError(f"{plane.file} has rows and columns that are not at right angles: correct the header.")
        match = next((n for n, k in enumerate(known) if np.abs(k - axes).max() * reach < 2 * OFF), None)
        if match is None:
            known.append(axes)
            match = len(known) - 1
        numbers.append(match)
    return numbers


def _normal(plane: Plane) -> np.ndarray:
    assert plane.axes is not None
    return np.cross(*plane.axes)


def _places(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Planes by place, from the lowest along the normal to the highest, each place's in order."""
    normal = _normal(planes[0])
    heights = {id(p): float(normal @ p.position) for p in planes}  # type: ignore[operator]
    places: list[list[Plane]] = []
    for plane in sorted(planes, key=lambda p: heights[id(p)]):
        if places and heights[id(plane)] - heights[id(places[-1][0])] < SAME:
            places[-1].append(plane)
        else:
            places.append([plane])
    return [sorted(place, key=lambda p: p.order) for place in places]


def _in_order(volume: list[Plane]) -> list[Plane]:
    """Slices along the normal; those of one file as the file has them where that is against it."""
    backwards = all(a.file == b.file and a.frame > b.frame for a, b in itertools.pairwise(volume))
    return volume[::-1] if backwards and len(volume) > 1 else volume


def _line(volume: Sequence[Plane]) -> tuple[np.ndarray, np.ndarray, float]:
    """First position, step and the largest distance of a slice from the line through all, millimetres."""
    positions = np.array([plane.position for plane in volume], float)
    if len(volume) == 1:
        return positions[0], _normal(volume[0]) * volume[0].thickness, 0.0
    count = np.arange(len(volume))
    design = np.stack([np.ones_like(count), count], axis=1).astype(float)
    (first, step), *_ = np.linalg.lstsq(design, positions, rcond=None)
    return first, step, float(np.linalg.norm(positions - first - count[:, None] * step, axis=1).max())


def _require_straight(volume: Sequence[Plane], name: str) -> None:
    _, step, off = _line(volume)
    if not np.isfinite(step).all():
        raise InputError(f"{name} has a position that is not a number: correct the header.")
    if off <= min(OFF, 0.2 * float(np.linalg.norm(step))):
        return
    gaps = np.abs(np.diff([_normal(volume[0]) @ plane.position for plane in volume]))  # type: ignore[operator]
    if gaps.max() > 1.1 * gaps.min():
        raise InputError(
            f"{name} has slices that lie {gaps.min():g} to {gaps.max():g} mm apart: some are missing or damaged."
        )
    raise InputError(
        f"{name} has slices that are shifted unevenly against each other, by up to {off:.2g} mm: they are not a volume "
        "with straight axes; resample them onto even positions first."
    )


# ---- pixels


def load(volume: Sequence[Plane]) -> sitk.Image:
    """The slices of a volume as a 3D image, its values rescaled slice by slice.

    Raises:
        InputError: a file cannot be decoded.
    """
    if any(plane.inverted and plane.rescale is None for plane in volume):
        sentence = f"{volume[0].file} shows small values bright (MONOCHROME1): its values are turned round."
        warnings.warn(sentence, InputWarning, stacklevel=4)
    files: dict[Path, sitk.Image] = {}
    arrays = []
    for plane in volume:
        if plane.file not in files:
            files[plane.file] = _pixels(plane)
        array = sitk.GetArrayViewFromImage(files[plane.file])
        arrays.append(array[plane.frame] if files[plane.file].GetDimension() == 3 else array)
    whole = files[volume[0].file]
    if volume[0].position is None:
        return whole[:, :, volume[0].frame : volume[0].frame + 1] if whole.GetDimension() == 3 else whole
    array = np.stack(arrays)  # of a type that holds every slice's values
    image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    first, step, _ = _line(volume)
    axes = volume[0].axes
    assert axes is not None
    assert volume[0].spacing is not None
    length = float(np.linalg.norm(step))
    rows = np.stack([*(axes / np.linalg.norm(axes, axis=1, keepdims=True)), step / length])
    image.SetOrigin(first.tolist())
    image.SetSpacing([*volume[0].spacing, length])
    image.SetDirection(rows.T.ravel().tolist())
    return image


def _pixels(plane: Plane) -> sitk.Image:
    """All frames of a plane's file."""
    try:
        if plane.rescale is not None:
            return _rescaled(plane.file)
        with silenced():
            return sitk.ReadImage(str(plane.file))
    except RuntimeError as error:
        raise InputError(
            f"The pixels of {plane.file} cannot be decoded: they are missing or damaged, or of a rare kind."
        ) from error


def _rescaled(file: Path) -> sitk.Image:
    """Frames of which each has its own slope."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(file, force=True)
        try:
            stored = np.asarray(header.pixel_array, np.float64)
        except Exception as error:  # whatever its decoders raise
            raise InputError(
                f"{file} has values that are rescaled frame by frame and are compressed in a rare way: unpack it first."
            ) from error
        factors = np.array([plane.rescale for plane in _planes(header, file)])
    return sitk.GetImageFromArray(stored * factors[:, :1, None] + factors[:, 1:, None])
