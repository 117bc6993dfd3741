"""Landmarks in every format, in the coordinate system that the file tells."""

from __future__ import annotations

import json

import numpy as np
import pytest

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.points import Points, read_points, write_points
from RecurrentRegistrationLib.volume import Grid

POINTS = Points(np.array([[1.5, -2.25, 3.0], [-10.0, 20.125, 1 / 3]]), ("tip, left", 'the "hilum"'))
OBLIQUE = Grid((4, 5, 6), (0.5, 2.0, 3.0), (10.0, -20.0, 30.0), (0, 1, 0, -1, 0, 0, 0, 0, 1))


@pytest.mark.parametrize("ending", [".fcsv", ".mrk.json", ".csv", ".txt"])
def test_written_points_are_read_back_exactly(tmp_path, ending):
    write_points(POINTS, tmp_path / f"points{ending}")
    back = read_points(tmp_path / f"points{ending}")
    assert np.array_equal(back.positions, POINTS.positions)
    assert back.labels == (("1", "2") if ending == ".txt" else POINTS.labels)


def test_legacy_vtk_points_are_read_over_any_line_breaks(tmp_path):
    file = tmp_path / "points.vtk"
    head = "# vtk DataFile Version 3.0\nvtk output\n{}\nDATASET POLYDATA\nPOINTS {} float\n"
    file.write_text(head.format("ASCII", 2) + "1.5 -2.25 3 -10\n20.125 0.5 \n\nVERTICES 2 4\n1 0\n1 1\n")
    points = read_points(file)
    assert points.positions.tolist() == [[1.5, -2.25, 3.0], [-10.0, 20.125, 0.5]]
    assert points.labels == ("1", "2")
    for text in (head.format("BINARY", 1) + "1 2 3", head.format("ASCII", 3) + "1 2 3"):
        file.write_text(text)
        with pytest.raises(InputError, match="cannot be read as landmarks"):
            read_points(file)


@pytest.mark.parametrize("ending", [".csv", ".txt"])
def test_points_of_two_dimensions(tmp_path, ending):
    flat = POINTS.in_dimension(2)
    write_points(flat, tmp_path / f"points{ending}")
    assert np.array_equal(read_points(tmp_path / f"points{ending}").positions, flat.positions)
    with pytest.raises(InputError, match="third"):
        flat.in_dimension(3)


def test_slicer_files_hold_three_coordinates_also_in_two_dimensions(tmp_path):
    write_points(POINTS.in_dimension(2), tmp_path / "points.mrk.json")
    assert np.array_equal(read_points(tmp_path / "points.mrk.json").positions[:, 2], [0, 0])


@pytest.mark.parametrize(
    ("unit", "scale"), [("mm", 1), ("cm", 10), ("um", 1e-3), (["m", "UCUM", "meter"], 1000), ("inch", None)]
)
def test_markups_are_brought_to_millimetres(tmp_path, unit, scale):
    point = {"label": "a", "position": [1.0, 2.0, 3.0], "positionStatus": "defined"}
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": unit, "controlPoints": [point]}
    (tmp_path / "p.mrk.json").write_text(json.dumps({"markups": [markup]}), encoding="utf-8")
    if scale is None:
        with pytest.raises(InputError, match="unit of length is 'inch'"):
            read_points(tmp_path / "p.mrk.json")
    else:
        assert np.allclose(read_points(tmp_path / "p.mrk.json").positions, [[1 * scale, 2 * scale, 3 * scale]])


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("# CoordinateSystem = LPS\n", [1, 2, 3]),
        ("# CoordinateSystem = RAS\n", [-1, -2, 3]),
        ("# CoordinateSystem = 0\n", [-1, -2, 3]),
        ("# CoordinateSystem = 1\n", [1, 2, 3]),
        ("", [-1, -2, 3]),
    ],
)
def test_fcsv_believes_its_header(tmp_path, head, expected):
    file = tmp_path / "points.fcsv"
    columns = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    file.write_text(
        f"# Markups fiducial file version = 4.10\n{head}{columns}n1,1,2,3,0,0,0,1,1,1,0,F-1,,\n", encoding="utf-8"
    )
    points = read_points(file)
    assert points.positions.tolist() == [expected]
    assert points.labels == ("F-1",)


@pytest.mark.parametrize(("system", "expected"), [("LPS", [1, 2, 3]), ("RAS", [-1, -2, 3])])
def test_markups_believe_their_system_and_skip_points_not_placed(tmp_path, system, expected):
    placed = {"label": "F-1", "position": [1, 2, 3]}
    missing = {"label": "F-2", "positionStatus": "undefined"}
    file = tmp_path / "points.mrk.json"
    file.write_text(
        json.dumps({"markups": [{"coordinateSystem": system, "controlPoints": [placed, missing]}]}), encoding="utf-8"
    )
    points = read_points(file)
    assert points.positions.tolist() == [expected]
    assert points.labels == ("F-1",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label,r,a,s,defined\nF-1,1,2,3,1\nF-2,0,0,0,0\n", [[-1, -2, 3]]),
        ("label,l,p,s\nF-1,1,2,3\n", [[1, 2, 3]]),
        ("x,y,z,t,label\n1,2,3,0,a\n", [[1, 2, 3]]),
        ("x,y\n1,2\n", [[1, 2]]),
        ("1,2,3\n4,5,6\n", [[1, 2, 3], [4, 5, 6]]),
    ],
)
def test_csv_is_read_by_its_columns(tmp_path, text, expected):
    (tmp_path / "points.csv").write_text(text, encoding="utf-8")
    assert read_points(tmp_path / "points.csv").positions.tolist() == expected


def test_elastix_indices_are_placed_by_the_image(tmp_path):
    file = tmp_path / "points.txt"
    file.write_text("index\n2\n0 0 0\n2 1 3\n", encoding="utf-8")
    assert read_points(file, OBLIQUE).positions.tolist() == [[10, -20, 30], [12, -21, 39]]
    with pytest.raises(InputError, match="name the image"):
        read_points(file)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("points.ply", "", "ends in neither"),
        ("points.txt", "point\n3\n1 2 3\n", "damaged"),
        ("points.txt", "1 2 3\n", "damaged"),
        ("points.csv", "a,b\n1,2\n", "damaged"),
        ("points.csv", "", "damaged"),
        ("points.csv", "x,y,z\n", "holds no landmarks"),
        ("points.csv", "x,y,z\n1,nan,3\n", "finite"),
        ("points.mrk.json", "{", "damaged"),
        ("points.mrk.json", "[]", "damaged"),
        ("points.fcsv", "# CoordinateSystem = XYZ\nn1,1,2,3\n", "coordinate system"),
        ("points.fcsv", "n1,one,2,3\n", "damaged"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_points(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_file_and_unknown_ending(tmp_path):
    with pytest.raises(InputError, match="There is no file"):
        read_points(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="ends in neither"):
        write_points(POINTS, tmp_path / "points.vtk")
    assert not list(tmp_path.iterdir())
