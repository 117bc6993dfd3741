"""The commands: what they write, print and return; and what they write is right for plain SimpleITK."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RecurrentRegistrationLib.cli import run
from RecurrentRegistrationLib.points import Points, read_points, write_points
from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Volume

FILES = ["displacement.nrrd", "jacobian.nrrd", "report.json", "report.png", "transform.h5", "warped.nrrd"]
QUICK = ["--linear", "none", "--initial", "none", "--steps", "8", "--device", "cpu"]


@pytest.fixture(scope="module", params=["2d", ""], ids=["2D", "3D"])
def result(request, images, tmp_path_factory) -> tuple[str, Path]:
    """What ends the names of the images, and a folder of results of a short registration."""
    end, folder = request.param, tmp_path_factory.mktemp("result") / "out"
    line = ["register", images / f"fixed{end}.nrrd", images / f"moving{end}.nrrd", "-o", folder, "-q", "--save-steps"]
    assert run([*map(str, line), *QUICK]) == 0
    return end, folder


def test_register_writes_what_it_promises(result):
    _, folder = result
    assert sorted(file.name for file in folder.iterdir()) == sorted([*FILES, "steps.seq.nrrd"])
    assert not list(folder.parent.glob(".*"))  # no temporary folder is left


def test_plain_simpleitk_reproduces_the_warped_image(result, images):
    end, folder = result
    fixed, moving = (sitk.ReadImage(str(images / f"{name}{end}.nrrd")) for name in ("fixed", "moving"))
    transform = sitk.ReadTransform(str(folder / "transform.h5"))
    background = float(sitk.GetArrayViewFromImage(moving).min())
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, background))
    warped = sitk.ReadImage(str(folder / "warped.nrrd"))
    assert np.allclose(sitk.GetArrayFromImage(warped), expected, atol=1e-3)
    assert (warped.GetSize(), warped.GetOrigin()) == (fixed.GetSize(), fixed.GetOrigin())


def test_displacement_and_transform_are_one_map(result, images):
    end, folder = result
    grid = Volume.read(images / f"fixed{end}.nrrd").grid
    points = grid.physical(np.argwhere(np.ones(grid.size))[::37])
    first, second = (Transform.read(folder / name).map_points(points) for name in ("transform.h5", "displacement.nrrd"))
    assert np.allclose(first, second, atol=1e-3)
    assert np.abs(first - points).max() > 0.5  # and it is not the identity


def test_the_report_tells_everything(result, images):
    end, folder = result
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["inputs"]["fixed"]["path"] == str(images / f"fixed{end}.nrrd")
    assert len(report["inputs"]["moving"]["sha256"]) == 64
    assert {"method", "preset", "device", "seed", "versions", "seconds", "peak_memory_bytes"} <= report.keys()
    assert [step["index"] for step in report["steps"]] == list(range(1, 9))
    fields = {"index", "phase", "stage", "similarity", "mean_update_mm", "folding", "seconds"}
    assert report["steps"][0].keys() == fields
    assert report["folding"] == 0
    jacobian = Volume.read(folder / "jacobian.nrrd").array
    assert report["jacobian"]["min"] == pytest.approx(float(jacobian.min()), abs=1e-4)
    assert report["jacobian"]["max"] == pytest.approx(float(jacobian.max()), abs=1e-4)


def test_registration_helps_and_evaluate_says_so(result, images, capsys):
    end, folder = result
    line = ["evaluate", folder / "transform.h5", "--fixed", images / f"fixed{end}.nrrd"]
    line += ["--moving", images / f"moving{end}.nrrd", "--fixed-mask", images / f"mask{end}.nrrd"]
    line += ["--fixed-labels", images / f"labels{end}.nrrd", "--moving-labels", images / f"labels{end}.nrrd"]
    assert run(list(map(str, line))) == 0
    report = json.loads(capsys.readouterr().out)
    similarity, overlap = report["similarity"], report["overlap"]
    assert similarity["after"]["correlation"] > similarity["before"]["correlation"]
    assert similarity["after"]["root_mean_squared_error"] < similarity["before"]["root_mean_squared_error"]
    assert overlap["before"]["mean"]["dice"] == 1  # the same labels twice, so that the transform parts them
    assert overlap["after"]["mean"]["dice"] < 1
    assert overlap["after"]["mean"]["hausdorff_mm"] > 0
    assert report["folding"]["everywhere"]["voxels"] == report["folding"]["mask"]["voxels"] == 0
    assert report["inverse_residual_mm"]["mean"] < 0.1


def test_points_go_there_and_back(result, images, tmp_path, capsys):
    end, folder = result
    grid = Volume.read(images / f"fixed{end}.nrrd").grid
    given = Points(grid.centre + np.array([[0.0] * grid.dimension, [4.0] * grid.dimension]), ("a", "b"))
    write_points(given, tmp_path / "fixed.csv")
    transform = str(folder / "transform.h5")
    assert run(["points", str(tmp_path / "fixed.csv"), transform, "-o", str(tmp_path / "moving.fcsv")]) == 0
    moved = read_points(tmp_path / "moving.fcsv").in_dimension(grid.dimension)
    assert np.allclose(moved.positions, Transform.read(transform).map_points(given.positions))
    assert run(["points", str(tmp_path / "moving.fcsv"), transform, "-o", str(tmp_path / "back.csv"), "--invert"]) == 0
    assert np.allclose(read_points(tmp_path / "back.csv").positions, given.positions, atol=0.05)

    line = ["evaluate", transform, "--fixed", str(images / f"fixed{end}.nrrd")]
    line += ["--fixed-points", str(tmp_path / "fixed.csv"), "--moving-points", str(tmp_path / "moving.fcsv")]
    assert run(line) == 0
    landmarks = json.loads(capsys.readouterr().out)["landmarks_mm"]
    assert landmarks["after"]["maximum"] < 1e-6 < landmarks["before"]["mean"]


def test_apply_warps_images_and_labels_both_ways(result, images, tmp_path):
    end, folder = result
    fixed, moving, labels = (str(images / f"{name}{end}.nrrd") for name in ("fixed", "moving", "labels"))
    transform = str(folder / "transform.h5")
    line = ["apply", moving, transform, "-r", fixed, "-o", str(tmp_path / "warped.nrrd")]
    background = str(Volume.read(moving).array.min())
    assert run([*line, "--background", background]) == 0
    warped, written = Volume.read(tmp_path / "warped.nrrd"), Volume.read(folder / "warped.nrrd")
    assert np.allclose(warped.array, written.array, atol=1e-3)
    for mode in ("nearest", "label"):
        out = tmp_path / f"{mode}.nii.gz"
        assert run(["apply", labels, transform, "-r", fixed, "-o", str(out), "--interpolation", mode]) == 0
        values = Volume.read(out).array
        assert values.dtype == np.uint8
        assert set(np.unique(values)) == {0, 1, 2}
    back = [
        "apply",
        str(tmp_path / "warped.nrrd"),
        transform,
        "-r",
        moving,
        "-o",
        str(tmp_path / "back.nrrd"),
        "--invert",
    ]
    assert run(back) == 0
    inner = (0, *[slice(4, -4)] * Volume.read(moving).grid.dimension)
    original = Volume.read(moving).array[inner]
    forth, back = (Volume.read(tmp_path / f"{name}.nrrd").array[inner] for name in ("warped", "back"))
    assert np.abs(back - original).mean() < 0.5 * np.abs(forth - original).mean()


@pytest.fixture(scope="module")
def transforms(tmp_path_factory) -> Path:
    """A folder with a turn, a wave and a B-spline for the images in 3D, as other programs write them."""
    folder = tmp_path_factory.mktemp("transforms")
    sitk.WriteTransform(sitk.Euler3DTransform((0, 0, 0), 0.1, -0.2, 0.1, (3, -2, 1)), str(folder / "turn.tfm"))
    physical = sitk.PhysicalPointSource(sitk.sitkVectorFloat64, [20, 20, 20], [-22, -22, -22], [2.3, 2.3, 2.3])
    wave = sitk.Compose([2 * sitk.Sin(0.15 * sitk.VectorIndexSelectionCast(physical, n)) for n in (1, 2, 0)])
    sitk.WriteTransform(sitk.DisplacementFieldTransform(wave), str(folder / "wave.h5"))
    spline = sitk.BSplineTransformInitializer(sitk.Image([40, 42, 44], sitk.sitkUInt8), [4, 4, 4])
    spline.SetTransformDomainOrigin((-20, -21, -22))
    values = np.random.default_rng(0).uniform(-4, 4, len(spline.GetParameters()))
    spline.SetParameters(values.tolist())
    sitk.WriteTransform(spline, str(folder / "spline.tfm"))
    return folder


def chained(folder: Path, *names: str) -> sitk.CompositeTransform:
    """SimpleITK's own composite, the first of which takes the points first."""
    return sitk.CompositeTransform([sitk.ReadTransform(str(folder / name)) for name in reversed(names)])


