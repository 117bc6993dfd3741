"""A file is complete or absent, whatever happens while it is written."""

from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from geometry import GRIDS, smooth_field

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io.files import complete, suffix_of
from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Grid, Volume


@contextmanager
def full_after(limit: int):
    """No file may grow beyond `limit` bytes: what a full disk does, for this process only."""
    resource = pytest.importorskip("resource", reason="this system has no limit on the size of files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise() -> Volume:
    """An image that does not compress."""
    values = np.random.default_rng(0).random((1, 20, 20, 20)).astype(np.float32)
    return Volume(values, Grid.regular((20, 20, 20)))


def test_endings_of_two_parts_are_one_ending():
    assert [suffix_of(Path(n)) for n in ("a.NII.gz", "a.seq.nrrd", "a.mrk.json", "a.b.h5", "a")] == [
        ".nii.gz",
        ".seq.nrrd",
        ".mrk.json",
        ".h5",
        "",
    ]


def test_the_file_appears_when_the_block_has_ended_well(tmp_path):
    with complete(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("whole", encoding="utf-8")
        assert temporary.suffix == ".txt"
        assert not (tmp_path / "new" / "a.txt").exists()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"]
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "whole"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permission bits")
def test_others_may_read_it_as_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with complete(tmp_path / "ours"):
        pass
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, RuntimeError, MemoryError])
def test_an_interrupted_block_leaves_the_old_file(tmp_path, error):
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    with pytest.raises(error), complete(tmp_path / "a.txt") as temporary:  # noqa: PT012
        temporary.write_text("ne", encoding="utf-8")
        raise error("in the middle")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"


@pytest.mark.skipif(sys.platform == "win32", reason="clears by age")
@pytest.mark.parametrize("name", ["a.nrrd", "a [1]*.nii.gz", "t.h5"])
def test_what_a_killed_writer_left_is_cleared_and_nothing_else(tmp_path, name):
    others = {".b.abcd_123", f".{name}.backup", f".{name}", "other"}
    for each in (*others, f".{name}.abcd_123"):
        (tmp_path / each).mkdir()
    with complete(tmp_path / name) as first, complete(tmp_path / name) as second:  # what is held stays
        first.write_text("first", encoding="utf-8")
        second.write_text("second", encoding="utf-8")
    assert {file.name for file in tmp_path.iterdir()} == {name, *others}
    assert (tmp_path / name).read_text(encoding="utf-8") == "first"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Cannot write"), complete(tmp_path / "file" / "a.txt"):
        pass


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", denied)
    with pytest.raises(InputError, match=r"Cannot write .*Permission denied.*another"):
        noise().write(tmp_path / "a.nrrd")


def test_a_folder_of_that_name_is_refused(tmp_path):
    (tmp_path / "a.nrrd").mkdir()
    with pytest.raises(InputError, match="Cannot write"):
        noise().write(tmp_path / "a.nrrd")
    assert [p.name for p in tmp_path.iterdir()] == ["a.nrrd"]


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii", ".nii.gz", ".vtk"])
def test_a_full_disk_leaves_no_image(tmp_path, ending):
    with full_after(5000), pytest.raises(InputError, match="Cannot write"):
        noise().write(tmp_path / f"a{ending}")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_text_transform(tmp_path):
    # ITK's text writers do not notice.
    with full_after(5000), pytest.raises(InputError, match="Cannot write"):
        Transform((smooth_field(GRIDS["oblique"]),)).write(tmp_path / "t.tfm")
    assert not list(tmp_path.iterdir())


def test_a_nearly_full_disk_is_refused_before_hdf5_can_fail(tmp_path, monkeypatch):
    # A failed write brings the HDF5 library down when the process ends.
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="Cannot write"):
        Transform((smooth_field(GRIDS["oblique"]),)).write(tmp_path / "t.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.png", "a.bmp"])
def test_a_format_that_cannot_hold_the_image_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"use \.nrrd"):
        noise().write(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.mhd", "a.nhdr", "a.hdr", "a.img"])
def test_formats_of_two_files_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="two files"):
        noise().write(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_displacement_in_two_files_is_refused(tmp_path):
    with pytest.raises(InputError, match="two files"):
        Transform((smooth_field(GRIDS["regular"]),)).write(tmp_path / "u.mhd")


def test_what_was_written_is_compressed(tmp_path):
    Volume(np.zeros((1, 30, 30, 30), np.float32), Grid.regular((30, 30, 30))).write(tmp_path / "a.nrrd")
    assert (tmp_path / "a.nrrd").stat().st_size < 2000
    assert sitk.ReadImage(str(tmp_path / "a.nrrd")).GetSize() == (30, 30, 30)
