"""Everything a user can do wrong: exit status 2 (3 without memory), one line that says what to do, nothing written."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RecurrentRegistrationLib.cli import run
from RecurrentRegistrationLib.pipeline import plan, recorder
from RecurrentRegistrationLib.volume import Volume

QUICK = ["--linear", "none", "--initial", "none", "--steps", "2", "--device", "cpu"]


def array(shape: tuple[int, ...] = (8, 9, 10)) -> np.ndarray:
    """Some image."""
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def header(path: Path, **fields: str) -> Path:
    """A MetaImage with whatever its header shall say."""
    known = {"ObjectType": "Image", "NDims": "3", "DimSize": "10 9 8", "ElementType": "MET_FLOAT"}
    lines = [f"{name} = {value}" for name, value in (known | fields | {"ElementDataFile": "LOCAL"}).items()]
    path.write_bytes(("\n".join(lines) + "\n").encode() + array().tobytes())
    return path


def spoiled(value: float) -> sitk.Image:
    """An image with one bad voxel."""
    values = array()
    values[3, 4, 5] = value
    return sitk.GetImageFromArray(values)


def written(image: sitk.Image, path: Path) -> Path:
    """The file of an image."""
    sitk.WriteImage(image, str(path))
    return path


def text(path: Path) -> Path:
    """A file that is not an image."""
    path.write_text("not an image at all\n" * 20, encoding="utf-8")
    return path


def cut(path: Path) -> Path:
    """An image file that ends early."""
    written(sitk.GetImageFromArray(array((30, 30, 30))), path)
    path.write_bytes(path.read_bytes()[:3000])
    return path


MOVING: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "absent.nrrd", "no file"),
    "damaged": (lambda folder: cut(folder / "cut.nrrd"), "damaged"),
    "not an image": (lambda folder: text(folder / "notes.txt"), "cannot be read"),
    "named like an image": (lambda folder: text(folder / "notes.nrrd"), "cannot be read"),
    "folder without images": (lambda folder: folder, "no DICOM"),
    "NaN": (lambda folder: written(spoiled(np.nan), folder / "nan.nrrd"), "NaN"),
    "infinite": (lambda folder: written(spoiled(np.inf), folder / "inf.nrrd"), "NaN or infinite"),
    "constant": (lambda folder: written(sitk.Image(9, 9, 9, sitk.sitkFloat32), folder / "flat.nrrd"), "constant"),
    "2D with 3D": (lambda folder: written(sitk.GetImageFromArray(array((9, 10))), folder / "2d.nrrd"), "2D"),
    "RGB": (lambda folder: written(sitk.Image([9, 9, 9], sitk.sitkVectorUInt8, 3), folder / "rgb.nrrd"), "colour"),
    "4D": (
        lambda folder: written(sitk.JoinSeries([sitk.GetImageFromArray(array())] * 3), folder / "4d.nrrd"),
        r"4d\.nrrd#0",
    ),
    "frame that is not there": (
        lambda folder: f"{written(sitk.JoinSeries([sitk.GetImageFromArray(array())] * 3), folder / '4d.nrrd')}#3",
        "0 to 2",
    ),
    "zero spacing": (lambda folder: header(folder / "zero.mha", ElementSpacing="1 0 1"), "spacing"),
    "negative spacing": (lambda folder: header(folder / "minus.mha", ElementSpacing="1 -2 1"), "spacing"),
    "singular direction": (
        lambda folder: header(folder / "flat.mha", TransformMatrix="1 0 0 0 1 0 1 1 0"),
        "direction|damaged",
    ),
}


def refused(
    line: list[object], capsys: pytest.CaptureFixture[str], output: Path, message: str, status: int = 2
) -> None:
    """The command line fails with one line that matches, and leaves nothing behind."""
    assert run([str(word) for word in line]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    errors = [each for each in printed.err.splitlines() if each.startswith("error: ")]
    assert len(errors) == 1
    assert printed.err.splitlines()[-1] == errors[0]
    assert re.search(message, errors[0])
    assert not list(output.iterdir())


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An empty folder that must stay so."""
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", MOVING)
def test_unusable_moving_image(name, images, tmp_path, output, capsys):
    make, message = MOVING[name]
    line = ["register", images / "fixed.nrrd", make(tmp_path), "-o", output / "deep" / "out", *QUICK, "-q"]
    refused(line, capsys, output, message)


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_empty_mask(role, images, output, tmp_path, capsys):
    mask = Volume.read(images / "mask.nrrd")
    Volume(np.zeros_like(mask.array), mask.grid).write(tmp_path / "empty.nrrd")
    line = ["register", images / "fixed.nrrd", images / "moving.nrrd", "-o", output / "out", *QUICK]
    refused([*line, f"--{role}-mask", tmp_path / "empty.nrrd"], capsys, output, f"mask of the {role} image is empty")


def test_mask_elsewhere(images, output, tmp_path, capsys):
    mask = sitk.ReadImage(str(images / "mask.nrrd"))
    mask.SetOrigin((5000, 0, 0))
    sitk.WriteImage(mask, str(tmp_path / "far.nrrd"))
    line = ["register", images / "fixed.nrrd", images / "moving.nrrd", "-o", output / "out", *QUICK]
    refused([*line, "--fixed-mask", tmp_path / "far.nrrd"], capsys, output, "do not overlap")


def test_the_same_file_twice_is_a_warning(images, output, tmp_path, capsys):
    copy = tmp_path / "copy.nrrd"
    copy.write_bytes((images / "fixed2d.nrrd").read_bytes())
    line = ["register", images / "fixed2d.nrrd", copy, "-o", output / "out", *QUICK]
    assert run([str(word) for word in line]) == 0
    assert "warning: the fixed and the moving image are the same." in capsys.readouterr().err