@pytest.mark.parametrize("names", [("turn.tfm", "wave.h5"), ("wave.h5", "turn.tfm"), ("wave.h5", "spline.tfm")])
def test_apply_and_points_take_a_chain_in_the_order_of_the_points(names, transforms, images, tmp_path):
    expected = chained(transforms, *names)
    fixed, moving = (sitk.ReadImage(str(images / f"{name}.nrrd")) for name in ("fixed", "moving"))
    line = [str(transforms / name) for name in names]
    output = str(tmp_path / "warped.nrrd")
    assert run(["apply", str(images / "moving.nrrd"), *line, "-r", str(images / "fixed.nrrd"), "-o", output]) == 0
    found = sitk.GetArrayFromImage(sitk.ReadImage(output))
    assert np.allclose(found, sitk.GetArrayFromImage(sitk.Resample(moving, fixed, expected)), atol=1e-2)

    given = Points(np.random.default_rng(1).uniform(-14, 14, (50, 3)), tuple(map(str, range(50))))
    write_points(given, tmp_path / "given.csv")
    assert run(["points", str(tmp_path / "given.csv"), *line, "-o", str(tmp_path / "moved.csv")]) == 0
    moved = read_points(tmp_path / "moved.csv").positions
    assert np.allclose(moved, [expected.TransformPoint(p) for p in given.positions.tolist()], atol=1e-3)


