"""DICOM files made for tests: slices of a series and multi-frame files, every voxel of another value."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

COUNT = itertools.count(1)
FLAT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SPACING = (1.2, 1.5)  # millimetres between rows, between columns


def voxels(slices: int = 6) -> np.ndarray:
    """Values that tell where they lie, `[slices, 8, 7]`."""
    return np.arange(slices * 56, dtype=np.int16).reshape(slices, 8, 7)


def _dataset(path: Path, pixels: np.ndarray, sop: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{next(COUNT)}"
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = sop, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3.1", "1.2.3.2", "1.2.3.4"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.PixelData = pixels.astype("<i2").tobytes()
    return data


def slice_file(
    path: Path,
    pixels: np.ndarray,
    position: Sequence[float],
    *,
    orientation: Sequence[float] = FLAT,
    number: int = 1,
    slope: float = 1.0,
    **more: object,
) -> Path:
    """One slice of a CT series, with any other attributes."""
    path.parent.mkdir(exist_ok=True)
    data = _dataset(path, pixels, "1.2.840.10008.5.1.4.1.1.2")
    data.Modality, data.SliceThickness, data.InstanceNumber = "CT", 2, number
    data.ImagePositionPatient, data.ImageOrientationPatient = [*map(float, position)], [*map(float, orientation)]
    data.PixelSpacing, data.RescaleIntercept, data.RescaleSlope = list(SPACING), 0, slope
    for name, value in more.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def enhanced_file(
    path: Path,
    frames: np.ndarray,
    positions: Sequence[Sequence[float]],
    *,
    orientation: Sequence[float] = FLAT,
    slopes: Sequence[float] | None = None,
) -> Path:
    """A multi-frame MR whose frames say their own places and slopes."""
    data = _dataset(path, frames, "1.2.840.10008.5.1.4.1.1.4.1")
    data.Modality, data.InstanceNumber, data.NumberOfFrames = "MR", 1, len(frames)
    measures, plane, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(SPACING), 2
    plane.ImageOrientationPatient = [*map(float, orientation)]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    each = []
    for n, position in enumerate(positions):
        place, value, group = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [*map(float, position)]
        value.RescaleIntercept, value.RescaleSlope, value.RescaleType = 0, 1.0 if slopes is None else slopes[n], "US"
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [value]
        each.append(group)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], each
    data.save_as(path, enforce_file_format=True)
    return path


def told(position: Sequence[float], orientation: Sequence[float], row: int, column: int) -> np.ndarray:
    """Where a DICOM header says that a pixel lies, LPS millimetres (PS3.3, equation C.7.6.2.1-1)."""
    axes = np.array(orientation, float).reshape(2, 3)
    return np.array(position, float) + axes[0] * SPACING[1] * column + axes[1] * SPACING[0] * row
