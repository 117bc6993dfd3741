"""The rows of a benchmark as tables: every run, the mean of every method, and tests of the differences."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import wilcoxon

from RecurrentRegistrationLib.benchmark.ledger import COLUMNS
from RecurrentRegistrationLib.benchmark.manifest import OURS
from RecurrentRegistrationLib.benchmark.measures import MEASURES, accuracy
from RecurrentRegistrationLib.benchmark.runner import Benchmark
from RecurrentRegistrationLib.errors import InputError

NONE = "none"  # the label of what registers nothing
HIDDEN = (
    "distance_p95_mm",
    "folded_voxels",
    "jacobian_min",
    "jacobian_max",
    "folding_magnitude",
    "steps",
)
INTENSITIES = ("foreground_dice", "rmse", "mutual_information")


def load(benchmark: Benchmark) -> pd.DataFrame:
    """The last row of each run that the manifest asks for, in its order; measures as numbers, NaN where unknown.

    Raises:
        InputError: there is none yet.
    """
    order, labels = {}, {}
    for n, job in enumerate(benchmark.jobs()):
        order[job.key], labels[job.key] = n, job.contender.label
    newest = {
        row["key"]: row | {"method": labels[row["key"]]} for row in benchmark.ledger.rows() if row["key"] in order
    }
    if not newest:
        raise InputError(f"There are no results of '{benchmark.manifest.name}' in {benchmark.folder} yet.")
    frame = pd.DataFrame(sorted(newest.values(), key=lambda row: order[row["key"]]), columns=list(COLUMNS))
    for name in ("repeat", *MEASURES):
        frame[name] = pd.to_numeric(frame[name])
    return frame


def known_measures(frame: pd.DataFrame) -> list[str]:
    """The measures that some run has."""
    return [name for name in MEASURES if frame[name].notna().any()]


def ranked_by(benchmark: Benchmark, frame: pd.DataFrame) -> str:
    """The measure of accuracy: the manifest's, or the first that is known."""
    return benchmark.manifest.accuracy or accuracy(set(known_measures(frame)))


def reference(benchmark: Benchmark) -> str:
    """The label that all others are tested against: the manifest's, the first of ours, or the first."""
    contenders = benchmark.manifest.contenders
    labels = [c.label for c in contenders]
    ours = [c.label for c in contenders if c.program == OURS]
    named = benchmark.manifest.against
    return named if named in labels else (ours or labels)[0]


def per_pair(frame: pd.DataFrame, measure: str) -> pd.DataFrame:
    """A measure by pair (rows) and method (columns), averaged over repeats."""
    done = frame[frame["status"] == "done"]
    table = done.pivot_table(index="pair", columns="method", values=measure, aggfunc="mean", sort=False)
    return table.reindex(columns=list(dict.fromkeys(frame["method"])))