def test_inverted_a_chain_goes_all_the_way_back(transforms, images, tmp_path):
    line = [str(transforms / name) for name in ("turn.tfm", "wave.h5")]
    given = Points(np.random.default_rng(1).uniform(-10, 10, (50, 3)), tuple(map(str, range(50))))
    write_points(given, tmp_path / "given.csv")
    assert run(["points", str(tmp_path / "given.csv"), *line, "-o", str(tmp_path / "moved.csv")]) == 0
    assert run(["points", str(tmp_path / "moved.csv"), *line, "-o", str(tmp_path / "back.csv"), "--invert"]) == 0
    assert np.allclose(read_points(tmp_path / "back.csv").positions, given.positions, atol=0.01)

    fixed, moving = images / "fixed.nrrd", images / "moving.nrrd"
    there, back = str(tmp_path / "there.nrrd"), str(tmp_path / "back.nrrd")
    assert run(["apply", str(moving), *line, "-r", str(fixed), "-o", there]) == 0
    assert run(["apply", there, *line, "-r", str(moving), "-o", back, "--invert"]) == 0
    inner = (0, *[slice(5, -5)] * 3)
    original, there, back = (Volume.read(name).array[inner] for name in (moving, there, back))
    assert np.abs(back - original).mean() < 0.3 * np.abs(there - original).mean()


