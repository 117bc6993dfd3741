"""`report.png`: what a registration did, on one page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_multiotsu, threshold_otsu

from RecurrentRegistrationLib.io.files import complete
from RecurrentRegistrationLib.report.views import Plane, planes
from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Volume, resample

Window = tuple[float, float]

OUTSIDE = "#33415c"  # where the moving image was not scanned
CONTOUR = "#ffb000"
FOLDED = "#ff00ff"
INCH = 2.9  # width of a panel
TITLES = {
    "fixed": "Fixed",
    "before": "Moving, before",
    "after": "Moving, after",
    "difference before": "Difference, before",
    "difference after": "Difference, after",
    "grid": "Displacement grid",
    "jacobian": "Volume, moving / fixed",
}
KEY = (
    ("Orange lines", "edges of the fixed image"),
    ("Difference", "red where the moving image is brighter, blue where darker"),
    ("Grid", "without the linear part of the motion"),
    ("Blue-grey", "outside the moving scan"),
    ("Magenta", "folding"),
)
CURVES = {
    "similarity": "Similarity (higher is better)",
    "mean_update_mm": "Mean update (mm)",
    "folding": "Folding (%)",
}


@dataclass(frozen=True)
class Pictured:
    """What the page shows.

    Attributes:
        fixed: the fixed image.
        moving: the moving image.
        jacobian: determinants on the fixed grid.
        transform: from fixed to moving points.
        steps: for each step its "index", "stage", "similarity", "mean_update_mm", "folding".
        title: names of the two images.
        facts: further lines of text, name and value.
    """

    fixed: Volume
    moving: Volume
    jacobian: Volume
    transform: Transform
    steps: Sequence[Mapping[str, Any]]
    title: str
    facts: Mapping[str, str]


def write_report(pictured: Pictured, path: str | Path) -> None:
    """Draw the page and write it as PNG, complete or not at all."""
    figure = draw(pictured)
    with complete(path) as temporary:
        figure.savefig(temporary, format="png")


def draw(pictured: Pictured) -> Figure:
    """Draw the page: a row for each view (2D: two rows), then the curves over the steps and the facts."""
    layout = _Layout.of(pictured)
    figure = Figure(figsize=(layout.width + 0.6, layout.height + 4.8), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    halves = figure.add_gridspec(2, 1, height_ratios=[layout.height + 1.6, 3.2])
    top, bottom = (figure.add_subfigure(halves[n]) for n in range(2))
    _draw_top(top, pictured, layout)
    _draw_bottom(bottom, pictured)
    return figure


def draw_views(pictured: Pictured) -> Figure:
    """Draw the views of the page alone."""
    layout = _Layout.of(pictured)
    figure = Figure(figsize=(layout.width + 0.6, layout.height + 1.6), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    _draw_top(figure, pictured, layout)
    return figure


@dataclass(frozen=True)
class _Layout:
    """The views, and how many panels of which size (inches) they take."""

    views: list[Plane]
    columns: int
    heights: list[float]
    width: float
    height: float

    @classmethod
    def of(cls, pictured: Pictured) -> _Layout:
        views = planes(pictured.fixed.grid, _centre(pictured.fixed))
        flat = len(views) == 1
        columns, inch = (4, 4.2) if flat else (len(TITLES), INCH)
        heights = [min(2.0, max(0.3, view.grid.size[1] / view.grid.size[0])) for view in views] * (2 if flat else 1)
        return cls(views, columns, heights, inch * columns, inch * sum(heights))


def _draw_top(top: SubFigure | Figure, pictured: Pictured, layout: _Layout) -> None:
    """The views, their titles, scale and key."""
    flat, height = len(layout.views) == 1, layout.height
    windows = _window(pictured.fixed), _window(pictured.moving)
    limit = _volume_limit(pictured.jacobian)
    axes = top.subplots(
        len(layout.heights),
        layout.columns,
        squeeze=False,
        gridspec_kw={"height_ratios": layout.heights, "wspace": 0.04, "hspace": 0.12 if flat else 0.05}
        | {"left": 0.025, "right": 0.985, "bottom": 0.75 / (height + 1.6), "top": 1 - 0.85 / (height + 1.6)},
    )
    for row, view in enumerate(layout.views):
        panels = list(axes.ravel() if flat else axes[row])
        slices = _Slices.of(pictured, view, windows)
        volume_map = _draw_view(panels, slices, view, limit)
        if row == 0:
            for axis, title in zip(panels, TITLES.values(), strict=False):
                axis.set_title(title, fontsize=15)
    if flat:
        axes.ravel()[-1].axis("off")
    top.suptitle(pictured.title, fontsize=17, fontweight="bold")
    _draw_scale(top, volume_map, axes.ravel()[6] if flat else axes[-1][-1], limit)
    key = "      ".join(f"{name}: {meaning}" for name, meaning in KEY)
    top.text(0.025, 0.012, key, fontsize=11, color="#444444")


@dataclass(frozen=True)
class _Slices:
    """One view's pixels: intensities from 0 to 1 (NaN where unknown), displacement in pixels, determinants."""

    fixed: np.ndarray
    before: np.ndarray
    after: np.ndarray
    displacement: np.ndarray
    jacobian: np.ndarray

    @classmethod
    def of(cls, pictured: Pictured, view: Plane, windows: tuple[Window, Window]) -> _Slices:
        field = pictured.transform.displacement_on(view.grid)
        identity = Transform((), field.dimension)
        return cls(
            fixed=_scaled(_pixels(pictured.fixed, view, identity), windows[0]),
            before=_scaled(_pixels(pictured.moving, view, identity), windows[1]),
            after=_scaled(_pixels(pictured.moving, view, Transform((field,))), windows[1]),
            displacement=field.values[0, -2:].reshape(2, *view.grid.shape[-2:]).numpy(),
            jacobian=_pixels(pictured.jacobian, view, identity),
        )


