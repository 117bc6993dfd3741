"""Landmarks in files: `.fcsv` and `.mrk.json` of 3D Slicer, `.csv`, the `.txt` of elastix, and legacy `.vtk`.

In memory every position is a physical point in LPS millimetres. Where a file says which system it uses, it is believed;
where it does not, `.fcsv` is RAS (as Slicer wrote it before version 4.11) and the others are LPS.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io.files import complete, suffix_of
from RecurrentRegistrationLib.io.headers import METRES
from RecurrentRegistrationLib.volume import Grid

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/"
    "Resources/Schema/markups-schema-v1.0.3.json#"
)
FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


@dataclass(frozen=True)
class Points:
    """Landmarks.

    Attributes:
        positions: `[N, d]`, LPS millimetres.
        labels: one name for each.
    """

    positions: np.ndarray
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def in_dimension(self, dimension: int) -> Points:
        """The same in 2D, where the third coordinate is left out, or in 3D. Raises InputError where it is missing."""
        if self.positions.shape[1] < dimension:
            raise InputError("The points have two coordinates, but the images are three-dimensional: add the third.")
        return Points(self.positions[:, :dimension], self.labels)


def read_points(path: str | Path, grid: Grid | None = None) -> Points:
    """Read landmarks.

    Args:
        path: `.fcsv`, `.mrk.json` or `.json`, `.csv`, `.txt` (elastix), or `.vtk` (legacy, ASCII).
        grid: grid of the image they lie in; needed where the file holds voxel indices.

    Raises:
        InputError: there is no such file, it holds no landmarks, or indices without a grid.
    """
    path = Path(path)
    ending = suffix_of(path)
    if ending not in _READERS:
        raise InputError(f"'{path}' ends in neither {', '.join(_READERS)}.")
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    try:
        rows, labels, system = _READERS[ending](path.read_text(encoding="utf-8-sig"))
        positions = np.array(rows, dtype=float)
    except InputError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as landmarks: it is damaged or of another format.") from error
    if positions.ndim != 2 or positions.shape[1] not in (2, 3):
        raise InputError(f"{path} holds no landmarks of two or three coordinates.")
    if not np.isfinite(positions).all():
        raise InputError(f"{path} holds a coordinate that is not a finite number: remove that landmark.")
    return Points(_to_lps(positions, system, grid, path), tuple(labels))


def write_points(points: Points, path: str | Path) -> None:
    """Write landmarks in LPS millimetres in the format that the file's ending names; complete or not at all.

    Raises:
        InputError: the ending is unknown, the folder cannot be written or the disk is full.
    """
    path = Path(path)
    ending = suffix_of(path)
    if ending not in _WRITERS:
        raise InputError(f"'{path}' ends in neither {', '.join(_WRITERS)}.")
    with complete(path) as temporary:
        temporary.write_text(_WRITERS[ending](points), encoding="utf-8")


def _to_lps(positions: np.ndarray, system: str, grid: Grid | None, path: Path) -> np.ndarray:
    """Positions as physical points, from "LPS", "RAS" or "IJK" (voxel indices)."""
    if system == "LPS":
        return positions
    if system == "RAS":
        return positions * np.array([-1.0, -1.0, 1.0][: positions.shape[1]])
    if system != "IJK":
        raise InputError(f"{path} names the coordinate system '{system}'; LPS, RAS or IJK is needed.")
    if grid is None:
        raise InputError(f"{path} holds voxel indices: name the image that they belong to.")
    if grid.dimension > positions.shape[1]:
        raise InputError(f"{path} holds indices of {positions.shape[1]} axes for an image of {grid.dimension}.")
    return grid.physical(positions[:, : grid.dimension])


Table = tuple[list[list[float]], list[str], str]


def _read_fcsv(text: str) -> Table:
    columns = FCSV_COLUMNS.split(",")
    system = "RAS"
    lines = []
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.lstrip("# ").partition("="))
        if not line.startswith("#"):
            lines.append(line)
        elif name == "columns":
            columns = [column.strip() for column in value.split(",")]
        elif name == "CoordinateSystem":
            system = {"0": "RAS", "1": "LPS", "2": "IJK"}.get(value, value.upper())
    rows = [dict(zip(columns, row, strict=False)) for row in csv.reader(lines) if row]
    labels = [row.get("label") or row.get("id") or str(n + 1) for n, row in enumerate(rows)]
    return [[float(row[axis]) for axis in "xyz"] for row in rows], labels, system


def _read_markups(text: str) -> Table:
    rows, labels, systems = [], [], set()
    for markup in json.loads(text)["markups"]:
        systems.add(str(markup.get("coordinateSystem", "LPS")).upper())
        scale = _millimetres(markup.get("coordinateUnits", "mm"))
        for point in markup.get("controlPoints", []):
            if point.get("positionStatus", "defined") == "defined":
                rows.append([value * scale for value in point["position"]])
                labels.append(point.get("label") or str(len(rows)))
    if len(systems) > 1:
        raise ValueError("markups of different coordinate systems")
    return rows, labels, systems.pop()


def _millimetres(unit: str | list) -> float:
    """Of a unit of Slicer's markups: a word, or a code of UCUM as [code, "UCUM", meaning]."""
    name = unit[0] if isinstance(unit, list) else unit
    if name not in METRES:
        raise InputError(f"Its unit of length is '{name}'; {', '.join(METRES)} are known.")
    return METRES[name]


