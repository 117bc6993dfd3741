"""`series.png`: what the registration of a series did, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from RecurrentRegistrationLib.pipeline.series import Frame

BEFORE, AFTER = "#8d99ae", "#1f4e9c"
CUT = "#ffb000"


def draw(frames: Sequence[Frame], report: dict[str, Any]) -> Figure:
    """The template with a line, that line over time before and after, mean images, and numbers for each frame."""
    figure = Figure(figsize=(11, 6.6), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    halves = figure.add_gridspec(2, 1, height_ratios=[1, 0.85])
    top, bottom = (figure.add_subfigure(halves[n]) for n in range(2))
    template = next(frame for frame in frames if not frame.report)
    before, after = (np.stack([_plane(volume.array[0]) for volume in side]) for side in _sides(frames))
    low, high = np.percentile(before, [0.5, 99.5])
    grey = {"cmap": "gray", "vmin": low, "vmax": high, "interpolation": "nearest"}
    panels = top.subplots(1, 4)
    row = _liveliest_row(before)
    panels[0].imshow(before[template.number], **grey)
    panels[0].axhline(row, color=CUT, linewidth=1.2)
    panels[0].set_title(f"Template, frame {template.number}", fontsize=11)
    for panel, stack, name in ((panels[1], before, "before"), (panels[2], after, "after")):
        panel.imshow(stack[:, row].T, aspect="auto", **grey)
        panel.set_title(f"Orange line over time, {name}", fontsize=11)
        panel.set_xlabel("frame")
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    spread = [stack.std(axis=0) for stack in (before, after)]
    shown = panels[3].imshow(np.hstack(spread), cmap="magma", vmin=0, vmax=np.percentile(spread[0], 99.5))
    panels[3].axvline(spread[0].shape[1] - 0.5, color="white", linewidth=1.5)
    panels[3].set_title("Deviation over time,\nbefore | after", fontsize=11)
    top.colorbar(shown, ax=panels[3], shrink=0.75, label="intensity")
    for panel in (panels[0], panels[3]):
        panel.set(xticks=[], yticks=[])
    for panel in panels[1:3]:
        panel.set_yticks([])
    _draw_numbers(bottom.subplots(1, 3), frames, report)
    return figure


def _sides(frames: Sequence[Frame]) -> tuple[list[Any], list[Any]]:
    return [frame.image for frame in frames], [frame.warped for frame in frames]


def _plane(pixels: np.ndarray) -> np.ndarray:
    """A 2D image as it is, of a 3D one the middle coronal plane, where breathing and heart beat show, head up."""
    return pixels if pixels.ndim == 2 else pixels[::-1, pixels.shape[1] // 2]


def _liveliest_row(stack: np.ndarray) -> int:
    """The row in the middle half whose pixels change most over time."""
    quarter = stack.shape[1] // 4
    return quarter + int(stack.std(axis=0)[quarter : max(3 * quarter, quarter + 1)].mean(axis=1).argmax())


def _draw_numbers(axes: Sequence[Axes], frames: Sequence[Frame], report: dict[str, Any]) -> None:
    numbers = [frame.number for frame in frames]
    landmarks = report.get("landmarks_mm")
    for name, colour in (("before", BEFORE), ("after", AFTER)):
        axes[0].plot(numbers, report[name]["correlation"], "o-", color=colour, markersize=3.5, label=name)
        if landmarks:
            each = landmarks[name]["frames"]
            axes[2].plot(list(each), list(each.values()), "o-", color=colour, markersize=3.5, label=name)
    axes[0].set(xlabel="frame", ylabel="correlation with the template")
    titles = {"d_pca1": "D_PCA1", "d_pca2": "D_PCA2"}
    known = [name for name in titles if report["before"][name] is not None]
    places = np.arange(len(known))
    for offset, (name, colour) in zip((-0.2, 0.2), (("before", BEFORE), ("after", AFTER)), strict=True):
        values = [report[name][key] for key in known]
        first = [report["before"][key] or 1 for key in known]
        bars = axes[1].bar(places + offset, np.divide(values, first), 0.36, color=colour, label=name)
        axes[1].bar_label(bars, [f"{value:.3g}" for value in values], fontsize=9)
    axes[1].set_xticks(places, [titles[key] for key in known])
    axes[1].set(xlim=(-0.75, len(known) - 0.25), ylabel="share of the value before", ylim=(0, 1.15))
    moved = [frame.number for frame in frames if frame.report]
    if landmarks:
        axes[2].set(xlabel="frame", ylabel="target registration error (mm)")
    else:
        axes[2].plot(moved, report["displacement_mm"], "o-", color=AFTER, markersize=3.5)
        axes[2].set(xlabel="frame", ylabel="mean displacement (mm)")
    axes[2].set_ylim(bottom=0)
    for axis in (axes[0], axes[2]):
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    for axis in axes:
        axis.grid(axis="y", color="#dddddd", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
