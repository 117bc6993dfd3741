"""Everything that is made of a manifest's rows: tables, tests, figures, and one HTML page that holds them all."""

from __future__ import annotations

import base64
import io
import json
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.benchmark import figures, table
from RecurrentRegistrationLib.benchmark.ledger import plain
from RecurrentRegistrationLib.benchmark.manifest import OURS, Pair
from RecurrentRegistrationLib.benchmark.measures import MEASURES
from RecurrentRegistrationLib.benchmark.runner import MOTION, Benchmark
from RecurrentRegistrationLib.benchmark.scoring import read_result
from RecurrentRegistrationLib.io.files import complete, safe_name
from RecurrentRegistrationLib.pipeline.report import versions
from RecurrentRegistrationLib.report.page import Pictured, draw_views
from RecurrentRegistrationLib.volume import Volume

BOXED = ("dice", "hausdorff95_mm", "tre_mm", "distance_mm", "folding_percent", "log_jacobian_deviation", "seconds")
STEPPED = ("dice", "tre_mm", "distance_mm", "hausdorff95_mm", "folding_percent")
WORST = 3  # cases of the method that all others are tested against
TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Case:
    """A pair on which a method did badly."""

    method: str
    pair: str
    value: float


def write(benchmark: Benchmark) -> Path:
    """Write `summary.md`, `.tex`, `.csv`, `tests.csv`, `figures/*.png` and `report.html`; return the report's path.

    Raises:
        InputError: the folder cannot be written.
    """
    frame = table.load(benchmark)
    ranked, against = table.ranked_by(benchmark, frame), table.reference(benchmark)
    compared = table.tests(frame, ranked, against)
    marks = {row.method: table.stars(row.corrected) for row in compared.itertuples()}
    text = table.cells(frame, table.shown(frame), marks)
    drawn = _draw(benchmark, frame, ranked, against)
    folder = benchmark.folder
    _put(folder / "summary.md", table.markdown(text))
    _put(folder / "summary.tex", table.latex(text, benchmark.manifest.name))
    _put(
        folder / "summary.csv",
        table.summary(frame, table.known_measures(frame)).rename(index=plain).to_csv(index_label="method"),
    )
    _put(folder / "tests.csv", compared.map(plain).to_csv(index=False))
    for name, figure in drawn.items():
        with complete(folder / "figures" / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png")
    cases = worst_cases(frame, ranked, against)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = lambda text: text.strip("*")
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=benchmark.manifest.name,
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        pairs=frame["pair"].nunique(),
        machine=machine(),
        versions=versions(),
        threads=benchmark.manifest.threads,
        repeats=benchmark.manifest.repeats,
        text=text,
        against=against,
        ranked=MEASURES[ranked],
        tests=list(compared.itertuples()),
        stars=table.stars,
        figures={name: _inline(figure) for name, figure in drawn.items()},
        measures=[MEASURES[name] for name in table.shown(frame)],
        contenders=[
            (c.label, c.command or f"{c.program} {_options(c.options)}") for c in benchmark.manifest.contenders
        ],
        cases=[(case, _picture(benchmark, case)) for case in cases],
        failures=list(frame[frame["status"] != "done"].itertuples()),
    )
    _put(folder / "report.html", page)
    return folder / "report.html"


def _draw(benchmark: Benchmark, frame: pd.DataFrame, ranked: str, against: str) -> dict[str, Figure]:
    """The figures for which there are numbers."""
    drawn: dict[str, Figure] = {}
    if known := [n for n in table.known_measures(frame) if n in (ranked, *BOXED) and frame[n].nunique() > 1]:
        drawn["boxes"] = figures.boxes(frame, known)
    if frame.loc[frame["seconds"].notna(), "method"].nunique() > 1:
        drawn["accuracy_and_time"] = figures.accuracy_and_time(frame, ranked)
    curves = read_curves(benchmark)
    records = [record for runs in curves.values() for run in runs for record in run]
    stepped = [name for name in STEPPED if len({record.get(name) for record in records}) > 1]
    if set(stepped) - {"folding_percent"}:
        palette = figures.colours([c.label for c in benchmark.manifest.contenders])
        drawn["steps"] = figures.steps(curves, stepped, palette)
    if densities := read_motion(benchmark):
        drawn["motion"] = figures.motion(densities, against if against in densities else next(iter(densities)))
    for contender in benchmark.manifest.contenders:
        if found := read_calibrations(benchmark, contender.label):
            drawn[f"calibration_{safe_name(contender.label)}"] = figures.calibration(found)
    return drawn


