"""A series registered to its template, on a beating phantom."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from phantom import centred, head

from RecurrentRegistrationLib.cli import run
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.pipeline import series
from RecurrentRegistrationLib.pipeline.options import Options
from RecurrentRegistrationLib.points import Points, write_points
from RecurrentRegistrationLib.transform import Affine, Transform
from RecurrentRegistrationLib.volume import Grid, Volume

GRID = centred((36, 32), (2.2, 2.5))
STEPS = (0.0, 4.0, -3.0, 5.0)  # millimetres along x that the head moves
DEMONS = Options(method="demons", initial="none", linear="none")
POSITIONS = np.array([[5.0, 0.0], [-8.0, 10.0], [0.0, -12.0]])


def shifted(millimetres: float) -> Transform:
    """From a frame's points to the head at rest."""
    return Transform((Affine(np.array([[1, 0, -millimetres], [0, 1, 0], [0, 0, 1.0]])),))


@pytest.fixture(scope="module")
def frames() -> list[Volume]:
    return [head(GRID, shifted(step)) for step in STEPS]


@pytest.fixture(scope="module")
def landmarks() -> dict[int, Points]:
    return {n: Points(POSITIONS + np.array([step, 0]), ("a", "b", "c")) for n, step in enumerate(STEPS)}


@pytest.fixture(scope="module")
def registered(frames) -> list[series.Frame]:
    return list(series.register(frames, 0, DEMONS))


def test_every_frame_comes_to_the_template(registered, landmarks):
    assert [frame.number for frame in registered] == [0, 1, 2, 3]
    assert registered[0].transform.parts == ()
    report = series.evaluate(registered, landmarks=landmarks)
    assert report["after"]["d_pca1"] is report["before"]["d_pca1"] is None  # four frames are four components
    fewer = series.evaluate(registered, components=2)
    assert fewer["after"]["d_pca1"] < fewer["before"]["d_pca1"]
    assert report["after"]["d_pca2"] < report["before"]["d_pca2"]
    assert report["after"]["correlation"][0] == pytest.approx(1)
    assert min(report["after"]["correlation"]) > min(report["before"]["correlation"])
    found = report["landmarks_mm"]
    assert found["before"] == {"mean": pytest.approx(4), "max": pytest.approx(5), "frames": {1: 4, 2: 3, 3: 5}}
    assert found["after"]["max"] < 1.5
    assert report["folding_percent"] == [0, 0, 0]


def test_frames_without_landmarks_are_left_out(registered, landmarks):
    some = {n: landmarks[n] for n in (0, 3)}
    assert list(series.evaluate(registered, landmarks=some)["landmarks_mm"]["after"]["frames"]) == [3]
    with pytest.raises(InputError, match="landmarks of the template, frame 0"):
        series.evaluate(registered, landmarks={1: landmarks[1]})
    with pytest.raises(InputError, match="another frame"):
        series.evaluate(registered, landmarks={0: landmarks[0]})
    with pytest.raises(InputError, match="same landmarks"):
        series.evaluate(registered, landmarks={0: landmarks[0], 1: Points(POSITIONS[:1], ("a",))})


def test_wrong_series_are_refused(frames):
    with pytest.raises(InputError, match="two frames"):
        next(series.register(frames[:1], 0, DEMONS))
    with pytest.raises(InputError, match="no frame 4"):
        next(series.register(frames, 4, DEMONS))
    with pytest.raises(InputError, match="2D"):
        series.slices(frames[0])