def _pixels(volume: Volume, view: Plane, transform: Transform) -> np.ndarray:
    """A volume at the pixels of a view, through a transform; NaN where it was not scanned."""
    image = sitk.Cast(volume.to_sitk(), sitk.sitkFloat32)
    seen = resample(image, view.grid, transform.to_sitk(), background=math.nan)
    return sitk.GetArrayFromImage(seen).reshape(view.grid.shape[-2:])


def _scaled(pixels: np.ndarray, window: Window) -> np.ndarray:
    return np.clip((pixels - window[0]) / (window[1] - window[0]), 0, 1)


def _sample(volume: Volume) -> np.ndarray:
    """About a hundred thousand of the finite intensities, for statistics."""
    values = volume.array.ravel()[:: max(1, volume.array.size // 100_000)].astype(float)
    return values[np.isfinite(values)]


def _window(volume: Volume) -> Window:
    """The intensities to show as black and white: percentiles of what is not background."""
    values = _sample(volume)
    foreground = values[values > values.min()]
    low, high = np.percentile(foreground if foreground.size else values, [0.5, 99.5])
    return (low, high) if high > low else (low, low + 1)


def _centre(volume: Volume) -> np.ndarray:
    """Physical point in the middle of the brighter part of an image."""
    step = [max(1, n // 64) for n in volume.array.shape[1:]]
    coarse = volume.array[0][tuple(slice(None, None, s) for s in step)].astype(float)
    inside = (
        np.argwhere(coarse > threshold_otsu(coarse)) if coarse.max() > coarse.min() else np.argwhere(coarse == coarse)
    )
    return volume.grid.physical((np.median(inside, axis=0) * step)[::-1])


def _volume_limit(jacobian: Volume) -> float:
    """The factor, one of a few round ones, that spans the colours of the volume map."""
    values = np.abs(np.log(np.clip(_sample(jacobian), 0.1, 10)))
    spread = math.exp(np.percentile(values, 99))
    return next((limit for limit in (1.25, 1.5, 2.0, 3.0) if spread <= limit), 4.0)


def _draw_view(panels: Sequence[Axes], slices: _Slices, view: Plane, limit: float) -> AxesImage:
    """Fill one view's seven panels; return the volume map's image, for its scale."""
    plain = gaussian_filter(slices.fixed, 1.5)
    levels = _contour_levels(plain)
    for axis, pixels in zip(panels, (slices.fixed, slices.before, slices.after), strict=False):
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        if axis is not panels[0] and levels:
            axis.contour(plain, levels=levels, colors=CONTOUR, linewidths=0.7)
    for axis, pixels in zip(panels[3:], (slices.before, slices.after), strict=False):
        axis.imshow(pixels - slices.fixed, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    panels[5].imshow(slices.fixed, cmap="gray", vmin=0, vmax=1.6, interpolation="nearest")
    _draw_grid(panels[5], slices.displacement)
    volume_map = panels[6].imshow(
        np.log(np.clip(slices.jacobian, 1e-3, 1e3)), cmap="PuOr_r", vmin=-math.log(limit), vmax=math.log(limit)
    )
    folded = np.where(slices.jacobian <= 0, 1.0, np.nan)
    panels[6].imshow(folded, cmap=ListedColormap([FOLDED]), interpolation="nearest")
    for axis in panels[:7]:
        _dress(axis, slices.fixed.shape, view)
    return volume_map


def _contour_levels(pixels: np.ndarray) -> list[float]:
    """Intensities that part an image into background and tissues; none where it is too plain."""
    values = pixels[np.isfinite(pixels)]
    if np.unique(np.round(values, 2)).size < 8:
        return []
    return [float(level) for level in threshold_multiotsu(values, classes=3, nbins=64)]


def _draw_grid(axis: Axes, displacement: np.ndarray) -> None:
    """Where a regular grid goes, without the linear part of the motion, which would carry it off the panel."""
    rows, columns = np.indices(displacement.shape[1:], dtype=float)
    design = np.stack([np.ones(rows.size), rows.ravel(), columns.ravel()], axis=1)
    linear = design @ np.linalg.lstsq(design, displacement.reshape(2, -1).T, rcond=None)[0]
    down, right = displacement - linear.T.reshape(displacement.shape)
    gap = max(4, max(rows.shape) // 28)
    for n in range(gap // 2, rows.shape[0], gap):
        axis.plot((columns + right)[n], (rows + down)[n], color=CONTOUR, linewidth=0.7)
    for n in range(gap // 2, rows.shape[1], gap):
        axis.plot((columns + right)[:, n], (rows + down)[:, n], color=CONTOUR, linewidth=0.7)


def _dress(axis: Axes, shape: tuple[int, ...], view: Plane) -> None:
    """No ticks, the colour of the unknown behind, the view's letters at the edges."""
    axis.set(xticks=[], yticks=[], facecolor=OUTSIDE, xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))
    for spine in axis.spines.values():
        spine.set_color("#bbbbbb")
    places = (
        (0.02, 0.5, "left", "center"),
        (0.98, 0.5, "right", "center"),
        (0.5, 0.985, "center", "top"),
        (0.5, 0.015, "center", "bottom"),
    )
    for letter, (x, y, horizontal, vertical) in zip(view.edges, places, strict=True):
        text = axis.text(x, y, letter, transform=axis.transAxes, ha=horizontal, va=vertical, fontsize=12, color="white")
        text.set_path_effects([withStroke(linewidth=2.5, foreground="black")])


def _draw_scale(figure: SubFigure | Figure, volume_map: AxesImage, below: Axes, limit: float) -> None:
    """The colours of the volume map, under its last panel, as factors."""
    box = below.get_position()
    inch = box.height / below.bbox.height * figure.figure.dpi
    scale = figure.add_axes((box.x0 + 0.05 * box.width, box.y0 - 0.2 * inch, 0.9 * box.width, 0.11 * inch))
    ticks = [1 / limit, 1, limit]
    bar = figure.colorbar(volume_map, cax=scale, orientation="horizontal", ticks=np.log(ticks))
    bar.ax.set_xticklabels([f"{tick:.2g}×" for tick in ticks], fontsize=11)


def _draw_bottom(figure: SubFigure, pictured: Pictured) -> None:
    """Curves over the steps, then the facts."""
    axes = figure.subplots(
        1,
        4,
        gridspec_kw={"width_ratios": [1, 1, 1, 1.25], "wspace": 0.25, "left": 0.045, "right": 0.985}
        | {"bottom": 0.2, "top": 0.86},
    )
    for axis, (name, title) in zip(axes, CURVES.items(), strict=False):
        _draw_curve(axis, pictured.steps, name, title)
    axes[3].axis("off")
    for row, (name, value) in enumerate(pictured.facts.items()):
        height = 1 - row / max(8, len(pictured.facts))
        axes[3].text(0, height, name, va="top", fontsize=12, color="#555555")
        axes[3].text(0.4, height, value, va="top", fontsize=12)


def _draw_curve(axis: Axes, steps: Sequence[Mapping[str, Any]], name: str, title: str) -> None:
    """One number over the steps; only similarity is of one scale throughout, so the stages of others are kept apart."""
    axis.set_title(title, fontsize=13, loc="left")
    axis.set_xlabel("step", fontsize=12)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axis.tick_params(labelsize=11)
    axis.grid(color="#dddddd", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    highest = 0.0
    for _, stage in itertools.groupby(steps, key=_stage if name != "similarity" else lambda _: None):
        known = [(s["index"], s[name]) for s in stage if s.get(name) is not None and math.isfinite(s[name])]
        if known:
            numbers, values = zip(*known, strict=True)
            axis.plot(numbers, values, color="#1f4e9c", linewidth=1.8, marker="o", markersize=2.5)
            highest = max(highest, *values)
    if name == "mean_update_mm" and highest > 0:
        axis.set_yscale("log", nonpositive="mask")  # from half a metre to some micrometres
    if name == "folding":
        axis.set_ylim(bottom=0, top=max(0.01, 1.1 * highest))
    for before, after in itertools.pairwise(steps):
        if _stage(before) != _stage(after):
            axis.axvline(after["index"] - 0.5, color="#999999", linewidth=0.9, linestyle="--")


def _stage(step: Mapping[str, Any]) -> str:
    """The stage without its count: "affine 3/7" is "affine"."""
    return str(step["stage"]).rpartition(" ")[0]
