"""Displacement images of other programs: read as what they say they are, or refused in a sentence."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from geometry import GRIDS, smooth_field

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.transform import Transform

SIZE, SPACING, ORIGIN = (12, 14, 10), 2.0, (5.0, -7.0, 3.0)  # RAS
SHIFT = np.array([3.0, -2.0, 1.0])  # RAS
POINT = np.array([-15.0, -5.0, 13.0])  # LPS, in the middle
MOVED = POINT + SHIFT * [-1, -1, 1]


def nifti(path: Path, vectors: np.ndarray, *, five=True, intent=1007, name=b"", first=0.0) -> Path:
    """A NIfTI-1 file of vectors [k, j, i, 3] on 5 or 4 axes that run along R, A and S."""
    head = bytearray(348)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, *([5, *SIZE, 1, 3, 1, 1] if five else [4, *SIZE, 3, 1, 1, 1]))
    struct.pack_into("<f", head, 56, first)
    struct.pack_into("<hhh", head, 68, intent, 16, 32)
    struct.pack_into("<8f", head, 76, 1.0, *[SPACING] * 3, 1.0, 1.0, 1.0, 1.0)
    struct.pack_into("<fff", head, 108, 352.0, 1.0, 0.0)
    head[123] = 2
    struct.pack_into("<hh", head, 252, 0, 1)
    for row in range(3):
        struct.pack_into("<4f", head, 280 + 16 * row, *(SPACING * np.eye(3)[row]), ORIGIN[row])
    head[328 : 328 + len(name)] = name
    head[344:348] = b"n+1\0"
    path.write_bytes(bytes(head) + bytes(4) + np.moveaxis(vectors, -1, 0).astype("<f4").tobytes())
    return path


def positions() -> np.ndarray:
    k, j, i = np.indices(SIZE[::-1])
    return np.stack([i, j, k], axis=-1) * SPACING + ORIGIN


def shifts() -> np.ndarray:
    return np.broadcast_to(SHIFT, (*SIZE[::-1], 3))


NIFTYREG = {"name": b"NREG_TRANS"}


@pytest.mark.parametrize(
    ("vectors", "header"),
    [
        pytest.param(positions() + SHIFT, NIFTYREG, id="NiftyReg, positions"),
        pytest.param(shifts(), NIFTYREG | {"first": 1.0}, id="NiftyReg, displacements"),
        pytest.param(positions() + SHIFT, {"name": b"Mapping"}, id="SPM"),
        pytest.param(shifts(), {"intent": 1006}, id="NIfTI's displacement"),
        pytest.param(shifts() * [-1, -1, 1], {}, id="ITK and ANTs"),
    ],
)
def test_what_the_header_says_is_believed(vectors, header, tmp_path):
    found = Transform.read(nifti(tmp_path / "u.nii", vectors, **header)).map_points([POINT])
    assert np.allclose(found, MOVED, atol=1e-4)


@pytest.mark.parametrize(
    ("vectors", "header", "sentence"),
    [
        pytest.param(shifts(), NIFTYREG | {"first": 2.0}, "reg_transform -def", id="NiftyReg, control points"),
        pytest.param(shifts(), NIFTYREG | {"first": 4.0}, "reg_transform -def", id="NiftyReg, velocities"),
        pytest.param(shifts(), {"five": False}, "4 axes.*FNIRT", id="SynthMorph"),
        pytest.param(shifts(), {"five": False, "intent": 2006}, "4 axes.*FNIRT", id="FNIRT"),
        pytest.param(positions() + SHIFT, {}, "positions, not displacements", id="RAS positions, unmarked"),
        pytest.param(positions() * [-1, -1, 1], {}, "positions, not displacements", id="LPS positions, unmarked"),
        pytest.param(
            np.where(positions()[..., :1] > 20, np.nan, positions()),
            {"name": b"Mapping"},
            "without a position",
            id="gaps",
        ),
    ],
)
def test_what_cannot_be_known_is_refused(vectors, header, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        Transform.read(nifti(tmp_path / "u.nii", vectors, **header))


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("kind", ["modeling", "Modelling", "resampling", None])
def test_a_field_from_moving_to_fixed_points_is_inverted(kind, ending, tmp_path):
    field = smooth_field(GRIDS["oblique"])
    image = field.to_image()
    if kind:
        image.SetMetaData("displacement field type", kind)
    sitk.WriteImage(image, str(tmp_path / f"u{ending}"))
    found, points = Transform.read(tmp_path / f"u{ending}"), field.grid.physical([[5, 4, 5], [6.2, 3.9, 4.4]])
    forward = found.inverse() if kind and kind.lower().startswith("model") else found
    assert np.allclose(forward.map_points(points), field.map_points(points), atol=2e-3)


def test_a_field_of_an_unknown_type_is_refused(tmp_path):
    image = smooth_field(GRIDS["regular"]).to_image()
    image.SetMetaData("displacement field type", "velocity")
    sitk.WriteImage(image, str(tmp_path / "u.nrrd"))
    with pytest.raises(InputError, match="'velocity'; resampling or modeling"):
        Transform.read(tmp_path / "u.nrrd")


@pytest.mark.parametrize(
    ("space", "frame", "readable"),
    [
        ("left-posterior-superior", "", True),
        ("LPS", "measurement frame: (1,0,0) (0,1,0) (0,0,1)\n", True),
        ("right-anterior-superior", "", False),
        ("RAS", "", False),
        ("left-posterior-superior", "measurement frame: (-1,0,0) (0,-1,0) (0,0,1)\n", False),
    ],
)
def test_vectors_of_a_nrrd_in_another_space_are_refused(space, frame, readable, tmp_path):
    head = (
        f"NRRD0005\ntype: float\ndimension: 4\nspace: {space}\nsizes: 3 6 6 6\nspace directions: none (2,0,0) (0,2,0) "
        "(0,0,2)\nkinds: vector domain domain domain\nendian: little\nencoding: raw\nspace origin: (0,0,0)\n"
        f"{frame}\n"
    )
    (tmp_path / "u.nrrd").write_bytes(head.encode() + np.ones((6, 6, 6, 3), "<f4").tobytes())
    if readable:
        assert np.allclose(Transform.read(tmp_path / "u.nrrd").map_points([[5, 5, 5]]), 6)
    else:
        with pytest.raises(InputError, match="does not hold its vectors in LPS"):
            Transform.read(tmp_path / "u.nrrd")


@pytest.mark.parametrize(
    ("pixels", "sentence"),
    [
        (np.full((6, 6, 6, 3), np.nan, np.float32), "not a finite number"),
        (np.zeros((6, 6, 6), np.float32), "needs 3 values a voxel; it has 1"),
        (np.zeros((6, 6, 6, 2), np.float32), "needs 3 values a voxel; it has 2"),
        (np.zeros((6, 6, 6, 3), np.uint8), "whole numbers"),
    ],
)
def test_ordinary_images_are_refused(pixels, sentence, tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=pixels.ndim == 4), str(tmp_path / "u.nrrd"))
    with pytest.raises(InputError, match=sentence):
        Transform.read(tmp_path / "u.nrrd")
