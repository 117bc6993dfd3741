"""A series registered to its template, on a beating phantom."""

from __future__ import annotations

import json

import numpy as np
import pytest
from phantom import centred, head

from RecurrentRegistrationLib import series
from RecurrentRegistrationLib.cli import run
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.points import Points, write_points
from RecurrentRegistrationLib.registration import Options
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
    assert report["after"]["d_pca1"] <= report["before"]["d_pca1"]
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


def test_command_writes_transforms_images_report_and_picture(frames, landmarks, tmp_path, capsys):
    stack = Volume(
        np.stack([frame.array for frame in frames], axis=1),
        Grid((32, 36, 4), (*GRID.spacing, 50.0), (*GRID.origin, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1)),
    )
    stack.write(tmp_path / "cine.nrrd")
    for number, points in landmarks.items():
        write_points(points, tmp_path / f"points_{number}.csv")
    command = ["series", str(tmp_path / "cine.nrrd"), "--slices", "-o", str(tmp_path / "out"), "--template", "1"]
    options = ["--method", "demons", "--landmarks", str(tmp_path / "points_{frame}.csv"), "--quiet"]
    assert run([*command, *options]) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "series.json").read_text(encoding="utf-8"))
    assert report["template"] == 1
    assert report["landmarks_mm"]["before"]["mean"] == pytest.approx((4 + 7 + 1) / 3)
    assert report["landmarks_mm"]["after"]["mean"] < 2
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert names == [
        "series.json",
        "series.png",
        *(f"transforms/frame_00{n}.h5" for n in (0, 2, 3)),
        *(f"warped/frame_00{n}.nrrd" for n in range(4)),
    ]