def test_no_overlap_and_no_initial_alignment(images, output, tmp_path, capsys):
    moving = sitk.ReadImage(str(images / "moving.nrrd"))
    moving.SetOrigin((900, 0, 0))
    sitk.WriteImage(moving, str(tmp_path / "far.nrrd"))
    line = ["register", images / "fixed.nrrd", tmp_path / "far.nrrd", "-o", output / "out", "--initial", "none"]
    refused([*line, "--steps", "2"], capsys, output, "do not overlap.*--initial|do not overlap.*initial")
    refused([*line, "--steps", "2", "--linear", "none"], capsys, output, "do not overlap")


@pytest.mark.parametrize(
    ("option", "value", "valid"),
    [
        ("--method", "magic", "refine"),
        ("--preset", "pet", "ct-lung"),
        ("--device", "tpu", "cpu"),
        ("--device", "cuda:77", "cpu"),
        ("--initial", "luck", "moments"),
        ("--linear", "cubic", "rigid"),
        ("--interpolation", "sharp", "bspline"),
        ("--steps", "0", "1"),
        ("--steps", "many", "integer"),
        ("--spacing", "-1", "positive"),
        ("--colour", "red", "No such option"),
    ],
)
def test_unknown_settings_list_the_valid_ones(option, value, valid, images, output, capsys):
    line = ["register", images / "fixed2d.nrrd", images / "moving2d.nrrd", "-o", output / "out", "--linear", "none"]
    refused([*line, option, value], capsys, output, valid)


@pytest.mark.parametrize("line", [["register"], ["register", "a.nrrd"], ["unknown"], ["apply", "a", "b", "-o", "c"]])
def test_incomplete_command_lines(line, output, capsys):
    refused(line, capsys, output, "Missing|No such command")


def test_commands_refuse_what_does_not_fit(images, output, tmp_path, capsys):
    shift = tmp_path / "shift.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(3, (1, 2, 3)), str(shift))
    (tmp_path / "two.csv").write_text("1,2,3\n4,5,6\n", encoding="utf-8")
    (tmp_path / "one.csv").write_text("1,2,3\n", encoding="utf-8")
    fixed, moving, flat = images / "fixed.nrrd", images / "moving.nrrd", images / "fixed2d.nrrd"
    out = output / "out.nrrd"
    refused(["apply", flat, shift, "-r", fixed, "-o", out], capsys, output, "must agree")
    flat_shift = tmp_path / "shift2d.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(2, (1, 2)), str(flat_shift))
    refused(["apply", moving, shift, flat_shift, "-r", fixed, "-o", out], capsys, output, "2D and 3D")
    refused(["apply", moving, flat_shift, "-r", flat, "-o", out], capsys, output, "must agree.*--slices")
    refused(["apply", moving, shift, tmp_path / "no.h5", "-r", fixed, "-o", out], capsys, output, "no file.*no.h5")
    refused(["apply", moving, "-r", fixed, "-o", out], capsys, output, "Missing argument.*TRANSFORM")
    refused(["apply", moving, tmp_path / "no.h5", "-r", fixed, "-o", out], capsys, output, "no file")
    refused(["apply", moving, text(tmp_path / "a.h5"), "-r", fixed, "-o", out], capsys, output, "transform")
    refused(["apply", moving, shift, "-r", fixed, "-o", output / "out.docx"], capsys, output, "ending|format")
    refused(["apply", moving, shift, "-r", fixed, "-o", out, "--interpolation", "x"], capsys, output, "bspline")
    refused(["points", tmp_path / "one.csv", shift, "-o", output / "out.docx"], capsys, output, "ends in neither")
    refused(["points", moving, shift, "-o", output / "out.csv"], capsys, output, "ends in neither")
    evaluate = ["evaluate", shift, "--fixed"]
    refused([*evaluate, flat], capsys, output, "3D.*2D")
    refused([*evaluate, fixed, "--fixed-labels", images / "labels.nrrd"], capsys, output, "needed together")
    points = ["--fixed-points", tmp_path / "two.csv", "--moving-points", tmp_path / "one.csv"]
    refused([*evaluate, fixed, *points], capsys, output, "2 fixed and 1 moving")


def test_a_place_that_cannot_be_written(images, output, tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in (tmp_path / "file", tmp_path / "file" / "out"):
        line = ["register", images / "fixed2d.nrrd", images / "moving2d.nrrd", "-o", place, *QUICK]
        refused(line, capsys, output, "Cannot write")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(images, output, tmp_path, capsys):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    line = ["register", images / "fixed2d.nrrd", images / "moving2d.nrrd", "-o", closed / "out", *QUICK]
    refused(line, capsys, output, "Cannot write")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("limit", [3000, 30_000, 100_000])
def test_a_full_disk(limit, images, output, command):
    import resource

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    line = ["register", images / "fixed.nrrd", images / "moving.nrrd", "-o", output / "out", *QUICK, "-q"]
    done = command(*line, preexec_fn=small)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: Cannot write")
    assert not list(output.iterdir())


def test_too_little_memory_for_any_grid(images, output, capsys, monkeypatch):
    monkeypatch.setattr(plan.memory, "available", lambda device: 2**20)
    line = ["register", images / "fixed.nrrd", images / "moving.nrrd", "-o", output / "out", *QUICK, "-q"]
    refused(line, capsys, output, "memory", status=3)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")])
def test_memory_that_runs_out_under_way(error, images, output, capsys, monkeypatch):
    def exhausted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(recorder.spatial, "jacobian_determinant", exhausted)
    line = ["register", images / "fixed.nrrd", images / "moving.nrrd", "-o", output / "out", *QUICK, "-q"]
    refused(line, capsys, output, "memory", status=3)
