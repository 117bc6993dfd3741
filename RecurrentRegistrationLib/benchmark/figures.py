"""Figures of a benchmark, legible at the width of a printed column."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from RecurrentRegistrationLib.benchmark.measures import MEASURES
from RecurrentRegistrationLib.benchmark.table import NONE, per_pair

# Okabe and Ito's colours, which people with any colour vision can tell apart, then darker ones.
COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d"),
    *("#7f3b08", "#1b4332", "#5a189a", "#8d99ae", "#a3a300"),
)
MARKERS = "osD^vP*X<>hp"
WIDTH = 7.2  # inches: a page of text


def colours(methods: Sequence[str]) -> dict[str, str]:
    """A colour for each method, the same in all figures."""
    return dict(zip(methods, itertools.cycle(COLOURS)))


def boxes(frame: pd.DataFrame, measures: Sequence[str]) -> Figure:
    """One panel a measure: a box for each method over the pairs, every pair a dot."""
    methods = list(dict.fromkeys(frame["method"]))
    columns = 2 if len(measures) > 1 else 1
    rows = -(-len(measures) // columns)
    height = 0.26 * len(methods) + 0.75
    figure = _figure(WIDTH, rows * height + 0.1)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    palette = colours(methods)
    for axis, name in zip(axes, measures, strict=False):
        values = per_pair(frame, name)
        _boxes_of(axis, [values[m].dropna().to_numpy() for m in methods], [palette[m] for m in methods])
        axis.set_xlabel(_axis_title(name))
        axis.set_yticks(range(1, len(methods) + 1), methods)
        axis.set_ylim(len(methods) + 0.6, 0.4)
    for axis in axes[len(measures) :]:
        axis.remove()
    return figure


def _boxes_of(axis: Axes, samples: Sequence[np.ndarray], shades: Sequence[str]) -> None:
    generator = np.random.default_rng(0)
    drawn = axis.boxplot(samples, orientation="horizontal", widths=0.6, showfliers=False, patch_artist=True)
    for n, (box, median, values, shade) in enumerate(
        zip(drawn["boxes"], drawn["medians"], samples, shades, strict=True), start=1
    ):
        box.set(facecolor=shade, alpha=0.3, edgecolor=shade)
        median.set(color=shade, linewidth=2)
        height = n + generator.uniform(-0.2, 0.2, len(values))
        axis.plot(values, height, "o", color=shade, markersize=2.5, zorder=3)
    for line, shade in zip(drawn["whiskers"] + drawn["caps"], np.tile(np.repeat(shades, 2), 2), strict=True):
        line.set(color=shade)
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)


def accuracy_and_time(frame: pd.DataFrame, measure: str) -> Figure:
    """Mean accuracy of each method against the seconds it takes, with the spread over pairs."""
    figure = _figure(WIDTH, 3.6)
    axis = figure.subplots()
    accuracy, seconds = per_pair(frame, measure), per_pair(frame, "seconds")
    for n, (method, colour) in enumerate(colours(list(accuracy.columns)).items()):
        values, times = accuracy[method].dropna(), seconds[method].dropna()
        if len(values) and method == NONE:
            axis.axhline(values.mean(), color=colour, linestyle="--", linewidth=1, label=method)
        elif len(values):
            spread = values.std(ddof=1) if len(values) > 1 else 0.0
            axis.errorbar(
                times.mean(),
                values.mean(),
                yerr=spread,
                fmt=MARKERS[n % len(MARKERS)],
                color=colour,
                markersize=7,
                capsize=2,
                elinewidth=0.8,
                label=method,
            )
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("seconds per pair (logarithmic scale)")
    axis.set_ylabel(_axis_title(measure))
    axis.grid(which="both", color="#e5e5e5", linewidth=0.6)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


Curves = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]


def steps(curves: Curves, measures: Sequence[str], palette: Mapping[str, str]) -> Figure:
    """Each measure over the steps after the linear alignment: the mean over pairs, and the quartiles around it.

    The axis counts steps where all methods make about as many, otherwise the share of them.

    Args:
        curves: for each method the records of each of its runs, "index" counted from the end of the alignment.
        measures: the panels.
        palette: colours of the methods.
    """
    columns = min(2, len(measures))
    rows = -(-len(measures) // columns)
    figure = _figure(WIDTH, 2.6 * rows + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    lengths = {method: max(run[-1]["index"] for run in runs) for method, runs in curves.items()}
    counted = max(lengths.values()) <= 5 * min(lengths.values())
    share = np.linspace(0, 1, 101)
    for axis, name in zip(axes, measures, strict=False):
        for method, runs in curves.items():
            lines = [line for run in runs if (line := _resampled(run, name, share)) is not None]
            if lines:
                x = share * (lengths[method] if counted else 100)
                low, high = np.percentile(lines, [25, 75], axis=0)
                axis.plot(x, np.mean(lines, axis=0), color=palette[method], linewidth=1.6, label=method)
                axis.fill_between(x, low, high, color=palette[method], alpha=0.15, linewidth=0)
        axis.set_xlabel("step" if counted else "steps made (%)")
        axis.set_ylabel(_axis_title(name))
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.grid(color="#e5e5e5", linewidth=0.6)
    for axis in axes[len(measures) :]:
        axis.remove()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(5, max(1, len(labels))), frameon=False)
    return figure


def _resampled(run: Sequence[Mapping[str, Any]], name: str, share: np.ndarray) -> np.ndarray | None:
    known = [(record["index"], record[name]) for record in run if record.get(name) is not None]
    if not known:
        return None
    index, values = np.array(known, float).T
    return np.interp(share * index[-1], index, values)


def calibration(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Error against uncertainty, and what error is left when the most uncertain voxels are set aside.

    Args:
        found: for each kind of uncertainty the calibrations of its runs, as `Calibration.as_dict` gives them.
    """
    figure = _figure(WIDTH, 3.3)
    against, left = figure.subplots(1, 2)
    palette = colours(list(found))
    highest = 0.0
    for kind, runs in found.items():
        mean = {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}
        label = f"{kind} (rank correlation {mean['rank_correlation']:.2f})"
        against.plot(mean["uncertainty"], mean["error"], "o-", color=palette[kind], markersize=3.5, label=label)
        left.plot(100 * mean["removed"], mean["left"], color=palette[kind], linewidth=1.6)
        highest = max(highest, mean["uncertainty"].max(), mean["error"].max())
    against.axline((0, 0), slope=1, color="#888888", linestyle="--", linewidth=0.9, label="equal")
    against.set(xlabel="uncertainty (mm), mean of a tenth of the voxels", ylabel="true error (mm)")
    against.set(xlim=(0, 1.05 * highest), ylim=(0, 1.05 * highest))
    left.plot(
        100 * mean["removed"], mean["best"], color="#888888", linestyle="--", linewidth=0.9, label="by the true error"
    )
    left.set(xlabel="most uncertain voxels set aside (%)", ylabel="mean error of the others (mm)", ylim=(0, None))
    for axis in (against, left):
        axis.grid(color="#e5e5e5", linewidth=0.6)
        axis.legend(frameon=False, fontsize=8)
    return figure