def test_slices_keep_pixels_and_spacing():
    grid = Grid((4, 3, 5), (0.5, 2.0, 60.0), (1, 2, 3), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    array = np.arange(60.0).reshape(1, 5, 3, 4)
    found = series.slices(Volume(array, grid))
    assert len(found) == 5
    assert found[0].grid == Grid((4, 3), (0.5, 2.0), (1, 2), (1, 0, 0, 1))
    assert np.array_equal(found[3].array, array[:, 3])


@pytest.fixture
def cine(frames, landmarks, tmp_path) -> list[str]:
    """The command up to its options, on the frames as the slices of cine.nrrd, landmarks in points_{frame}.csv."""
    stack = Volume(
        np.stack([frame.array for frame in frames], axis=1),
        Grid((32, 36, 4), (*GRID.spacing, 50.0), (*GRID.origin, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1)),
    )
    stack.write(tmp_path / "cine.nrrd")
    for number, points in landmarks.items():
        write_points(points, tmp_path / f"points_{number}.csv")
    return ["series", str(tmp_path / "cine.nrrd"), "--slices", "-o", str(tmp_path / "out"), "--method", "demons"]


def test_command_writes_transforms_images_report_and_picture(cine, tmp_path, capsys):
    options = ["--template", "1", "--landmarks", str(tmp_path / "points_{frame}.csv"), "--quiet"]
    assert run([*cine, *options]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out == ""
    report = json.loads((tmp_path / "out" / "series.json").read_text(encoding="utf-8"))
    assert report["template"] == 1
    assert report["landmarks_mm"]["before"]["mean"] == pytest.approx((4 + 7 + 1) / 3)
    assert report["landmarks_mm"]["after"]["mean"] < 2
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert names == [
        "series.json",
        "series.png",
        *(f"transforms/frame_00{n}.h5" for n in (0, 2, 3)),
        "warped.nrrd",
        *(f"warped/frame_00{n}.nrrd" for n in range(4)),
    ]
    warped, given = (Volume.read(path) for path in (tmp_path / "out" / "warped.nrrd", tmp_path / "cine.nrrd"))
    assert warped.grid == given.grid  # also the time between frames
    for n in range(4):
        frame = Volume.read(tmp_path / "out" / "warped" / f"frame_00{n}.nrrd")
        assert np.array_equal(warped.array[:, n], frame.array)


def test_command_takes_the_options_of_register(cine, tmp_path, capsys):
    Volume(np.ones((1, *GRID.shape), np.uint8), GRID).write(tmp_path / "mask.nrrd")
    options = ["--refine", "2", "--spacing", "5", "--similarity", "mse", "--threads", "1", "--steps", "3"]
    assert run([*cine, *options, "--mask", str(tmp_path / "mask.nrrd"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["folder"] == str(tmp_path / "out")
    assert report["frames"] == 4


def test_command_prints_only_what_can_be_measured(cine, tmp_path, capsys):
    assert run([*cine, "--steps", "3"]) == 0
    told = capsys.readouterr().out
    assert "D_PCA2" in told
    assert "D_PCA1" not in told


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("points_1.csv", "{frame}"),
        ("points_{idx}.csv", "{frame}"),
        ("points_{}.csv", "{frame}"),
        ("points_{frame.csv", "{frame}"),
        ("points_{frame[0]}.csv", "{frame}"),
        ("points_{frame:q}.csv", "{frame}"),
        ("dots_{frame}.csv", "No file matches"),
        ("points_{frame:02d}.csv", "No file matches"),
    ],
)
def test_wrong_patterns_of_landmarks_are_refused_before_any_work(cine, tmp_path, capsys, pattern, message):
    assert run([*cine, "--quiet", "--landmarks", str(tmp_path / pattern)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_missing_landmarks_of_the_template_are_refused_before_any_work(cine, tmp_path, capsys):
    (tmp_path / "points_0.csv").unlink()
    assert run([*cine, "--quiet", "--landmarks", str(tmp_path / "points_{frame}.csv")]) == 2
    assert "template, frame 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_frames_of_a_4d_image_keep_their_time(frames, tmp_path, capsys):
    solid = [
        Volume(np.repeat(frame.array[:, None], 12, axis=1), Grid.regular((12, *GRID.shape), 2.0)) for frame in frames
    ]
    image = sitk.JoinSeries([frame.to_sitk() for frame in solid], 0.0, 50.0)
    sitk.WriteImage(image, str(tmp_path / "breath.nrrd"))
    command = ["series", str(tmp_path / "breath.nrrd"), "-o", str(tmp_path / "out"), "--method", "demons"]
    assert run([*command, "--steps", "2", "--quiet"]) == 0, capsys.readouterr().err
    warped = sitk.ReadImage(str(tmp_path / "out" / "warped.nrrd"))
    assert warped.GetSize() == image.GetSize()
    assert warped.GetSpacing() == image.GetSpacing()
