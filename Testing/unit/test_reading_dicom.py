"""DICOM read right, or refused in one true sentence: places, times, slopes, folders of more than one volume."""

from __future__ import annotations

import re

import numpy as np
import pydicom
import pytest
from dicom_made import FLAT, enhanced_file, slice_file, told, voxels

from RecurrentRegistrationLib.errors import InputError, InputWarning
from RecurrentRegistrationLib.volume import Volume

STRAIGHT = [(0.0, 0.0, 2.0 * k) for k in range(6)]
_TILT = np.deg2rad(15)
TILTED = (1.0, 0.0, 0.0, 0.0, float(np.cos(_TILT)), float(-np.sin(_TILT)))
_TURN = np.deg2rad(20)
TURNED = (float(np.cos(_TURN)), float(np.sin(_TURN)), 0.0, float(-np.sin(_TURN)), float(np.cos(_TURN)), 0.0)

GEOMETRIES = {
    "square": (STRAIGHT, FLAT),
    "gantry tilted": (STRAIGHT, TILTED),
    "table that sinks": ([(0.0, 0.4 * k, 2.0 * k) for k in range(6)], FLAT),
    "drifting both ways": ([(0.7 * k - 3, -0.3 * k, 2.0 * k + 40) for k in range(6)], TURNED),
    "positions rounded to a tenth": ([(0.0, 0.0, round(0.625 * k, 1)) for k in range(6)], FLAT),
}


def folder_of(folder, positions, orientation=FLAT, **more):
    for k, position in enumerate(positions):
        slice_file(folder / f"{k:02}.dcm", voxels()[k % 6], position, orientation=orientation, number=k + 1, **more)
    return folder


class TestPlaces:
    @pytest.mark.parametrize("name", GEOMETRIES)
    @pytest.mark.parametrize("kind", ["slices", "multi-frame"])
    def test_every_voxel_lies_where_its_file_says(self, tmp_path, kind, name):
        positions, orientation = GEOMETRIES[name]
        if kind == "slices":
            source = folder_of(tmp_path / "scan", positions, orientation)
        else:
            source = enhanced_file(tmp_path / "scan.dcm", voxels(), positions, orientation=orientation)
        volume = Volume.read(source)
        for k, row, column in ((0, 0, 0), (5, 0, 0), (5, 7, 6), (3, 4, 2)):
            (place,) = np.argwhere(volume.array[0] == voxels()[k, row, column])
            expected = told(positions[k], orientation, row, column)
            assert np.allclose(volume.grid.physical(place[::-1]), expected, atol=0.06)

    @pytest.mark.parametrize("kind", ["slices", "multi-frame"])
    @pytest.mark.parametrize(
        ("positions", "sentence"),
        [
            ([p for k, p in enumerate(STRAIGHT) if k != 3], "2 to 4 mm apart: some are missing"),
            ([(0.0, 0.3 * k * k, 2.0 * k) for k in range(6)], "shifted unevenly"),
            ([(0.5 * (k % 2), 0.0, 2.0 * k) for k in range(6)], "shifted unevenly"),
        ],
    )
    def test_what_has_no_straight_axes_is_refused(self, tmp_path, kind, positions, sentence):
        if kind == "slices":
            source = folder_of(tmp_path / "scan", positions)
        else:
            source = enhanced_file(tmp_path / "scan.dcm", voxels(len(positions)), positions)
        with pytest.raises(InputError, match=sentence):
            Volume.read(source)

    def test_frames_against_the_normal_keep_their_order(self, tmp_path):
        source = enhanced_file(tmp_path / "scan.dcm", voxels(), STRAIGHT[::-1])
        volume = Volume.read(source)
        assert np.array_equal(volume.array[0], voxels())
        assert np.allclose(volume.grid.physical([0, 0, 0]), STRAIGHT[-1])

    def test_a_sheared_image_comes_back_from_files_that_can_hold_it(self, tmp_path):
        volume = Volume.read(folder_of(tmp_path / "scan", STRAIGHT, TILTED))
        for ending in (".nrrd", ".mha"):
            volume.write(tmp_path / f"a{ending}")
            assert Volume.read(tmp_path / f"a{ending}").grid.almost_equal(volume.grid, 1e-3)
        for ending in (".nii", ".nii.gz", ".vtk"):
            with pytest.raises(InputError, match=r"oblique to each other.*\.nrrd"):
                volume.write(tmp_path / f"a{ending}")
            assert not (tmp_path / f"a{ending}").exists()


class TestSlopes:
    @pytest.mark.parametrize("kind", ["slices", "multi-frame"])
    @pytest.mark.parametrize(
        "slopes", [[1, 0.25, 0.25, 0.5, 1, 2], [1, 300, 300, 300, 300, 300], [0.5] * 3 + [0.1] * 3]
    )
    def test_every_slice_has_its_own(self, tmp_path, kind, slopes):
        if kind == "slices":
            for k, slope in enumerate(slopes):
                slice_file(tmp_path / "scan" / f"{k}.dcm", voxels()[k], STRAIGHT[k], slope=slope)
            source = tmp_path / "scan"
        else:
            source = enhanced_file(tmp_path / "scan.dcm", voxels(), STRAIGHT, slopes=slopes)
        assert np.allclose(Volume.read(source).array[0], voxels() * np.array(slopes)[:, None, None], atol=1e-3)

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("frames", [1, 6])
    def test_a_dose_is_in_its_unit(self, tmp_path, frames, packed):
        source = enhanced_file(tmp_path / "dose.dcm", voxels()[:frames], STRAIGHT[:frames])
        data = pydicom.dcmread(source)
        data.DoseGridScaling = 1e-3
        for group in data.PerFrameFunctionalGroupsSequence:
            del group.PixelValueTransformationSequence
        if packed:
            data.compress(pydicom.uid.RLELossless)
        data.save_as(source)
        assert np.allclose(Volume.read(source).array[0], voxels()[:frames] * 1e-3, atol=1e-6)

    def test_values_that_are_turned_round_are_said_to_be(self, tmp_path):
        folder = folder_of(tmp_path / "scan", STRAIGHT, PhotometricInterpretation="MONOCHROME1")
        with pytest.warns(InputWarning, match="MONOCHROME1"):
            found = Volume.read(folder).array[0]
        assert np.ptp(found + voxels().astype(int)) == 0