def read_motion(benchmark: Benchmark) -> dict[str, np.ndarray]:
    """For each method its motion histogram, mean over runs."""
    found: dict[str, list[np.ndarray]] = {}
    for job in benchmark.jobs():
        if (file := benchmark.folder / job.folder / MOTION).exists():
            found.setdefault(job.contender.label, []).append(np.load(file))
    return {label: np.mean(densities, axis=0) for label, densities in found.items()}


def read_calibrations(benchmark: Benchmark, label: str) -> dict[str, list[dict[str, Any]]]:
    """For each kind of uncertainty of a method the calibrations of its runs."""
    found: dict[str, list[dict[str, Any]]] = {}
    for job in benchmark.jobs():
        file = benchmark.folder / job.folder / "calibration.json"
        if job.contender.label == label and file.exists():
            for kind, calibration in json.loads(file.read_text(encoding="utf-8")).items():
                found.setdefault(kind, []).append(calibration)
    return found


def read_curves(benchmark: Benchmark) -> dict[str, list[list[dict[str, Any]]]]:
    """For each of our methods the judged steps of each of its runs."""
    curves: dict[str, list[list[dict[str, Any]]]] = {}
    for job in benchmark.jobs():
        file = benchmark.folder / job.folder / "steps.json"
        if job.contender.program == OURS and file.exists():
            curves.setdefault(job.contender.label, []).append(json.loads(file.read_text(encoding="utf-8")))
    return curves


def worst_cases(frame: pd.DataFrame, measure: str, against: str) -> list[Case]:
    """The worst pairs of one method, then the worst of every other one."""
    values = table.per_pair(frame, measure) * MEASURES[measure].better
    cases = []
    for method in [against, *(m for m in values.columns if m != against)]:
        if method in values:
            ordered = values[method].dropna().sort_values()[: WORST if method == against else 1]
            cases += [Case(method, pair, abs(value)) for pair, value in ordered.items()]
    return cases


def _picture(benchmark: Benchmark, case: Case) -> str | None:
    """The views of a case as an inline image; None where its displacement was not kept."""
    job = next(j for j in benchmark.jobs() if (j.pair.name, j.contender.label) == (case.pair, case.method))
    transform = read_result(benchmark.folder / job.folder)
    if transform is None:
        return None
    return _inline(draw_views(_pictured(job.pair, case, transform)), dpi=55)


def _pictured(pair: Pair, case: Case, transform: Any) -> Pictured:
    fixed, moving = Volume.read(pair.fixed), Volume.read(pair.moving)
    determinant = spatial.jacobian_determinant(transform.displacement_on(fixed.grid).values)[0].numpy()
    jacobian = Volume(determinant, fixed.grid)
    return Pictured(fixed, moving, jacobian, transform, [], f"{case.pair}: {case.method}", {})


def _inline(figure: Figure, **options: Any) -> str:
    """A figure as the source of an HTML image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _put(path: Path, text: str) -> None:
    with complete(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in options.items())


def machine() -> str:
    """Processor, number of its threads, GPU if there is one, and system."""
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return ", ".join([f"{_processor()} ({os.cpu_count()} threads)", *gpus, f"{platform.system()} {platform.release()}"])


def _processor() -> str:
    """The processor's name as the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (named or [platform.processor() or platform.machine()])[0]
