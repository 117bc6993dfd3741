"""All tables of several manifests as one Markdown document, with what is needed to make them again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from RecurrentRegistrationLib.benchmark import table
from RecurrentRegistrationLib.benchmark.measures import MEASURES
from RecurrentRegistrationLib.benchmark.page import machine
from RecurrentRegistrationLib.benchmark.runner import Benchmark
from RecurrentRegistrationLib.io.files import complete
from RecurrentRegistrationLib.pipeline.report import versions


def write(benchmarks: Sequence[Benchmark], path: Path, *, command: str) -> None:
    """Write the document.

    Raises:
        InputError: the file cannot be written.
    """
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    parts = [
        "# Results",
        "Our methods beside the programs one would otherwise pick, on real scans. Every registration ran in a process "
        "of its own with the same files and threads, and one code judged all results. Means ± standard deviations over "
        "pairs; bold: the best mean of a column among the methods that did all pairs, “none” apart. Stars: the first "
        "measure of the table differs from the method it is tested against (two-sided Wilcoxon signed-rank test over "
        "pairs, Holm-corrected): \\* p < 0.05, \\*\\* p < 0.01, \\*\\*\\* p < 0.001. CPU time is that of the whole "
        "process, start, reading and writing included; unlike the clock's it depends little on what else the machine "
        "does.",
        f"| | |\n|---|---|\n| date | {datetime.now(UTC):%Y-%m-%d} |\n| hardware | {machine()} |\n"
        f"| versions | {found} |\n| command | {table.code(f'recurrent-registration {command}')} |",
        *map(_section, benchmarks),
    ]
    with complete(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _section(benchmark: Benchmark) -> str:
    frame = table.load(benchmark)
    ranked, against = table.ranked_by(benchmark, frame), table.reference(benchmark)
    compared = table.tests(frame, ranked, against)
    marks = {row.method: table.stars(row.corrected).replace("*", "\\*") for row in compared.itertuples()}
    columns = [ranked, *(name for name in table.shown(frame) if name not in (ranked, "seconds"))]
    text = table.cells(frame, columns, marks)
    pairs = frame["pair"].nunique()
    told = (
        f"Tested against {table.code(against)} by {MEASURES[ranked].title}."
        if len(compared)
        else "Too few pairs for a test."
    )
    done = frame[frame["status"] == "done"].groupby("method")["pair"].nunique()
    if done.nunique() > 1:
        told += " Where a method has fewer pairs its means are of those alone; the tests below compare pair by pair."
    missing = [c.label for c in benchmark.manifest.contenders if c.label not in set(frame["method"])]
    if missing:
        told += f" Not run yet: {table.escape(', '.join(missing))}."
    lines = [
        f"## {table.escape(benchmark.manifest.name)}",
        f"{pairs} pair{'s' if pairs > 1 else ''}, {benchmark.manifest.threads} thread"
        f"{'s' if benchmark.manifest.threads > 1 else ''}. {told}",
        table.markdown(text).rstrip(),
    ]
    if len(compared):
        rows = "\n".join(
            f"| {table.escape(row.method)} | {row.pairs} | {row.median:+.4f} | {row.p:.2g} | {row.corrected:.2g} |"
            for row in compared.itertuples()
        )
        lines.append(
            f"| method | pairs | median difference of {MEASURES[ranked].heading} | p | p, corrected |\n"
            f"|---|---:|---:|---:|---:|\n{rows}"
        )
    return "\n\n".join(lines)