class TestSeveral:
    """Folders of more than one image: what is repeated is said, and one is picked by its number."""

    def times(self, folder, count, positions=STRAIGHT, **varying):
        for t in range(count):
            for k, position in enumerate(positions):
                more = {name: values[t] for name, values in varying.items()}
                number = 1 + t * len(positions) + k
                slice_file(folder / f"{number:03}.dcm", voxels()[k] + 1000 * t, position, number=number, **more)
        return folder

    @pytest.mark.parametrize(
        ("count", "slices", "varying", "sentence"),
        [
            (2, 6, {"EchoTime": [5.0, 10.0]}, r"2 images at each of 6 positions \(echo time 5, 10 ms\)"),
            (2, 6, {}, "2 images at each of 6 positions: pick one"),
            (5, 4, {"TemporalPositionIdentifier": [1, 2, 3, 4, 5]}, r"5 images at each of 4 positions \(time point 1"),
            (6, 1, {"TriggerTime": [0.0, 10, 20, 30, 40, 50]}, r"6 images of one position \(trigger time 0, 10"),
        ],
    )
    def test_one_is_picked_by_its_number_and_all_are_a_sequence(self, tmp_path, count, slices, varying, sentence):
        folder = self.times(tmp_path / "scan", count, STRAIGHT[:slices], **varying)
        with pytest.raises(InputError, match=sentence):
            Volume.read(folder)
        for t in (0, count - 1):
            assert np.array_equal(Volume.read(f"{folder}#{t}").array[0], voxels()[:slices] + 1000 * t)
            assert np.array_equal(Volume.read(f"{folder}#1.2.3.2#{t}").array[0], voxels()[:slices] + 1000 * t)
        sequence = Volume.read_sequence(folder)
        assert [int(v.array.min()) for v in sequence] == [1000 * t for t in range(count)]
        with pytest.raises(InputError, match=f"no volume {count}; its volumes are 0 to {count - 1}"):
            Volume.read(f"{folder}#{count}")

    def test_multi_frame_over_time(self, tmp_path):
        frames = np.concatenate([voxels(), voxels() + 1000])
        source = enhanced_file(tmp_path / "scan.dcm", frames, STRAIGHT * 2)
        with pytest.raises(InputError, match="2 images at each of 6 positions"):
            Volume.read(source)
        assert np.array_equal(Volume.read(f"{source}#1").array[0], voxels() + 1000)

    @pytest.mark.parametrize(
        ("extra", "sentence"),
        [
            ({"position": STRAIGHT[2]}, r"7 slices at 6 positions: some are repeated, for example 02\.dcm and x"),
            (
                {"position": (1, 1, 1), "orientation": (0, 1, 0, 0, 0, -1)},
                r"2 orientations \(6 and 1 slices\).*localizer",
            ),
            ({"position": (0, 0, 12), "pixels": np.zeros((5, 5))}, "slices of 2 sizes"),
            ({"position": (0, 0, 12), "PixelSpacing": [2, 2]}, "2 pixel spacings"),
        ],
    )
    def test_what_does_not_belong_is_named(self, tmp_path, extra, sentence):
        folder = folder_of(tmp_path / "scan", STRAIGHT)
        slice_file(folder / "x.dcm", extra.pop("pixels", voxels()[0]), number=9, **extra)
        with pytest.raises(InputError, match=sentence) as caught:
            Volume.read(folder)
        assert not re.search("missing|damaged", str(caught.value))


class TestDamaged:
    @pytest.mark.parametrize("keep", [0, 60, 500, -60])
    def test_a_slice_that_is_cut_is_not_left_out(self, tmp_path, keep):
        folder = folder_of(tmp_path / "scan", STRAIGHT)
        last = folder / "05.dcm"
        last.write_bytes(last.read_bytes()[:keep])
        with pytest.raises(InputError, match=r"05\.dcm.*damaged"):
            Volume.read(folder)

    def test_a_multi_frame_file_that_is_cut_is_refused(self, tmp_path):
        source = enhanced_file(tmp_path / "scan.dcm", voxels(), STRAIGHT)
        source.write_bytes(source.read_bytes()[:-300])
        with pytest.raises(InputError, match="damaged"):
            Volume.read(source)

    def test_a_folder_of_folders_names_the_one_with_images(self, tmp_path):
        folder_of(tmp_path / "series 3", STRAIGHT)
        with pytest.raises(InputError, match="its folder series 3 does"):
            Volume.read(tmp_path)

    def test_other_files_in_the_folder_do_not_matter(self, tmp_path):
        folder = folder_of(tmp_path / "scan", STRAIGHT)
        (folder / "README.txt").write_text("about this scan", encoding="utf-8")
        (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        assert np.array_equal(Volume.read(folder).array[0], voxels())