def test_a_bspline_of_another_program_is_applied_to_a_hair(transforms, images, tmp_path):
    moving, fixed = (sitk.ReadImage(str(images / f"{name}.nrrd")) for name in ("moving", "fixed"))
    line = [str(images / "moving.nrrd"), str(transforms / "spline.tfm"), "-r", str(images / "fixed.nrrd")]
    assert run(["apply", *line, "-o", str(tmp_path / "out.nrrd")]) == 0
    expected = sitk.Resample(moving, fixed, sitk.ReadTransform(str(transforms / "spline.tfm")))
    found = sitk.ReadImage(str(tmp_path / "out.nrrd"))
    assert np.allclose(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected), atol=1e-2)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_apply_warps_every_volume_of_a_4d_image(ending, transforms, images, tmp_path):
    moving, fixed = (sitk.ReadImage(str(images / f"{name}.nrrd")) for name in ("moving", "fixed"))
    frames = [moving, moving + 5, 2 * moving]
    given, output, transform = tmp_path / f"4d{ending}", tmp_path / f"warped{ending}", transforms / "wave.h5"
    sitk.WriteImage(sitk.JoinSeries(frames, 0.5, 2.5), str(given))
    line = ["apply", str(given), str(transform), "-r", str(images / "fixed.nrrd"), "-o", str(output)]
    assert run([*line, "--background", "-3"]) == 0
    found = sitk.ReadImage(str(output))
    assert (found.GetOrigin()[3], found.GetSpacing()[3]) == (0.5, 2.5)
    assert found.GetSize() == (*fixed.GetSize(), 3)
    for frame, warped in zip(frames, Volume.read_sequence(output), strict=True):
        expected = sitk.Resample(frame, fixed, sitk.ReadTransform(str(transform)), sitk.sitkLinear, -3.0)
        assert np.allclose(warped.array[0], sitk.GetArrayFromImage(expected), atol=1e-2)
    assert run(["apply", f"{given}#1", *line[2:]]) == 0
    assert sitk.ReadImage(str(output)).GetSize() == fixed.GetSize()


def test_apply_warps_the_slices_of_a_3d_image_as_frames_in_2d(images, tmp_path):
    moving, fixed = (sitk.ReadImage(str(images / f"{name}2d.nrrd")) for name in ("moving", "fixed"))
    frames = [moving, moving + 5, 2 * moving]
    sitk.WriteImage(sitk.JoinSeries(frames, 10.0, 40.0), str(tmp_path / "cine.nrrd"))
    shift = sitk.TranslationTransform(2, (2.0, -3.5))
    sitk.WriteTransform(shift, str(tmp_path / "shift.tfm"))
    line = ["apply", str(tmp_path / "cine.nrrd"), str(tmp_path / "shift.tfm"), "-r", str(images / "fixed2d.nrrd")]
    assert run([*line, "--slices", "-o", str(tmp_path / "out.nrrd")]) == 0
    found = sitk.ReadImage(str(tmp_path / "out.nrrd"))
    assert (found.GetOrigin()[2], found.GetSpacing()[2]) == (10.0, 40.0)
    expected = [sitk.GetArrayFromImage(sitk.Resample(frame, fixed, shift)) for frame in frames]
    assert np.allclose(sitk.GetArrayFromImage(found), expected, atol=1e-3)


