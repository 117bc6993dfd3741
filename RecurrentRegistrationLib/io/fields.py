"""Displacement images of any program as what ITK means by one: LPS millimetres from fixed to moving points.

Files say in their headers when they mean something else. NiftyReg names its fields `NREG_TRANS` and counts in RAS
(`_reg_maths.h`, `reg_tools.h`); SPM's `Mapping` holds RAS positions; NIfTI's intent 1006 is a RAS displacement, which
ITK turns round itself; 3D Slicer marks fields from moving to fixed points as `modeling`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io import images
from RecurrentRegistrationLib.io.files import suffix_of

POSITIONS, DISPLACEMENTS = 0.0, 1.0  # the first intent parameter of NiftyReg's fields; the rest are not fields
IN_ITK_TERMS = "save it as a displacement image of ITK, LPS millimetres, for example with 3D Slicer's module Transforms"
SAID = ("intent_name", "intent_p1", "displacement field type")  # what headers say of the meaning of their vectors
SAMPLES = 4000  # voxels that tell positions from displacements


@dataclass(frozen=True)
class Field:
    """A displacement image.

    Attributes:
        image: LPS millimetres, one vector of float32 a voxel.
        backward: whether it maps moving to fixed points, so that its inverse is wanted.
    """

    image: sitk.Image
    backward: bool = False


def read(path: Path) -> Field:
    """Read a displacement image.

    Raises:
        InputError: it cannot be read, or the file says, or its values show, that it holds something else.
    """
    image, odd = images.load(path)
    said = {key: image.GetMetaData(key).strip() for key in SAID if image.HasMetaDataKey(key)}
    _require_vectors(image, path)
    _require_lps(path)
    image = _in_lps(sitk.Cast(image, sitk.sitkVectorFloat32), said, path)
    _require_displacements(image, odd, path)
    direction = said.get("displacement field type", "resampling").lower()
    if direction not in ("resampling", "modeling", "modelling"):
        raise InputError(f"{path} is a displacement of the type '{direction}'; resampling or modeling is needed.")
    return Field(image, backward=direction != "resampling")


def _require_vectors(image: sitk.Image, path: Path) -> None:
    dimension, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if dimension not in (2, 3):
        raise InputError(
            f"{path} has {dimension} axes and does not say what its numbers are (FNIRT, FreeSurfer, SynthMorph, MRtrix "
            f"and AFNI differ): {IN_ITK_TERMS}."
        )
    if components != dimension:
        raise InputError(f"{path}: a displacement image needs {dimension} values a voxel; it has {components}.")
    if image.GetPixelID() not in (sitk.sitkVectorFloat32, sitk.sitkVectorFloat64):
        raise InputError(
            f"{path} is not a displacement image: it holds whole numbers (a colour image?); displacements "
            "are real numbers."
        )


def _require_lps(path: Path) -> None:
    """Refuse a NRRD in another space: ITK turns its axes to LPS but leaves its vectors as they are."""
    if suffix_of(path) not in (".nrrd", ".nhdr"):
        return
    with path.open("rb") as file:
        head = re.split(rb"\r?\n\r?\n", file.read(1 << 16), maxsplit=1)[0].decode("latin-1")
    space = re.search(r"^space: *(\S[^\r\n]*)", head, re.MULTILINE)
    named = space.group(1).strip().lower() if space else "left-posterior-superior"
    frame = re.search(r"^measurement frame: *([^\r\n]*)", head, re.MULTILINE)
    numbers = [float(n) for n in re.findall(r"[-+.\deE]+", frame.group(1))] if frame else []
    turned = numbers != np.eye(round(len(numbers) ** 0.5)).ravel().tolist() and bool(numbers)
    if named not in ("left-posterior-superior", "lps") or turned:
        raise InputError(f"{path} does not hold its vectors in LPS ('{named}'): {IN_ITK_TERMS}.")


def _in_lps(image: sitk.Image, said: dict[str, str], path: Path) -> sitk.Image:
    """An image of NiftyReg's or SPM's vectors as LPS displacements; any other as it is."""
    name, parameter = said.get("intent_name", ""), float(said.get("intent_p1", 0) or 0)
    niftyreg = name.startswith("NREG_TRANS")
    if niftyreg and parameter not in (POSITIONS, DISPLACEMENTS):
        raise InputError(
            f"{path} holds control points or velocities of NiftyReg: turn it into a deformation field with "
            "reg_transform -def."
        )
    if not niftyreg and name != "Mapping":
        return image
    d = image.GetDimension()
    signs = np.array([-1.0, -1.0, 1.0][:d])  # from RAS to LPS
    vectors = sitk.GetArrayFromImage(image).astype(np.float64) * signs
    if not (niftyreg and parameter == DISPLACEMENTS):
        if not vectors.any(axis=-1).all():  # ITK reads NaN from NIfTI as 0
            raise InputError(f"{path} holds voxels without a position: {IN_ITK_TERMS}.")
        vectors -= _positions(image)
    found = sitk.GetImageFromArray(vectors.astype(np.float32), isVector=True)
    found.CopyInformation(image)
    return found


def _positions(image: sitk.Image) -> np.ndarray:
    """Physical points of all voxels, `[*S, d]`."""
    return sitk.GetArrayFromImage(
        sitk.PhysicalPointSource(
            sitk.sitkVectorFloat64, image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()
        )
    )


def _require_displacements(image: sitk.Image, odd: int, path: Path) -> None:
    """Refuse values that are not finite, and positions that are not marked as such: they grow as the voxels' own do."""
    vectors = sitk.GetArrayViewFromImage(image)
    if odd or not np.isfinite(vectors).all():
        raise InputError(f"{path} holds a displacement that is not a finite number: {IN_ITK_TERMS}.")
    d = image.GetDimension()
    if min(image.GetSize()) < 3:
        return
    stride = max(1, vectors[..., 0].size // SAMPLES)
    index = np.unravel_index(np.arange(0, vectors[..., 0].size, stride), vectors.shape[:-1])
    frame = np.array(image.GetDirection()).reshape(d, d) * np.array(image.GetSpacing())
    places = np.stack(index[::-1], axis=1) @ frame.T
    design = np.column_stack([places, np.ones(len(places))])
    slope = np.linalg.lstsq(design, vectors[index].astype(float), rcond=None)[0][:d].T
    if np.allclose(np.abs(slope), np.eye(d), atol=0.25) and np.diag(slope)[-1] > 0:
        raise InputError(f"{path} seems to hold positions, not displacements: {IN_ITK_TERMS}.")