def _read_csv(text: str) -> Table:
    table = [row for row in csv.reader(text.splitlines()) if row and not row[0].startswith("#")]
    header = [name.strip().lower() for name in table[0]]
    if _is_number(table[0][0]) and _is_number(table[0][1]):
        wide = 3 if len(header) > 2 and _is_number(table[0][2]) else 2
        return [[float(v) for v in row[:wide]] for row in table], [str(n + 1) for n in range(len(table))], "LPS"
    system, axes = _system_of(header)
    columns = [header.index(axis) for axis in axes if axis in header]
    named = next((header.index(name) for name in ("label", "name", "id") if name in header), None)
    defined = header.index("defined") if "defined" in header else None
    body = [row for row in table[1:] if defined is None or row[defined].strip().lower() not in ("0", "false")]
    labels = [row[named].strip() if named is not None else str(n + 1) for n, row in enumerate(body)]
    return [[float(row[column]) for column in columns] for row in body], labels, system


def _system_of(header: list[str]) -> tuple[str, str]:
    """Coordinate system and names of the axes by the columns of a table: l,p,s or r,a,s or x,y,z or i,j,k."""
    for system, axes in (("LPS", "lps"), ("RAS", "ras"), ("LPS", "xyz"), ("IJK", "ijk")):
        if axes[0] in header and axes[1] in header:
            return system, axes
    raise ValueError("no columns of coordinates")


def _read_elastix(text: str) -> Table:
    kind, count, *rows = [line.strip() for line in text.splitlines() if line.strip()]
    values = [[float(value) for value in row.split()] for row in rows[: int(count)]]
    if len(values) != int(count):
        raise ValueError("fewer points than announced")
    return values, [str(n + 1) for n in range(len(values))], {"point": "LPS", "index": "IJK"}[kind.lower()]


def _read_vtk(text: str) -> Table:
    _, _, form, _, *rest = text.split("\n", 4)
    if form.strip().upper() != "ASCII":
        raise ValueError("binary points")
    words = rest[0].split()
    first = words.index("POINTS")
    count = int(words[first + 1])
    values = [float(word) for word in words[first + 3 : first + 3 + 3 * count]]
    rows = [values[n : n + 3] for n in range(0, len(values), 3)]
    if len(values) != 3 * count:
        raise ValueError("fewer points than announced")
    return rows, [str(n + 1) for n in range(count)], "LPS"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _write_fcsv(points: Points) -> str:
    head = [
        "# Markups fiducial file version = 5.8",
        "# CoordinateSystem = LPS",
        f"# columns = {FCSV_COLUMNS}",
    ]
    rows = [
        [str(n + 1), *map(repr, position), "0", "0", "0", "1", "1", "1", "0", label, "", ""]
        for n, (position, label) in enumerate(zip(_in_3d(points), points.labels, strict=True))
    ]
    return "\n".join(head) + "\n" + _csv_text(rows)


def _write_markups(points: Points) -> str:
    controls = [
        {"id": str(n + 1), "label": label, "position": position, "positionStatus": "defined"}
        for n, (position, label) in enumerate(zip(_in_3d(points), points.labels, strict=True))
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": controls}
    return json.dumps({"@schema": SCHEMA, "markups": [markup]}, indent=2) + "\n"


def _write_csv(points: Points) -> str:
    head = ["label", *("lps" if points.positions.shape[1] == 3 else "xy")]
    rows = [[label, *map(repr, p)] for label, p in zip(points.labels, points.positions.tolist(), strict=True)]
    return _csv_text([head, *rows])


def _write_elastix(points: Points) -> str:
    rows = [" ".join(map(repr, position)) for position in points.positions.tolist()]
    return "\n".join(["point", str(len(rows)), *rows]) + "\n"


def _in_3d(points: Points) -> list[list[float]]:
    missing = 3 - points.positions.shape[1]
    return np.pad(points.positions, ((0, 0), (0, missing))).tolist()


def _csv_text(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


_READERS: dict[str, Callable[[str], Table]] = {
    ".fcsv": _read_fcsv,
    ".mrk.json": _read_markups,
    ".json": _read_markups,
    ".csv": _read_csv,
    ".txt": _read_elastix,
    ".vtk": _read_vtk,
}
_WRITERS: dict[str, Callable[[Points], str]] = {
    ".fcsv": _write_fcsv,
    ".mrk.json": _write_markups,
    ".json": _write_markups,
    ".csv": _write_csv,
    ".txt": _write_elastix,
}