def summary(frame: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Mean and standard deviation over pairs of each measure, by method; how many pairs it did and failed."""
    rows = {}
    for method, runs in frame.groupby("method", sort=False):
        counts = {"pairs": runs.loc[runs["status"] == "done", "pair"].nunique()}
        counts["failed"] = int((runs["status"] == "failed").sum())
        rows[method] = counts
    table = pd.DataFrame.from_dict(rows, orient="index")
    for name in measures:
        values = per_pair(frame, name)
        table[f"{name} mean"] = values.mean().reindex(table.index)
        table[f"{name} sd"] = values.std(ddof=1).reindex(table.index)
    return table


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number after Holm (1979): the k-th smallest of m times m - k + 1, never falling."""
    p = np.asarray(values, float)
    order = np.argsort(p)
    factors = len(p) - np.arange(len(p))
    stepped = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    corrected = np.empty_like(p)
    corrected[order] = stepped
    return corrected.tolist()


def signed_rank(differences: npt.ArrayLike) -> float:
    """p of the two-sided Wilcoxon signed-rank test of differences `[N]`; 1 where none differs."""
    return float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0


def tests(frame: pd.DataFrame, measure: str, against: str) -> pd.DataFrame:
    """Two-sided Wilcoxon signed-rank tests of every method against one, over pairs, corrected after Holm.

    Returns:
        For each other method the number of pairs, the median difference (method - against), p and corrected p; methods
        that share fewer than two pairs with it are left out.
    """
    values = per_pair(frame, measure)
    rows = []
    for method in values.columns:
        difference = (values[method] - values[against]).dropna() if against in values else pd.Series(dtype=float)
        if method != against and len(difference) > 1:
            p = signed_rank(difference)
            rows.append({"method": method, "pairs": len(difference), "median": difference.median(), "p": p})
    table = pd.DataFrame(rows, columns=["method", "pairs", "median", "p"])
    table["corrected"] = holm(table["p"].tolist())
    return table


def stars(p: float) -> str:
    """How a corrected p is marked in a table."""
    return next((mark for limit, mark in ((0.001, "***"), (0.01, "**"), (0.05, "*")) if p < limit), "")


def shown(frame: pd.DataFrame) -> list[str]:
    """The measures that a printed table has room for; those of intensities only where there is no other truth."""
    known = known_measures(frame)
    hidden = HIDDEN + (INTENSITIES if accuracy(set(known)) != "foreground_dice" else ())
    return [name for name in known if name not in hidden]


def cells(frame: pd.DataFrame, measures: Sequence[str], marks: dict[str, str] | None = None) -> pd.DataFrame:
    """The summary as text: mean ± standard deviation, the best mean of those that did all pairs in **bold**.

    Args:
        frame: of `load`.
        measures: the columns.
        marks: behind a method's name, its significance.
    """
    table = summary(frame, measures)
    text = pd.DataFrame({"method": [f"{m}{(marks or {}).get(m, '')}" for m in table.index]}, index=table.index)
    text["pairs"] = [
        f"{pairs}" + (f" ({failed} failed)" if failed else "")
        for pairs, failed in zip(table["pairs"], table["failed"], strict=True)
    ]
    ranked = [m for m, pairs in table["pairs"].items() if m != NONE and pairs == table["pairs"].max()]
    for name in measures:
        text[MEASURES[name].heading] = _column(table[f"{name} mean"], table[f"{name} sd"], name, ranked)
    return text


def _column(mean: pd.Series, deviation: pd.Series, name: str, ranked: Sequence[str]) -> list[str]:
    measure = MEASURES[name]
    rounded = mean.round(measure.digits)
    real = rounded[list(ranked)].dropna()
    best = {1: real.max(), -1: real.min(), 0: None}[measure.better] if real.nunique() > 1 else None
    column = []
    for label, value in mean.items():
        if pd.isna(value):
            column.append("")
            continue
        entry = f"{value:.{measure.digits}f}"
        if not pd.isna(deviation[label]):
            entry += f" ± {deviation[label]:.{measure.digits}f}"
        is_best = rounded[label] == best and label in real.index
        column.append(f"**{entry}**" if is_best else entry)
    return column


def markdown(text: pd.DataFrame) -> str:
    """A table of text as Markdown, numbers to the right."""
    head = "| " + " | ".join(text.columns) + " |"
    rule = "|" + "|".join("---" if n == 0 else "---:" for n in range(len(text.columns))) + "|"
    rows = ["| " + " | ".join(escape(str(v)) for v in row) + " |" for row in text.itertuples(index=False)]
    return "\n".join([head.replace("|J|", "\\|J\\|"), rule, *rows]) + "\n"


def escape(cell: str) -> str:
    """A text that Markdown, and the page made of it, shows as it is; stars and backslashes stay, for marks."""
    text = html.escape(" ".join(cell.split()), quote=False).replace("\\|", "&#92;|")
    return text.translate({ord("|"): "\\|"} | {ord(sign): f"&#{ord(sign)};" for sign in "`[]"})


def code(text: str) -> str:
    """A text between backticks, also in a table."""
    return f"`{' '.join(text.split())}`" if not set(text) & set("`|") else escape(text)


TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def latex(text: pd.DataFrame, caption: str) -> str:
    """The same as a LaTeX table (package booktabs)."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(text.columns) - 1)}}}",
        r"\toprule",
        " & ".join(map(_tex, text.columns)) + r" \\",
        r"\midrule",
        *(" & ".join(map(_tex, row)) + r" \\" for row in text.itertuples(index=False)),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tex(cell: object) -> str:
    text = str(cell)
    bold = text.startswith("**") and text.endswith("**") and len(text) > 4
    text = text[2:-2] if bold else text
    text = re.sub(r"[\\~^<>]", lambda found: TEX[found[0]], re.sub(r"([&%$#_{}])", r"\0\1", " ".join(text.split())))
    text = text.replace("\0", "\\")
    text = text.replace("±", r"$\pm$").replace("|J|", "$|J|$")
    return rf"\textbf{{{text}}}" if bold else text
