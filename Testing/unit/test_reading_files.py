"""Image and transform files read whole and where their headers say, or refused in one sentence and nothing else."""

from __future__ import annotations

import gzip
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RecurrentRegistrationLib.errors import InputError, InputWarning
from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Grid, Volume

VALUES = np.random.default_rng(0).integers(0, 250, (5, 6, 7)).astype(np.int16)
RAW = VALUES.astype("<i2").tobytes()
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 7 6 5\nendian: little\nencoding: raw\n"
META = "ObjectType = Image\nNDims = 3\nDimSize = 7 6 5\nElementType = MET_SHORT\n"


def nrrd(path: Path, fields: str = "", data: bytes = RAW) -> Path:
    path.write_bytes((NRRD + fields).encode("latin-1") + b"\n" + data)
    return path


def meta(path: Path, fields: str = "", data: bytes = RAW, place: str = "LOCAL") -> Path:
    path.write_bytes(f"{META}{fields}ElementDataFile = {place}\n".encode() + data)
    return path


def nifti(path: Path, *, values=VALUES, units=2, sform=(0, 0, 0), qform=None, spacing=(1.0, 1.0, 1.0)) -> Path:
    """A NIfTI-1 file; `sform` and `qform` are origins in RAS, along the axes."""
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, *values.shape[::-1], 1, 1, 1, 1)
    struct.pack_into(
        "<hh", head, 70, {"int16": 4, "float32": 16, "float64": 64}[str(values.dtype)], values.itemsize * 8
    )
    struct.pack_into("<8f", head, 76, 1.0, *spacing, 0, 0, 0, 0)
    struct.pack_into("<fff", head, 108, 352.0, 1.0, 0.0)
    head[123] = units
    struct.pack_into("<hh", head, 252, int(qform is not None), int(sform is not None))
    struct.pack_into("<3f", head, 268, *(qform or (0, 0, 0)))
    for row in range(3):
        step = spacing[row] * np.eye(3)[row]
        struct.pack_into("<4f", head, 280 + 16 * row, *step, (sform or (0, 0, 0))[row])
    head[344:348] = b"n+1\0"
    content = bytes(head) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def told(path: Path) -> list[str]:
    """What is said of an image that is read."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Volume.read(path)
    return [str(each.message) for each in caught if issubclass(each.category, InputWarning)]


def grid_said(file: Path, word: str | None) -> Grid:
    """Where an image lies; it says one sentence with a word in it, or nothing."""
    said = told(file)
    assert (len(said) == 1 and word in said[0]) if word else not said
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Volume.read(file).grid


class TestTruncated:
    """A file that ends early is refused, however little is missing; nothing but that is said."""

    NAMES = ("a.nii", "a.nii.gz", "a.img", "a.nrrd", "z.nrrd", "a.mha", "z.mha", "a.vtk", "a.gipl", "a.tif", "z.tif")
    FLAT = ("a.png", "a.jpg", "a.bmp")

    @pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, -1])
    @pytest.mark.parametrize("name", NAMES + FLAT)
    def test_images(self, tmp_path, capfd, name, keep):
        image = sitk.GetImageFromArray(VALUES)
        if name in self.FLAT:
            image = sitk.Cast(image[:, :, 2], sitk.sitkUInt8)
        sitk.WriteImage(image, str(tmp_path / name), useCompression=name[0] == "z")
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: keep if keep < 0 else int(keep * len(whole))])
        capfd.readouterr()
        if keep == -1 and name in ("z.nrrd", "a.tif", "z.tif"):  # all but a checksum or a link to the next page
            assert np.array_equal(Volume.read(tmp_path / name).array[0], VALUES)
        else:
            with pytest.raises(InputError, match="damaged"):
                Volume.read(tmp_path / name)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
    @pytest.mark.parametrize(
        "name", ["a.h5", "f.h5", "a.tfm", "f.tfm", "a.mat", "a.xfm", "u.nrrd", "u.nii.gz", "u.mha"]
    )
    def test_transforms(self, tmp_path, capfd, name, keep):
        shift = sitk.AffineTransform(3)
        shift.SetTranslation((1.5, 2.5, 3.5))
        field = sitk.GetImageFromArray(np.random.default_rng(0).random((5, 6, 7, 3)), isVector=True)
        if name[0] == "u":
            sitk.WriteImage(field, str(tmp_path / name))
        else:
            chain = sitk.CompositeTransform([shift, sitk.DisplacementFieldTransform(field)])
            sitk.WriteTransform(shift if name[0] == "a" else chain, str(tmp_path / name))
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: int(keep * len(whole))])
        capfd.readouterr()
        with pytest.raises(InputError, match=r"damaged|lacks"):
            Transform.read(tmp_path / name)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("names", ["0.raw\n1.raw\n2.raw\n3.raw\n4.raw", "0.raw\n1.raw\n", ""])
    def test_lists_of_slices(self, tmp_path, names):
        for k in range(5):
            (tmp_path / f"{k}.raw").write_bytes(VALUES[k].astype("<i2").tobytes())
        whole = meta(tmp_path / "whole.mhd", place="LIST", data=b"0.raw\n1.raw\n2.raw\n3.raw\n4.raw\n")
        assert np.array_equal(Volume.read(whole).array[0], VALUES)
        with pytest.raises(InputError, match=r"lists \d whole lines of 5 files"):
            Volume.read(meta(tmp_path / "cut.mhd", place="LIST", data=names.encode()))

    @pytest.mark.parametrize("fields", ["data file: gone.raw\n", "data file: short.raw\n"])
    def test_data_that_lie_elsewhere(self, tmp_path, fields):
        (tmp_path / "short.raw").write_bytes(RAW[:-1])
        with pytest.raises(InputError, match="damaged"):
            Volume.read(nrrd(tmp_path / "a.nhdr", fields, b""))
        with pytest.raises(InputError, match="damaged"):
            Volume.read(meta(tmp_path / "a.mhd", place=fields.split()[2], data=b""))


class TestWordsInHeaders:
    """Text that is no number where none is needed does not matter; where one is needed it is named."""

    @pytest.mark.parametrize(
        "fields",
        [
            "spacings:=as measured\n",
            "ElementSpacing:=0 0 0\n",
            "# spacings: 0 0 0\n",
            "content: spacings: 0\n",
            'axistype:="-1"\nunits: "mm" "mm" "mm"\n',
            "patient:=M\xfcller\n",
        ],
    )
    def test_nrrd(self, tmp_path, fields):
        assert np.array_equal(Volume.read(nrrd(tmp_path / "a.nrrd", fields)).array[0], VALUES)

    @pytest.mark.parametrize(
        "fields",
        ["Comment = ElementSpacing = 0 0 0\n", "Name = spacing 0\n", "ElementSpacing = 1 1 1 mm\n"],
    )
    def test_meta(self, tmp_path, fields):
        volume = Volume.read(meta(tmp_path / "a.mha", fields))
        assert np.array_equal(volume.array[0], VALUES)
        assert volume.grid.spacing == (1, 1, 1)

    @pytest.mark.parametrize(
        "fields", ["ElementSpacing = one 1 1\n", "Offset = 0 0\n", "TransformMatrix = 1 0 0 x 1 0 0 0 1\n"]
    )
    def test_words_for_numbers(self, tmp_path, fields):
        with pytest.raises(InputError, match=f"no . numbers in its field {fields.split()[0].lower()}"):
            Volume.read(meta(tmp_path / "a.mha", fields))

    @pytest.mark.parametrize("axes", ["-1", "0", "11", "three", ""])
    def test_a_number_of_axes_that_cannot_be(self, tmp_path, axes):
        (tmp_path / "a.mha").write_bytes(META.replace("NDims = 3", f"NDims = {axes}").encode() + RAW)
        with pytest.raises(InputError, match="NDims"):
            Volume.read(tmp_path / "a.mha")


class TestPacking:
    """Names that say something else than the bytes, and bytes after the end."""

    @pytest.mark.parametrize("name", ["a.nii.gz", "b.NII.GZ"])
    def test_not_compressed_in_spite_of_its_name(self, tmp_path, name):
        nifti(tmp_path / "a.nii").rename(tmp_path / name)
        assert np.array_equal(Volume.read(tmp_path / name).array[0], VALUES)

    @pytest.mark.parametrize("rest", [b"\0" * 512, b"made by hand", b"\x1f\x8b"])
    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    def test_bytes_after_the_end(self, tmp_path, ending, rest):
        file = nifti(tmp_path / f"a{ending}")
        file.write_bytes(file.read_bytes() + rest)
        assert np.array_equal(Volume.read(file).array[0], VALUES)

    def test_compressed_in_parts(self, tmp_path):
        content = nifti(tmp_path / "a.nii").read_bytes()
        (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content[:300]) + gzip.compress(content[300:]))
        assert np.array_equal(Volume.read(tmp_path / "b.nii.gz").array[0], VALUES)

    def test_compressed_in_spite_of_its_name(self, tmp_path):
        nifti(tmp_path / "a.nii.gz").rename(tmp_path / "a.nii")
        with pytest.raises(InputError, match=r"ends in \.nii\.gz"):
            Volume.read(tmp_path / "a.nii")

    @pytest.mark.parametrize(("asked", "other"), [("a.nii.gz", "a.nii"), ("a.nii", "a.nii.gz")])
    def test_a_twin_beside_it_is_another_image(self, tmp_path, asked, other):
        nifti(tmp_path / asked)
        nifti(tmp_path / other, values=VALUES + 1000)
        assert np.array_equal(Volume.read(tmp_path / asked).array[0], VALUES)

    @pytest.mark.parametrize("name", ["ü 画像.nii.gz", "a#3.nii.gz", "a b (1).nrrd", "50%.mha"])
    def test_any_name(self, tmp_path, name):
        sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(tmp_path / name))
        assert np.array_equal(Volume.read(tmp_path / name).array[0], VALUES)


class TestLayers:
    """Segmentations whose segments overlap, as 3D Slicer writes them."""

    @pytest.fixture(params=[2, 3, 5])
    def file(self, request, tmp_path):
        layers = np.zeros((5, 6, 7, request.param), np.uint8)
        for n in range(request.param):
            layers[n, n:, 2:, n] = n + 1
        image = sitk.GetImageFromArray(layers, isVector=True)
        image.SetMetaData("Segment0_ID", "liver")
        sitk.WriteImage(image, str(tmp_path / "s.seg.nrrd"))
        return tmp_path / "s.seg.nrrd", layers

    def test_any_label_of_any_layer_is_mask(self, file):
        path, layers = file
        assert np.array_equal(Volume.read_mask(path).array[0] != 0, layers.any(axis=-1))

    def test_one_is_picked_by_its_number(self, file):
        path, layers = file
        for n in range(layers.shape[-1]):
            assert np.array_equal(Volume.read(f"{path}#{n}").array[0], layers[..., n])
            assert np.array_equal(Volume.read_mask(f"{path}#{n}").array[0], layers[..., n])

    def test_the_refusal_says_how(self, file):
        path, layers = file
        with pytest.raises(InputError, match=rf"{layers.shape[-1]} layers, 0 to .*s\.seg\.nrrd#0"):
            Volume.read(path)
        with pytest.raises(InputError, match="no layer or value 9"):
            Volume.read(f"{path}#9")

    def test_one_of_several_values_of_a_voxel(self, tmp_path):
        values = np.random.default_rng(0).integers(0, 99, (5, 6, 7, 3)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(values, isVector=True), str(tmp_path / "rgb.nrrd"))
        with pytest.raises(InputError, match=r"3 values a voxel.*rgb\.nrrd#0"):
            Volume.read(tmp_path / "rgb.nrrd")
        assert np.array_equal(Volume.read(f"{tmp_path / 'rgb.nrrd'}#2").array[0], values[..., 2])


class TestPlaces:
    """Where an image lies when its header leaves a choice, and what is said of it."""

    @pytest.mark.parametrize(
        ("forms", "origin", "sentence"),
        [
            ({"sform": (10, 20, 30)}, (-10, -20, 30), None),
            ({"sform": None, "qform": (10, 20, 30)}, (-10, -20, 30), None),
            ({"sform": (10, 20, 30), "qform": (10, 20, 30)}, (-10, -20, 30), None),
            ({"sform": (10, 20, 30), "qform": (10, 20, 35)}, None, "differ by up to 5 mm: the .form is used"),
            ({"sform": None}, None, "does not say where it lies"),
        ],
    )
    def test_forms_of_nifti(self, tmp_path, forms, origin, sentence):
        file = nifti(tmp_path / "a.nii", **forms)
        said = told(file)
        assert (
            (len(said) == 1 and sentence in said[0].replace("sform is", ".form is").replace("qform is", ".form is"))
            if sentence
            else not said
        )
        if origin:
            assert np.allclose(Volume.read(file).grid.origin, origin)

    @pytest.mark.parametrize(
        ("units", "scale", "word"),
        [(1, 1000, "metres"), (2, 1, None), (3, 1e-3, "microns"), (0, 1, "no unit"), (8, 1, "no unit")],
    )
    def test_units_of_nifti(self, tmp_path, units, scale, word):
        file = nifti(tmp_path / "a.nii", units=units, sform=(1, 2, 3), spacing=(0.5, 1.0, 2.0))
        grid = grid_said(file, word)
        assert np.allclose(grid.spacing, np.array([0.5, 1.0, 2.0]) * scale)
        assert np.allclose(grid.origin, np.array([-1, -2, 3]) * scale)

    @pytest.mark.parametrize(
        ("unit", "scale", "word"),
        [
            ("mm", 1, None),
            ("um", 1e-3, "is in um"),
            ("cm", 10, "is in cm"),
            ("s", 1, "'s' for the unit"),
            ("none", 1, "'none' for"),
            ("???", 1, None),
        ],
    )
    def test_units_of_nrrd(self, tmp_path, unit, scale, word):
        fields = (
            f'space: right-anterior-superior\nspace units: "{unit}" "{unit}" "{unit}"\n'
            "space directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (10,20,30)\n"
        )
        file = nrrd(tmp_path / "a.nrrd", fields)
        grid = grid_said(file, word)
        assert np.allclose(grid.spacing, np.array([2, 3, 4]) * scale)
        assert np.allclose(grid.origin, np.array([-10, -20, 30]) * scale)

    @pytest.mark.parametrize("kind", ["float32", "float64"])
    def test_what_is_not_a_number_is_said_to_be_0(self, tmp_path, kind):
        values = VALUES.astype(kind)
        values[1, 2, 3], values[4, 5, 6] = np.nan, np.inf
        file = nifti(tmp_path / "a.nii.gz", values=values, sform=(0, 0, 0))
        assert told(file) == [f"{file} holds 2 values that are not finite numbers: they are read as 0."]

    def test_nifti_2_is_named(self, tmp_path):
        (tmp_path / "a.nii").write_bytes(struct.pack("<i8s", 540, b"n+2\0\r\n\x1a\n") + bytes(528) + RAW)
        with pytest.raises(InputError, match="is NIfTI-2"):
            Volume.read(tmp_path / "a.nii")


class TestTransforms:
    TEXT = "#Insight Transform File V1.0\n"
    ONE = "Transform: AffineTransform_double_3_3\nParameters: 1 0 0 0 1 0 0 0 1 1 2 3\nFixedParameters: 0 0 0\n"

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (lambda text: text + text.split("\n", 1)[1], "several transforms"),
            (lambda text: text.rsplit("Fixed", 1)[0], "lacks numbers"),
            (lambda text: text.replace("1 2 3", "1 2"), "damaged"),
            (lambda text: text.replace("1 2 3", "1,5 2 3"), "damaged"),
            (lambda text: text.replace("1 2 3", "1 nan 3"), "damaged|finite"),
        ],
    )
    def test_text(self, tmp_path, capfd, change, sentence):
        (tmp_path / "t.tfm").write_text(self.TEXT + self.ONE, encoding="utf-8")
        assert np.allclose(Transform.read(tmp_path / "t.tfm").map_points([[0, 0, 0]]), [[1, 2, 3]])
        (tmp_path / "t.tfm").write_text(change(self.TEXT + self.ONE), encoding="utf-8")
        with pytest.raises(InputError, match=sentence):
            Transform.read(tmp_path / "t.tfm")
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("rest", [b"\xff" * 40, b"\xff" * 8, b"x"])
    def test_bytes_after_the_end_do_not_matter(self, tmp_path, rest):
        shift = sitk.AffineTransform(3)
        shift.SetTranslation((1.5, 2.5, 3.5))
        sitk.WriteTransform(shift, str(tmp_path / "t.mat"))
        (tmp_path / "t.mat").write_bytes((tmp_path / "t.mat").read_bytes() + rest)
        assert np.allclose(Transform.read(tmp_path / "t.mat").map_points([[0, 0, 0]]), [[1.5, 2.5, 3.5]])

    def test_numbers_that_are_not_finite(self, tmp_path):
        shift = sitk.TranslationTransform(3, (float("nan"), 0.0, 0.0))
        sitk.WriteTransform(shift, str(tmp_path / "t.h5"))
        with pytest.raises(InputError, match="not finite"):
            Transform.read(tmp_path / "t.h5")
