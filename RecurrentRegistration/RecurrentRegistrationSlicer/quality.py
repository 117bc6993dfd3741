"""How good it is: curves over the steps, Jacobian and displacement volumes, the report as a table, landmark errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util import numpy_support

from RecurrentRegistrationSlicer.errors import RegistrationError
from RecurrentRegistrationSlicer.frame import toWorld
from RecurrentRegistrationSlicer.transforms import mapPoints

JACOBIAN_STATEMENT = (
    "Jacobian determinant: above 1 a voxel of the fixed image covers more of the moving image, "
    "below 1 less, and at 0 or below space folds."
)
DISPLACEMENT_STATEMENT = "Length of the way from each point of the fixed image to its counterpart in the moving image."
COLUMNS = {
    "Step": "index",
    "Stage": "stage",
    "Similarity": "similarity",
    "Mean update (mm)": "mean_update_mm",
    "Folding (%)": "folding",
    "Seconds": "seconds",
}
GUIDED_COLUMNS = {
    "Landmark error (mm)": "landmark_error_mm",
    "Label overlap": "label_overlap",
}  # where there is a guide
CURVES = {
    "similaritySeries": ("Similarity", (0.12, 0.47, 0.71)),
    "updateSeries": ("Mean update (mm)", (1.0, 0.5, 0.05)),
    "foldingSeries": ("Folding (%)", (0.84, 0.15, 0.16)),
}
GUIDED_CURVES = {
    "landmarkSeries": ("Landmark error (mm)", (0.58, 0.4, 0.74)),
    "overlapSeries": ("Label overlap", (0.17, 0.63, 0.17)),
}


class Progress:
    """The table of a run's steps, and its curves with the selected step marked.

    Args:
        runNode: the node of the run, which refers to the table, the curves and their chart.
    """

    def __init__(self, runNode: Any) -> None:
        self._runNode = runNode
        self.records: list[dict[str, Any]] = self._stored()
        self._changed = False

    def add(self, record: dict[str, Any]) -> None:
        """Append a step, in the place of those of the same index and later; `show` writes the table."""
        while self.records and self.records[-1]["index"] >= record["index"]:
            self.records.pop()
        self.records.append(record)
        self._changed = True

    def forgetAfter(self, index: int) -> None:
        """Drop the steps after an index."""
        self.records = [record for record in self.records if record["index"] <= index]
        self._changed = True
        self.show()

    def show(self) -> None:
        """Bring the table up to date, where steps have come since."""
        if self._changed:
            self._show()
        self._changed = False

    def mark(self, index: int | None) -> None:
        """Mark a step in the curves."""
        marks = self._runNode.GetNodeReference("marks")
        record = next((record for record in self.records if record["index"] == index), None)
        if marks is None:
            return
        curves = {**COLUMNS, **GUIDED_COLUMNS}
        titles = [title for title, _ in (*CURVES.values(), *GUIDED_CURVES.values())]
        values = [record.get(curves[title]) for title in titles] if record else []
        values = [value for value in values if value is not None]
        _fill(marks, {"Step": [float(index or 0)] * len(values), "Selected step": values})

    def _show(self) -> None:
        table = self._runNode.GetNodeReference("table")
        if table is None:
            table = self._create()
        columns = {title: [record[name] for record in self.records] for title, name in COLUMNS.items()}
        for title, name in GUIDED_COLUMNS.items():
            values = [record.get(name) for record in self.records]
            if any(value is not None for value in values):
                columns[title] = values
        _fill(table, columns)
        chart = self._runNode.GetNodeReference("chart")
        for role, (title, color) in GUIDED_CURVES.items():
            if title in columns and chart is not None and self._runNode.GetNodeReference(role) is None:
                self._draw(chart, role, table, title, color)

    def _create(self) -> Any:
        name = self._runNode.GetName()
        for role in (
            *CURVES,
            *GUIDED_CURVES,
            "marks",
            "marksSeries",
            "chart",
        ):  # left where somebody has removed the table
            slicer.mrmlScene.RemoveNode(self._runNode.GetNodeReference(role))
        table, marks = (_add("vtkMRMLTableNode", f"{name}: {what}") for what in ("table of steps", "marks"))
        chart = _add("vtkMRMLPlotChartNode", f"{name}: chart")
        chart.SetXAxisTitle("Step")
        chart.SetTitle("Similarity, mean update, folding")
        for role, (title, color) in CURVES.items():
            self._draw(chart, role, table, title, color)
        series = _series(f"{name}: selected step", marks, "Selected step", (0.2, 0.2, 0.2))
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleNone)
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
        series.SetMarkerSize(12)
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
        for role, node in {"table": table, "marks": marks, "chart": chart, "marksSeries": series}.items():
            self._runNode.SetNodeReferenceID(role, node.GetID())
        return table

    def _draw(self, chart: Any, role: str, table: Any, title: str, color: tuple[float, float, float]) -> None:
        """Add a column of the table to the curves."""
        series = _series(f"{self._runNode.GetName()}: {title}", table, title, color)
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
        self._runNode.SetNodeReferenceID(role, series.GetID())

    def _stored(self) -> list[dict[str, Any]]:
        """The records of a run that comes from a saved scene."""
        node = self._runNode.GetNodeReference("table")
        if node is None or node.GetTable() is None:
            return []
        table = node.GetTable()
        columns = {name: table.GetColumnByName(title) for title, name in COLUMNS.items()}
        if None in columns.values():
            return []
        guided = {name: table.GetColumnByName(title) for title, name in GUIDED_COLUMNS.items()}
        columns |= {name: column for name, column in guided.items() if column is not None}
        rows = [
            {name: column.GetVariantValue(row) for name, column in columns.items()}
            for row in range(table.GetNumberOfRows())
        ]
        return [{name: READ.get(name, _number)(value) for name, value in row.items()} for row in rows]


def _number(value: vtk.vtkVariant) -> float | None:
    number = value.ToDouble()
    return None if np.isnan(number) else number


READ = {"index": lambda value: value.ToInt(), "stage": lambda value: value.ToString()}  # the others are real numbers


def _add(kind: str, name: str) -> Any:
    return slicer.mrmlScene.AddNewNodeByClass(kind, name)


def _series(name: str, table: Any, column: str, color: tuple[float, float, float]) -> Any:
    series = _add("vtkMRMLPlotSeriesNode", name)
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("Step")
    series.SetYColumnName(column)
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
    series.SetColor(*color)
    return series


def _fill(tableNode: Any, columns: dict[str, list[Any]]) -> None:
    """Give a table node columns of numbers or texts; an unknown number is not drawn."""
    table = vtk.vtkTable()
    for title, values in columns.items():
        if any(isinstance(value, str) for value in values):
            column = vtk.vtkStringArray()
            for value in values:
                column.InsertNextValue(str(value))
        else:
            numbers = np.array([np.nan if value is None else value for value in values], dtype=float)
            column = numpy_support.numpy_to_vtk(numbers, deep=True)
        column.SetName(title)
        table.AddColumn(column)
    tableNode.SetAndObserveTable(table)


def fillReport(
    tableNode: Any, report: dict[str, Any], landmarks: LandmarkErrors | None, trace: list[tuple[str, str]]
) -> None:
    """Write a report, and where it comes from, into a table of two columns."""
    rows = dict(_rows(report))
    if landmarks is not None:
        rows["Landmark error before (mm)"] = f"{landmarks.before.mean():.2f}"
        if landmarks.after is not None:
            rows["Landmark error after (mm)"] = f"{landmarks.after.mean():.2f}"
    rows |= dict(trace)
    _fill(tableNode, {"Quantity": list(rows), "Value": list(rows.values())})


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    jacobian, displacement = report["jacobian"], report["displacement_mm"]
    last = report["steps"][-1]
    memory = report["peak_memory_bytes"]
    return [
        ("Method", report["method"]),
        ("Preset", report["preset"]),
        ("Device", report["device"]),
        ("Steps", str(last["index"])),
        ("Similarity", "unknown" if last["similarity"] is None else f"{last['similarity']:.4f}"),
        ("Mean displacement (mm)", f"{displacement['mean']:.2f}"),
        ("Largest displacement (mm)", f"{displacement['max']:.2f}"),
        ("Folded voxels", str(report["folded_voxels"])),
        ("Folding (%)", f"{report['folding']:.4f}"),
        ("Jacobian minimum", f"{jacobian['min']:.3f}"),
        ("Jacobian mean", f"{jacobian['mean']:.3f}"),
        ("Jacobian maximum", f"{jacobian['max']:.3f}"),
        ("Seconds", f"{sum(report['seconds'].values()):.1f}"),
        ("Peak memory (GiB)", f"{memory / 2**30:.2f}" if memory else "unknown"),
        *[(f"Note {n}", note) for n, note in enumerate(report["notes"], start=1)],
    ]


def describeJacobian(volumeNode: Any, colors: Any = None) -> Any:
    """Colours of a Jacobian volume, blue below 1 and red above, and what it says; the colour node, new if None."""
    colors = colors or _jacobianColors()
    _display(volumeNode, colors.GetID(), 0.0, 2.0)
    volumeNode.SetDescription(JACOBIAN_STATEMENT)
    return colors


def _jacobianColors() -> Any:
    colors = slicer.vtkMRMLColorTableNode()
    colors.SetTypeToUser()
    colors.SetName(slicer.mrmlScene.GetUniqueNameByString("Jacobian"))
    colors.SetNumberOfColors(256)
    for n in range(256):
        towards = 2 * n / 255 - 1  # -1 blue, 0 white, 1 red
        fade = 1 - abs(towards)
        colors.SetColor(n, f"{n / 255 * 2:.2f}", fade if towards < 0 else 1.0, fade, 1.0 if towards < 0 else fade, 1.0)
    slicer.mrmlScene.AddNode(colors)
    return colors


def describeDisplacement(volumeNode: Any, longest: float) -> None:
    """Colours of a volume of displacement lengths, and what it says."""
    _display(volumeNode, "vtkMRMLPETProceduralColorNodePET-Heat", 0.0, max(longest, 1e-3))
    volumeNode.SetDescription(DISPLACEMENT_STATEMENT)


def _display(volumeNode: Any, colorID: str, low: float, high: float) -> None:
    display = volumeNode.GetDisplayNode()
    display.SetAndObserveColorNodeID(colorID)
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(low, high)


@dataclass
class LandmarkErrors:
    """Distances of paired landmarks, millimetres.

    Attributes:
        before: as the images came.
        after: through the transform; None without one.
        labels: of the fixed landmarks.
    """

    before: np.ndarray
    after: np.ndarray | None
    labels: list[str]

    @property
    def sentence(self) -> str:
        """For the user."""
        text = f"{len(self.before)} landmarks: {self.before.mean():.2f} mm apart on average before"
        return text + (f", {self.after.mean():.2f} mm after." if self.after is not None else ".")

    def toDict(self) -> dict[str, Any]:
        """For the scene."""
        after = None if self.after is None else self.after.tolist()
        return {"before": self.before.tolist(), "after": after, "labels": self.labels}

    @classmethod
    def fromDict(cls, fields: dict[str, Any]) -> LandmarkErrors:
        """From the scene."""
        after = None if fields["after"] is None else np.array(fields["after"])
        return cls(np.array(fields["before"]), after, fields["labels"])


def landmarkErrors(
    fixedLandmarks: Any, movingLandmarks: Any, transformNode: Any = None, parent: np.ndarray | None = None
) -> LandmarkErrors:
    """Distances between landmarks of the fixed and the moving image, paired by their order.

    Args:
        fixedLandmarks: markups node in the fixed image.
        movingLandmarks: markups node in the moving image, under the same parent as it or none.
        transformNode: what a run found.
        parent: matrix to the world (RAS) of the frame in which the moving volume lives; None for the world itself.

    Raises:
        RegistrationError: there are none, or not as many on either side.
    """
    fixed, moving = positions(fixedLandmarks), positions(movingLandmarks)
    if len(fixed) != len(moving) or not len(fixed):
        raise RegistrationError(
            f"There are {len(fixed)} fixed and {len(moving)} moving landmarks: give the same points in both images."
        )
    labels = [fixedLandmarks.GetNthControlPointLabel(n) for n in range(len(fixed))]
    after = None
    if transformNode is not None:
        parent = np.eye(4) if parent is None else parent
        below = _mapped(fixed, np.linalg.inv(parent))
        found = _mapped(mapPoints(below, transformNode.GetTransformFromParent()), parent)
        after = np.linalg.norm(found - moving, axis=1)
    return LandmarkErrors(np.linalg.norm(fixed - moving, axis=1), after, labels)


def positions(markupsNode: Any) -> np.ndarray:
    """World positions `[N, 3]`, RAS; transforms that runs have put there do not count."""
    local = [markupsNode.GetNthControlPointPosition(n) for n in range(markupsNode.GetNumberOfControlPoints())]
    return _mapped(np.array(local, dtype=float).reshape(-1, 3), toWorld(markupsNode))


def _mapped(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]