def test_json_is_one_object_and_quiet_is_quiet(images, tmp_path, capsys):
    line = ["register", str(images / "fixed2d.nrrd"), str(images / "moving2d.nrrd"), "-o", str(tmp_path / "a"), *QUICK]
    assert run([*line, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["folder"] == str(tmp_path / "a")
    assert "deform" in printed.err
    assert run([*line[:-1], "cpu", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_same_seed_gives_the_same_result(images, tmp_path):
    line = ["register", str(images / "fixed2d.nrrd"), str(images / "moving2d.nrrd"), "-q", *QUICK]
    for name in ("a", "b"):
        assert run([*line, "-o", str(tmp_path / name), "--seed", "5"]) == 0
    first, second = (Volume.read(tmp_path / name / "warped.nrrd").array for name in ("a", "b"))
    assert np.array_equal(first, second)


def test_a_mask_of_another_grid_is_placed_by_its_header(images, tmp_path):
    mask = Volume.read(images / "mask2d.nrrd")
    mask.resampled(mask.grid.resampled(2.5), interpolation="nearest").write(tmp_path / "coarse.nrrd")
    line = ["register", str(images / "fixed2d.nrrd"), str(images / "moving2d.nrrd"), "-o", str(tmp_path / "out"), "-q"]
    assert run([*line, *QUICK, "--fixed-mask", str(tmp_path / "coarse.nrrd")]) == 0


def test_an_initial_transform_from_a_file_is_where_it_starts(images, tmp_path):
    shift = sitk.TranslationTransform(2, (0.0, 6.0))
    sitk.WriteTransform(shift, str(tmp_path / "start.tfm"))
    line = ["register", str(images / "fixed2d.nrrd"), str(images / "moving2d.nrrd"), "-o", str(tmp_path / "out"), "-q"]
    assert run([*line, "--linear", "none", "--steps", "1", "--initial", str(tmp_path / "start.tfm")]) == 0
    moved = Transform.read(tmp_path / "out" / "transform.h5").map_points([[0.0, 0.0]])
    assert moved[0] == pytest.approx([0.0, 6.0], abs=2.5)


def test_methods_are_listed(capsys):
    assert run(["methods", "--json"]) == 0
    cards = {card["name"]: card for card in json.loads(capsys.readouterr().out)}
    assert cards["refine"]["trained"] is False
    assert all(card["summary"] and card["reference"] for card in cards.values())
    assert run(["methods"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in cards)
    first = {line.split()[0]: line for line in listed.splitlines() if line.strip()}
    used = {name: "not used" not in first[name] for name in cards}
    assert used == {name: card["masks"] != "ignored" for name, card in cards.items()}


def test_help_and_version_end_well(capsys):
    for line in (["--help"], [], ["register", "--help"]):
        assert run(line) == 0
        assert "Usage" in capsys.readouterr().out
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip()


PAIR_2D = ("fixed2d.nrrd", "moving2d.nrrd")


def test_the_linear_stage_alone_is_an_affine_file(images, tmp_path):
    line = ["register", *(str(images / name) for name in PAIR_2D), "-o", str(tmp_path / "out"), "-q"]
    assert run([*line, "--method", "none", "--linear", "rigid", "--initial", "none"]) == 0
    transform = Transform.read(tmp_path / "out" / "transform.h5").simplified()
    assert np.linalg.det(transform.parts[0].matrix) == pytest.approx(1, abs=1e-5)
    assert run([*line, *QUICK, "--initial", str(tmp_path / "out" / "transform.h5")]) == 0


def test_options_of_a_method(images, tmp_path, capsys):
    line = ["register", *(str(images / name) for name in PAIR_2D), "-o", str(tmp_path / "out"), "-q", *QUICK[:4]]
    assert run([*line, "--method-option", "scales=[1]", "--method-option", "iterations=[3]", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["steps"]) == 3
    for option, words in (("scales", "is NAME=VALUE, not 'scales'"), ("colour=red", "these options")):
        assert run([*line, "--method-option", option]) == 2
        assert words in capsys.readouterr().err


def test_an_untrained_method_is_tried_out_only_when_asked(images, tmp_path, capsys):
    line = ["register", *(str(images / name) for name in PAIR_2D), "-o", str(tmp_path / "out"), "--method", "lapirn"]
    assert run([*line, *QUICK[:4], "-q"]) == 2
    assert "'lapirn' has no weights here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run([*line, *QUICK[:4], "--untrained"]) == 0
    assert "its output means nothing" in capsys.readouterr().err


def test_a_guide_is_followed_and_reported(images, tmp_path, capsys):
    """A landmark moved by 3 mm along x, and labels of both sides, one of which the moving image does not have."""
    fixed = np.array([[-3.0, 2], [4, -1]])
    moving = fixed + np.array([3, 0])
    for name, positions in (("f", fixed), ("m", moving)):
        write_points(Points(positions, ("left", "right")), tmp_path / f"{name}.csv")
    labels = Volume.read(images / "labels2d.nrrd")
    Volume(labels.array * (labels.array == 1), labels.grid).write(tmp_path / "labels.nrrd")
    line = ["register", *(str(images / name) for name in PAIR_2D), "-o", str(tmp_path / "out"), *QUICK, "--json"]
    points = ["--fixed-points", str(tmp_path / "f.csv"), "--moving-points", str(tmp_path / "m.csv"), "--leave-out"]
    maps = ["--fixed-labels", str(images / "labels2d.nrrd"), "--moving-labels", str(tmp_path / "labels.nrrd")]
    assert run([*line, *points, *maps]) == 0
    told = capsys.readouterr()
    guide = json.loads(told.out)["guide"]
    assert [row["name"] for row in guide["landmarks"]] == ["left", "right"]
    for row in guide["landmarks"]:
        assert row["before_mm"] == pytest.approx(3)
        assert row["after_mm"] == pytest.approx(row["stages_mm"]["deform"], abs=0.01)
        assert row["after_mm"] < 0.5
        assert row["left_out_mm"] > row["after_mm"]
    assert [row["name"] for row in guide["labels"]] == ["1"]
    assert guide["files"]["fixed_points"].endswith("f.csv")
    assert "left out: 2." in told.err
    transform = Transform.read(tmp_path / "out" / "transform.h5")
    assert np.linalg.norm(transform.map_points(fixed) - moving, axis=1).max() < 0.5


def test_what_is_stopped_while_landmarks_are_left_out_is_written(images, tmp_path, monkeypatch):
    def stopped(*_):
        yield 1.5
        raise KeyboardInterrupt

    monkeypatch.setattr("RecurrentRegistrationLib.pipeline.left_out.left_out", stopped)
    write_points(Points(np.array([[-3.0, 2], [4, -1]]), ("1", "2")), tmp_path / "f.csv")
    line = ["register", *(str(images / name) for name in PAIR_2D), "-o", str(tmp_path / "out"), "-q", *QUICK]
    points = ["--fixed-points", str(tmp_path / "f.csv"), "--moving-points", str(tmp_path / "f.csv"), "--leave-out"]
    assert run([*line, *points]) == 130
    first, second = json.loads((tmp_path / "out" / "report.json").read_text())["guide"]["landmarks"]
    assert first["left_out_mm"] == 1.5
    assert "left_out_mm" not in second


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--fixed-points", "f.csv"], "points of the moving image are missing"),
        (["--fixed-points", "f.csv", "--moving-points", "one.csv"], "2 fixed and 1 moving landmarks"),
        (["--leave-out"], "two landmarks at least"),
        (["--rigid", "mask.nrrd", "--rigid-label", "1"], "given twice"),
        (["--rigid", "all.nrrd"], "covers the whole image"),
    ],
)
def test_a_wrong_guide_is_one_sentence(given, sentence, images, tmp_path, capsys):
    write_points(Points(np.array([[-3.0, 2], [4, -1]]), ("1", "2")), tmp_path / "f.csv")
    write_points(Points(np.array([[-3.0, 2]]), ("1",)), tmp_path / "one.csv")
    mask = Volume.read(images / "mask2d.nrrd")
    mask.write(tmp_path / "mask.nrrd")
    Volume(np.ones_like(mask.array), mask.grid).write(tmp_path / "all.nrrd")
    line = ["register", *(str(images / name) for name in PAIR_2D), "-o", str(tmp_path / "out"), "-q"]
    assert run([*line, *(str(tmp_path / g) if "." in g else g for g in given)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
