"""Grids and images: geometry as ITK has it, and every way a file can be bad."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import struct

import numpy as np
import pytest
import SimpleITK as sitk
from geometry import GRIDS, file_holds, placed, random_points, smooth_image, voxel_centres

from RecurrentRegistrationLib.errors import InputError, InputWarning
from RecurrentRegistrationLib.evaluation import evaluate
from RecurrentRegistrationLib.transform import DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid, Volume, resample, split_part


def whole_numbers(grid: Grid, kind: type = np.int16) -> Volume:
    """An image whose voxels all differ."""
    return Volume(np.arange(np.prod(grid.shape)).reshape(1, *grid.shape).astype(kind), grid)


class TestGrid:
    def test_points_and_indices_are_those_of_itk(self, any_grid):
        image = any_grid.empty_sitk()
        points = random_points(any_grid, 50, margin=-4)
        indices = np.array([image.TransformPhysicalPointToContinuousIndex(p.tolist()) for p in points])
        assert np.allclose(any_grid.index(points), indices, atol=1e-9)
        assert np.allclose(any_grid.physical(indices), points, atol=1e-9)
        homogeneous = np.c_[indices[:, ::-1], np.ones(len(indices))]
        assert np.allclose((homogeneous @ any_grid.tensor_to_physical.T)[:, :-1], points, atol=1e-9)
        assert np.allclose(
            any_grid.physical_to_tensor @ any_grid.tensor_to_physical, np.eye(any_grid.dimension + 1), atol=1e-9
        )

    def test_header_survives_simpleitk(self, any_grid):
        assert Grid.of(any_grid.empty_sitk()) == any_grid
        assert any_grid.shape == sitk.GetArrayFromImage(any_grid.empty_sitk()).shape

    def test_centre_and_corners_are_points_of_the_box(self, any_grid):
        assert np.allclose(any_grid.corners().mean(axis=0), any_grid.centre, atol=1e-9)
        assert len(any_grid.corners()) == 2**any_grid.dimension
        ends = np.sort(any_grid.index(any_grid.corners()), axis=0)
        assert np.allclose(ends[[0, -1]], [np.zeros(any_grid.dimension), np.array(any_grid.size) - 1], atol=1e-9)

    def test_upright_is_the_same_voxels_with_axes_to_left_back_and_head(self, grid):
        upright = grid.upright()
        orders = itertools.permutations(range(grid.dimension))
        best = max(np.abs(grid.cosines[range(grid.dimension), order]).sum() for order in orders)
        assert np.trace(upright.cosines) == pytest.approx(best)
        assert (np.diag(upright.cosines) > 0).all()
        assert {tuple(p) for p in upright.corners().round(6)} == {tuple(p) for p in grid.corners().round(6)}
        assert sorted(zip(upright.size, upright.spacing, strict=True)) == sorted(
            zip(grid.size, grid.spacing, strict=True)
        )

    @pytest.mark.parametrize("spacing", [1.0, 3.0, 4.7])
    def test_resampled_covers_the_same_box(self, grid, spacing):
        other = grid.resampled(spacing)
        assert other.spacing == (spacing,) * grid.dimension
        assert np.allclose(other.physical([-0.5] * grid.dimension), grid.physical([-0.5] * grid.dimension), atol=1e-9)
        end = grid.index(other.physical(np.array(other.size) - 0.5)) + 0.5 - np.array(grid.size)
        assert (end > -1e-6).all()
        assert (end < spacing / np.array(grid.spacing)).all()

    def test_resampled_to_its_own_spacing_is_the_same(self, grid):
        assert grid.resampled(grid.spacing).almost_equal(grid)

    @pytest.mark.parametrize("spacing", [0.4, 1.3, 9.0, 1000.0])
    def test_between_keeps_the_outer_voxels(self, grid, spacing):
        found = grid.between(spacing)
        assert np.allclose(found.corners(), grid.corners())
        lengths = np.subtract(grid.size, 1) * grid.spacing
        for length, steps, pitch in zip(lengths, found.size, found.spacing, strict=True):
            assert steps == max(round(length / spacing), 1) + 1
            assert pitch == pytest.approx(length / (steps - 1))

    def test_between_leaves_one_slice_one_slice(self):
        flat = Grid((20, 1, 9), (1.0, 4.0, 2.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
        assert flat.between(0.5).size == (39, 1, 33)

    def test_padding_and_cropping_keep_voxels_in_place(self, any_grid):
        before, after = [1, 2, 3][: any_grid.dimension], [0, 4, 1][: any_grid.dimension]
        padded = any_grid.padded(before, after)
        assert np.allclose(padded.physical(before), any_grid.origin)
        assert padded.cropped(before, any_grid.size).almost_equal(any_grid)
        assert padded.padded([-b for b in before], [-a for a in after]).almost_equal(any_grid)

    def test_almost_equal_looks_at_the_places(self, grid):
        assert grid.almost_equal(dataclasses.replace(grid, origin=tuple(np.array(grid.origin) + 1e-6)))
        assert not grid.almost_equal(dataclasses.replace(grid, origin=tuple(np.array(grid.origin) + 0.01)))
        assert not grid.almost_equal(grid.padded([0] * grid.dimension, [1] + [0] * (grid.dimension - 1)))

    def test_regular_is_in_tensor_order(self):
        assert Grid.regular((4, 5, 6), (1, 2, 3)).size == (6, 5, 4)
        assert Grid.regular((4, 5), 2).spacing == (2, 2)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"spacing": (1, 0, 1)}, "positive"),
            ({"spacing": (1, -2, 1)}, "positive"),
            ({"spacing": (1, float("nan"), 1)}, "positive"),
            ({"direction": (1, 0, 0, 1, 0, 0, 0, 0, 1)}, "singular"),
            ({"direction": (float("nan"), 0, 0, 0, 1, 0, 0, 0, 1)}, "singular"),
            ({"origin": (0, 0)}, "one dimension"),
            ({"origin": (0, 0, float("inf"))}, "origin"),
            ({"size": (3, 0, 3)}, "no voxel"),
        ],
    )
    def test_a_grid_that_cannot_be_is_refused(self, change, sentence):
        with pytest.raises(InputError, match=sentence):
            dataclasses.replace(Grid.regular((3, 3, 3)), **change)


class TestVolume:
    @pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii.gz", ".nii"])
    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
    def test_comes_back_from_a_file(self, tmp_path, ending, kind):
        volume = whole_numbers(GRIDS["left-handed oblique"], kind)
        volume.write(tmp_path / f"a{ending}")
        read = Volume.read(tmp_path / f"a{ending}")
        assert read.array.dtype == kind
        assert np.array_equal(read.array, volume.array)
        assert read.grid.almost_equal(volume.grid, 1e-3)

    def test_every_header_comes_back(self, tmp_path, any_grid):
        for ending in [e for e in (".nrrd", ".mha", ".nii.gz") if file_holds(e, any_grid)]:
            whole_numbers(any_grid).write(tmp_path / f"a{ending}")
            assert Volume.read(tmp_path / f"a{ending}").grid.almost_equal(any_grid, 1e-3)

    def test_png_is_a_2d_image(self, tmp_path):
        image = sitk.GetImageFromArray(np.arange(60, dtype=np.uint8).reshape(6, 10))
        sitk.WriteImage(image, str(tmp_path / "a.png"))
        volume = Volume.read(tmp_path / "a.png")
        assert volume.grid.shape == (6, 10)
        assert np.array_equal(volume.array[0], sitk.GetArrayFromImage(image))

    def test_masks_and_half_precision_become_what_files_hold(self):
        grid = Grid.regular((3, 4, 5))
        assert Volume(np.ones((1, 3, 4, 5), bool), grid).to_sitk().GetPixelID() == sitk.sitkUInt8
        assert Volume(np.ones((1, 3, 4, 5), np.float16), grid).to_sitk().GetPixelID() == sitk.sitkFloat32

    def test_channels_are_vector_pixels(self):
        volume = Volume(np.random.default_rng(0).random((2, 3, 4, 5)), Grid.regular((3, 4, 5)))
        assert volume.to_sitk().GetNumberOfComponentsPerPixel() == 2
        assert np.array_equal(Volume.from_sitk(volume.to_sitk()).array, volume.array)

    def test_tensor_is_a_float_copy(self):
        volume = whole_numbers(Grid.regular((3, 4, 5)), np.uint16)
        tensor = volume.tensor()
        tensor += 1
        assert tensor.shape == (1, 1, 3, 4, 5)
        assert volume.array[0, 0, 0, 0] == 0

    def test_an_array_of_another_shape_is_refused(self):
        with pytest.raises(InputError, match="does not fit"):
            Volume(np.zeros((1, 3, 3, 3)), Grid.regular((3, 3, 4)))

    @pytest.mark.parametrize("interpolation", ["linear", "nearest", "label", "bspline"])
    def test_resampled_onto_another_grid_stays_in_place(self, grids, interpolation):
        fixed, moving = grids
        volume = Volume.from_sitk(smooth_image(moving))
        if interpolation == "label":
            volume = Volume((volume.array > 3).astype(np.uint8), moving)
        found = volume.resampled(fixed, interpolation=interpolation, background=-5 if interpolation != "label" else 0)
        assert found.grid == fixed
        assert found.array.dtype == volume.array.dtype
        points = voxel_centres(fixed) - moving.centre
        index = moving.index(points + moving.centre)
        inside = ((index > 1) & (index < np.array(moving.size) - 2)).all(axis=1).reshape(fixed.shape)
        truth = 3 + np.cos(0.2 * points).prod(axis=1) + 0.05 * points @ np.arange(1, fixed.dimension + 1)
        difference = np.abs(found.array[0] - truth.reshape(fixed.shape))[inside]
        if interpolation == "label":
            assert (found.array[0] == (truth.reshape(fixed.shape) > 3))[inside].mean() > 0.85
        else:
            assert difference.max() < {"linear": 0.15, "nearest": 0.7, "bspline": 0.06}[interpolation]

    def test_unknown_interpolation_is_refused(self):
        grid = GRIDS["regular"]
        with pytest.raises(InputError, match="linear, nearest"):
            resample(smooth_image(grid), grid, sitk.Transform(3, sitk.sitkIdentity), interpolation="cubic")


class TestFrames:
    @pytest.fixture
    def series(self, tmp_path):
        grid = GRIDS["oblique"]
        frames = [whole_numbers(grid), Volume(whole_numbers(grid).array + 7, grid)]
        path = tmp_path / "s.nii.gz"
        sitk.WriteImage(sitk.JoinSeries([f.to_sitk() for f in frames]), str(path))
        return path, frames

    def test_one_is_picked_by_its_number(self, series):
        path, frames = series
        assert np.array_equal(Volume.read(f"{path}#1").array, frames[1].array)
        assert Volume.read(f"{path}#1").grid.almost_equal(frames[1].grid, 1e-3)

    def test_the_refusal_says_how_to_pick(self, series):
        path, _ = series
        with pytest.raises(InputError, match=r"2 volumes.*s\.nii\.gz#0"):
            Volume.read(path)
        for part in ("2", "-1", "last"):
            with pytest.raises(InputError, match="no frame"):
                Volume.read(f"{path}#{part}")

    def test_all_are_read_as_a_sequence(self, series):
        path, frames = series
        assert [np.array_equal(a.array, b.array) for a, b in zip(Volume.read_sequence(path), frames, strict=True)]
        with pytest.raises(InputError, match="no file"):
            Volume.read_sequence("absent.nii")

    def test_a_3d_image_is_a_sequence_of_one(self, tmp_path):
        whole_numbers(GRIDS["regular"]).write(tmp_path / "a.nrrd")
        assert len(Volume.read_sequence(tmp_path / "a.nrrd")) == 1

    def test_a_sequence_of_colours_is_refused(self, tmp_path):
        sitk.WriteImage(
            sitk.JoinSeries([sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3)] * 2), str(tmp_path / "rgb.nrrd")
        )
        with pytest.raises(InputError, match="3 values a voxel"):
            Volume.read_sequence(tmp_path / "rgb.nrrd")

    def test_a_single_frame_needs_no_number(self, tmp_path):
        volume = whole_numbers(GRIDS["regular"])
        sitk.WriteImage(sitk.JoinSeries([volume.to_sitk()]), str(tmp_path / "a.mha"))
        assert np.array_equal(Volume.read(tmp_path / "a.mha").array, volume.array)

    def test_a_3d_image_has_no_frames(self, tmp_path):
        whole_numbers(GRIDS["regular"]).write(tmp_path / "a.nrrd")
        with pytest.raises(InputError, match="no frames"):
            Volume.read(f"{tmp_path / 'a.nrrd'}#1")

    def test_a_name_may_hold_the_sign(self, tmp_path):
        whole_numbers(GRIDS["regular"]).write(tmp_path / "a#1.nrrd")
        assert split_part(tmp_path / "a#1.nrrd") == (tmp_path / "a#1.nrrd", None)
        assert Volume.read(tmp_path / "a#1.nrrd").grid.dimension == 3


class TestWholeNumbers:
    """What lies between two whole numbers is rounded, in every type and by every interpolation."""

    SHIFT = (0.7, 0.5, 0.9)
    KINDS = (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64)

    @staticmethod
    def noise(kind: type) -> sitk.Image:
        limits = np.iinfo(kind)
        low, high = max(limits.min, -(2**30)), min(limits.max, 2**30)
        return sitk.GetImageFromArray(np.random.default_rng(0).integers(low, high, (8, 9, 7), kind, endpoint=True))

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("interpolation", ["linear", "bspline"])
    @pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), SHIFT])
    def test_the_nearest_one_is_taken(self, kind, interpolation, shift):
        image, transform = self.noise(kind), sitk.TranslationTransform(3, shift)
        found = resample(image, Grid.of(image), transform, interpolation=interpolation)
        exact = resample(
            sitk.Cast(image, sitk.sitkFloat64), Grid.of(image), transform, interpolation=interpolation
        )  # a spline overshoots, a type ends
        limits = np.iinfo(kind)
        wanted = np.clip(sitk.GetArrayFromImage(exact), limits.min, limits.max)
        assert found.GetPixelID() == image.GetPixelID()
        assert np.abs(sitk.GetArrayFromImage(found) - wanted).max() <= 0.5
        if shift == (0.0, 0.0, 0.0):
            assert np.array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(image))

    @pytest.mark.parametrize("interpolation", ["linear", "nearest", "label", "bspline"])
    @pytest.mark.parametrize(("background", "held"), [(-1000.0, 0), (0.6, 1), (300.0, 255)])
    def test_a_background_beyond_the_type_is_its_nearest_value(self, interpolation, background, held):
        image = self.noise(np.uint8)
        away = sitk.TranslationTransform(3, (100.0, 0.0, 0.0))
        found = resample(image, Grid.of(image), away, interpolation=interpolation, background=background)
        assert np.unique(sitk.GetArrayFromImage(found)).tolist() == [held]

    def test_a_background_that_is_not_a_number_is_refused(self):
        image = self.noise(np.int16)
        with pytest.raises(InputError, match="cannot hold NaN"):
            resample(image, Grid.of(image), sitk.Transform(3, sitk.sitkIdentity), background=float("nan"))

    @pytest.mark.parametrize("interpolation", ["nearest", "label"])
    def test_large_labels_are_kept(self, interpolation):
        labels = np.zeros((1, 8, 9, 7), np.uint32)
        labels[:, 2:5, 2:7, 2:5], labels[:, 5:] = 2**24 + 1, 2**31 + 7
        image = Volume(labels, Grid.regular((8, 9, 7))).to_sitk()
        moved = sitk.TranslationTransform(3, (0.3, 0.2, 0.1))
        found = resample(image, Grid.of(image), moved, interpolation=interpolation)
        assert set(np.unique(sitk.GetArrayFromImage(found))) == {0, 2**24 + 1, 2**31 + 7}

    @pytest.mark.parametrize("kind", [np.int16, np.uint16, np.float32])
    def test_grey_values_taken_for_labels_are_said_to_be(self, kind):
        values = np.random.default_rng(0).integers(0, 4000, (1, 20, 20, 20)).astype(kind)
        grid = Grid.regular((20, 20, 20))
        with pytest.warns(InputWarning, match="more than 1000 values is resampled as labels"):
            found = Volume(values, grid).resampled(grid, interpolation="label")
        assert np.isin(found.array, values).all()

    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16])
    def test_an_image_equals_itself(self, kind):
        image = Volume.from_sitk(self.noise(kind))
        found = evaluate(Transform((), 3), image, image)["similarity"]["after"]
        assert found["root_mean_squared_error"] < 1e-6 * np.iinfo(kind).max
        assert found["seen_percent"] == 100


def write_dicom(folder, grid: Grid, uid: str, first: int = 0) -> np.ndarray:
    """A DICOM series of one slice a file; returns its array."""
    array = (whole_numbers(grid).array[0] + first).astype(np.int16)
    image = placed(sitk.GetImageFromArray(array), grid)
    columns = np.array(grid.direction).reshape(3, 3).T
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    folder.mkdir(exist_ok=True)
    for k in range(grid.size[2]):
        plane = image[:, :, k]
        tags = {
            "0008|0060": "MR",
            "0020|000e": uid,
            "0020|0013": str(k),
            "0020|0032": "\\".join(f"{v:.6f}" for v in grid.physical([0, 0, k])),
            "0020|0037": "\\".join(f"{v:.8f}" for v in [*columns[0], *columns[1]]),
            "0018|0050": str(grid.spacing[2]),
        }
        for tag, value in tags.items():
            plane.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid[-1]}_{(k * 7) % 31:03d}.dcm"))  # names in no order
        writer.Execute(plane)
    return array


class TestDicom:
    UID = "1.2.826.0.1.3680043.2.1125.1"

    @pytest.mark.parametrize("name", ["anisotropic", "oblique", "permuted"])
    def test_a_folder_is_one_image(self, tmp_path, name):
        array = write_dicom(tmp_path / "scan", GRIDS[name], self.UID)
        volume = Volume.read(tmp_path / "scan")
        assert np.array_equal(volume.array[0], array)
        assert volume.grid.almost_equal(GRIDS[name], 1e-3)

    def test_one_of_several_series_is_picked(self, tmp_path):
        write_dicom(tmp_path / "scan", GRIDS["anisotropic"], self.UID)
        second = write_dicom(tmp_path / "scan", GRIDS["anisotropic"], self.UID[:-1] + "2", first=100)
        with pytest.raises(InputError, match="2 DICOM series: pick one"):
            Volume.read(tmp_path / "scan")
        with pytest.raises(InputError, match=r"no DICOM series 1\.2\.3"):
            Volume.read(f"{tmp_path / 'scan'}#1.2.3")
        found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(tmp_path / "scan"))
        (uid,) = [u for u in found if u.startswith(self.UID[:-1] + "2")]
        assert np.array_equal(Volume.read(f"{tmp_path / 'scan'}#{uid}").array[0], second)

    def test_a_folder_without_is_refused(self, tmp_path, capfd):
        (tmp_path / "note.txt").write_text("no image", encoding="utf-8")
        with pytest.raises(InputError, match="no DICOM series"):
            Volume.read(tmp_path)
        assert capfd.readouterr() == ("", "")  # the error says it all
        assert sitk.ProcessObject.GetGlobalWarningDisplay()

    def test_a_damaged_series_is_refused(self, tmp_path):
        write_dicom(tmp_path / "scan", GRIDS["anisotropic"], self.UID)
        file = next((tmp_path / "scan").iterdir())
        file.write_bytes(file.read_bytes()[:-200])
        with pytest.raises(InputError, match="missing or damaged"):
            Volume.read(tmp_path / "scan")

    def test_one_slice_is_a_2d_image(self, tmp_path):
        write_dicom(tmp_path / "scan", GRIDS["anisotropic"], self.UID)
        volume = Volume.read(next((tmp_path / "scan").iterdir()))
        assert volume.grid.size == (*GRIDS["anisotropic"].size[:2], 1)


class TestRefusals:
    def test_missing(self, tmp_path):
        with pytest.raises(InputError, match="no file"):
            Volume.read(tmp_path / "absent.nrrd")

    @pytest.mark.parametrize("name", ["a.nrrd", "a.nii.gz", "a.mha", "a.png", "a.dcm", "a.txt", "a"])
    def test_not_an_image(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"certainly not an image\n" * 20)
        with pytest.raises(InputError, match="cannot be read as an image"):
            Volume.read(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.nrrd", "a.nii.gz", "a.mha", "a.nii", "a.png", "a.tif"])
    def test_truncated(self, tmp_path, name):
        noise = np.random.default_rng(0).integers(0, 255, (1, 16, 16, 16), dtype=np.uint8)
        if name.endswith((".png", ".tif")):
            sitk.WriteImage(sitk.GetImageFromArray(noise[0, 0].repeat(20, 0).repeat(20, 1)), str(tmp_path / name))
        else:
            Volume(noise, Grid.regular((16, 16, 16))).write(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="damaged"):
            Volume.read(tmp_path / name)

    def test_colour_in_a_volume(self, tmp_path):
        colour = sitk.GetImageFromArray(np.zeros((4, 6, 10, 3), np.uint8), isVector=True)
        sitk.WriteImage(colour, str(tmp_path / "a.nrrd"))
        with pytest.raises(InputError, match="3 values a voxel"):
            Volume.read(tmp_path / "a.nrrd")

    def test_complex(self, tmp_path):
        sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkComplexFloat32), str(tmp_path / "a.nii"))
        with pytest.raises(InputError, match="complex"):
            Volume.read(tmp_path / "a.nii")

    @pytest.mark.parametrize("axis", ["(0,0,2)", "(0,0,0)"])
    def test_singular_axes(self, tmp_path, axis):
        header = (
            "NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 2 2\n"
            f"space directions: {axis} (0,1,0) (0,0,1)\nencoding: raw\nspace origin: (0,0,0)\n\n"
        )
        (tmp_path / "a.nrrd").write_bytes(header.encode() + bytes(8))
        with pytest.raises(InputError, match=r"header|cannot be read"):
            Volume.read(tmp_path / "a.nrrd")

    @pytest.mark.parametrize("spacing", ["0", "-1"])
    def test_spacing_in_text_headers(self, tmp_path, spacing):
        meta = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementSpacing = {} 1 1\nElementType = MET_UCHAR\n"
        nrrd = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nspacings: {} 1 1\nencoding: raw\n\n"
        (tmp_path / "a.mha").write_bytes(f"{meta.format(spacing)}ElementDataFile = LOCAL\n".encode() + bytes(8))
        (tmp_path / "a.nrrd").write_bytes(nrrd.format(spacing).encode() + bytes(8))
        for name in ("a.mha", "a.nrrd"):
            with pytest.raises(InputError, match=r"spacing that is not positive|cannot be read"):
                Volume.read(tmp_path / name)

    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("spacing", [0.0, -2.0, float("nan")])
    def test_spacing_in_nifti(self, tmp_path, ending, spacing):
        # ITK takes 1 mm for a spacing that is zero or no number.
        whole_numbers(GRIDS["regular"]).write(tmp_path / "whole.nii")
        content = bytearray((tmp_path / "whole.nii").read_bytes())
        struct.pack_into("<f", content, 84, spacing)
        opened = gzip.open if ending == ".nii.gz" else open
        with opened(tmp_path / f"a{ending}", "wb") as handle:
            handle.write(content)
        with pytest.raises(InputError, match="spacing that is not positive"):
            Volume.read(tmp_path / f"a{ending}")

    def test_big_endian_nifti_is_read_and_checked(self, tmp_path):
        nibabel = pytest.importorskip("nibabel")
        header = nibabel.Nifti1Header(endianness=">")
        header.set_xyzt_units("mm")
        image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4), header)
        nibabel.save(image, tmp_path / "a.nii.gz")
        assert Volume.read(tmp_path / "a.nii.gz").array.max() == 59
        whole = gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(whole[:-2]))
        with pytest.raises(InputError, match="ends before its last voxel"):
            Volume.read(tmp_path / "a.nii.gz")

    def test_displacement_that_ends_early(self, tmp_path):
        Transform((DisplacementField.zero(GRIDS["regular"]),)).write(tmp_path / "u.nii.gz")
        whole = gzip.decompress((tmp_path / "u.nii.gz").read_bytes())
        (tmp_path / "u.nii.gz").write_bytes(gzip.compress(whole[:-2]))
        with pytest.raises(InputError, match="ends before its last voxel"):
            Transform.read(tmp_path / "u.nii.gz")


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_point_has_the_value_of_the_voxel_that_holds_it(grid):
    array = np.arange(np.prod(grid.shape), dtype=np.int32).reshape(1, *grid.shape) + 1
    index = np.argwhere(array[0] > 0)[::7, ::-1]
    points = grid.physical(index + np.random.default_rng(0).uniform(-0.45, 0.45, index.shape))
    values, inside = Volume(array, grid).nearest(points)
    assert inside.all()
    np.testing.assert_array_equal(values, array[0].ravel()[::7])
    values, inside = Volume(array, grid).nearest(grid.physical(np.array([[-0.6] * grid.dimension, grid.size])))
    assert not inside.any()
    assert not values.any()