def motion(densities: Mapping[str, np.ndarray], against: str) -> Figure:
    """How differently near voxels move: the histogram of one method, and how those of the others differ from it.

    Args:
        densities: of each method, `[distances, differences]` in bins of a voxel, mean over pairs.
        against: the method that the others are compared with.
    """
    methods = [against, *(m for m in densities if m not in (against, NONE))]
    columns = min(3, len(methods))
    rows = -(-len(methods) // columns)
    figure = _figure(WIDTH, 2.5 * rows + 0.2)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    shares = {m: 100 * densities[m] / densities[m].sum(axis=1, keepdims=True).clip(1e-12) for m in methods}
    reach = 1 + max(int(np.flatnonzero((d > 0.5).any(axis=0)).max(initial=1)) for d in shares.values())
    differences = [shares[m] - shares[against] for m in methods[1:]]
    limit = max((float(np.abs(d).max()) for d in differences), default=1.0)
    for n, axis in enumerate(axes[: len(methods)]):
        values = differences[n - 1] if n else shares[against]
        scale = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if n else {"cmap": "viridis", "vmin": 0}
        drawn = axis.imshow(
            values.T, origin="lower", aspect="auto", extent=(0, len(values), 0, values.shape[1]), **scale
        )
        axis.set_title(f"{methods[n]} − {against}" if n else against, fontsize=9)
        axis.set_ylim(0, reach)
        axis.tick_params(labelbottom=n + columns >= len(methods))
        if n in (0, len(methods) - 1):
            figure.colorbar(drawn, ax=axis, label="difference (%)" if n else "share of pairs (%)")
    for axis in axes[len(methods) :]:
        axis.remove()
    figure.supxlabel("distance of two voxels (voxels)", fontsize=9)
    figure.supylabel("difference of their motions (voxels)", fontsize=9)
    return figure


def _axis_title(name: str) -> str:
    """A measure's heading with an arrow to where it is better."""
    measure = MEASURES[name]
    return measure.heading + {1: " →", -1: " ←", 0: ""}[measure.better]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure
