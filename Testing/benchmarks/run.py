"""Register the pairs of manifests with several methods, side by side, and print what each reached and cost.

    cd Testing/benchmarks; python run.py manifests/lung_ct.yaml --data DIR --methods greedy,ours --out DIR
    cd Testing/benchmarks; python run.py --verify --data DIR --out DIR

Every registration is a process of its own with the same files and the same number of threads; every result is a
displacement image judged by the same code. Results that exist are not made again.
"""

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import manifest as manifests
import scoring
import synthetic
import typer
from manifest import Pair
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PEERS = HERE / "peers"
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
NOT_FOR_THIS_PAIR = 77  # exit status of an adapter that declines
VERIFY = "greedy,ants_syn,sitk_demons,sitk_bspline,elastix,convexadam"
COLUMNS = {  # key: heading, digits
    "dice": ("Dice", 3),
    "tre": ("TRE mm", 2),
    "distance": ("distance mm", 2),
    "foreground_dice": ("foreground Dice", 3),
    "ncc": ("NCC", 3),
    "mattes_mi": ("Mattes MI", 3),
    "seen_percent": ("seen %", 1),
    "folding_percent": ("folding %", 4),
    "folding_voxels": ("folded", 0),
    "std_log_jacobian": ("std log|J|", 3),
    "seconds": ("s", 1),
    "cpu_seconds": ("CPU s", 1),
    "peak_mib": ("peak MiB", 0),
}
console = Console(width=None if sys.stdout.isatty() else 180)


@dataclass(frozen=True)
class Method:
    """`greedy`, `ants_syn:metric=CC`, `ours:method=bspline:refine=50`: a name and its options."""

    label: str

    @property
    def name(self) -> str:
        return self.label.split(":")[0]

    @property
    def options(self) -> list[tuple[str, str]]:
        return [tuple(option.split("=", 1)) for option in self.label.split(":")[1:]]

    def command(self, pair: Pair, output: Path, threads: int, peers_python: Path) -> list[str]:
        """The command line that registers a pair into a folder."""
        files = [str(pair.fixed), str(pair.moving), "-o", str(output)]
        if pair.fixed_mask is not None:
            files += ["--fixed-mask", str(pair.fixed_mask)]
        if pair.moving_mask is not None:
            files += ["--moving-mask", str(pair.moving_mask)]
        if self.name == "ours":
            options = [text for key, value in self.options for text in (f"--{key}", value)]
            return [
                sys.executable,
                "-m",
                "RecurrentRegistrationLib",
                "register",
                *files,
                "--threads",
                str(threads),
                *options,
            ]
        adapter = PEERS / f"{self.name}.py"
        if not adapter.exists():
            known = sorted(path.stem for path in PEERS.glob("*.py") if path.stem not in ("common", "linear"))
            raise typer.BadParameter(f"unknown method {self.name!r}; known: ours, {', '.join(known)}")
        chosen = pair.settings.get(self.name, {}) | dict(self.options)
        options = [text for key, value in chosen.items() for text in ("--option", f"{key}={value}")]
        hints = ["--modality", pair.modality, "--initial", pair.initial]
        return [str(peers_python), str(adapter), *files, *hints, *options]


def register(pair: Pair, method: Method, folder: Path, threads: int, peers_python: Path) -> dict:
    """Run one registration in its own process and return its cost, or the error that it ended with."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    # The product runs from its checkout, whether or not it is installed.
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(HERE / "measure.py"), str(folder / "cost.json")]
    with open(folder / "log.txt", "w") as log:
        status = subprocess.run(
            command + method.command(pair, folder, threads, peers_python), env=environment, stdout=log, stderr=log
        ).returncode
    cost = json.loads((folder / "cost.json").read_text())
    if status == NOT_FOR_THIS_PAIR:
        return cost | {"skipped": (folder / "log.txt").read_text().strip()}
    if status or not (folder / "displacement.nrrd").exists():
        lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
        return cost | {"error": f"exit {status}: {lines[-1] if lines else 'no output'}"}
    return cost


def result_of(pair: Pair, method: Method, folder: Path, **how) -> dict:
    """Return the stored result of a registration, or make it; a failure is not stored, so that it is tried again."""
    stored = folder / "result.json"
    if stored.exists():
        return json.loads(stored.read_text())
    result = {"pair": pair.name, "method": method.label, **register(pair, method, folder, **how)}
    if "error" in result or "skipped" in result:
        return result
    result |= scoring.score(pair, folder / "displacement.nrrd")
    stored.write_text(json.dumps(result, indent=1))
    return result


def average(rows: list[dict]) -> dict:
    """Mean of every number over rows of one method."""
    shown = [key for key in COLUMNS if any(key in row for row in rows)]
    means = {key: sum(row[key] for row in rows if key in row) / sum(key in row for row in rows) for key in shown}
    failed = sum("error" in row for row in rows)
    name = f"mean of {len(rows)}" + (f", {failed} failed" if failed else "")
    return {"pair": name, "method": rows[0]["method"], **means}


def table(title: str, rows: list[dict]) -> Table:
    """Rows of results side by side, only the columns that some row has."""
    shown = [key for key in COLUMNS if any(key in row for row in rows)]
    view = Table(title=title)
    for heading in ("pair", "method", *(COLUMNS[key][0] for key in shown)):
        view.add_column(heading, justify="left" if heading in ("pair", "method") else "right")
    for row in rows:
        cells = [f"{row[key]:.{COLUMNS[key][1]}f}" if key in row else "" for key in shown]
        if "error" in row or "skipped" in row:
            cells[0] = "[red]failed[/]" if "error" in row else "not for it"
        view.add_row(row["pair"], row["method"], *cells)
    return view


def summary(rows: list[dict], pooled_from: int = 5) -> list[dict]:
    """The rows to print: each of them, or the mean of each method where there are many pairs."""
    if len({row["pair"] for row in rows}) < pooled_from:
        return rows
    return [
        average([row for row in rows if row["method"] == label]) for label in dict.fromkeys(r["method"] for r in rows)
    ]


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write every number that is not a list."""
    keys = [
        "manifest",
        "pair",
        "method",
        *COLUMNS,
        "tre_max",
        "distance_p95",
        "jacobian_min",
        "jacobian_max",
        "error",
        "skipped",
    ]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, keys, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def benchmark(manifest: manifests.Manifest, methods: list[Method], out: Path, only: str, **how) -> list[dict]:
    """Run a manifest, print its table and return its rows."""
    rows = []
    for pair in manifest.pairs:
        if only and pair.name not in only.split(","):
            continue
        for method in methods:
            folder = out / manifest.name / pair.name / method.label.replace(":", "_").replace("/", "-")
            with console.status(f"{manifest.name}/{pair.name}: {method.label}"):
                row = result_of(pair, method, folder, **how)
            if "error" in row:
                console.print(f"[red]{pair.name}: {method.label}: {row['error']}[/]  ({folder / 'log.txt'})")
            rows.append({"manifest": manifest.name, **row})
    console.print(table(manifest.name, summary(rows)))
    return rows


def verify(rows: list[dict]) -> bool:
    """Whether every method left less than a quarter of the known mapping, which no linear registration does."""
    before = {row["pair"]: row["distance"] for row in rows if row["method"] == "none"}
    wrong = [
        f"{row['pair']}: {row['method']}: {row.get('distance', float('inf')):.2f} mm of {before[row['pair']]:.2f} mm"
        for row in rows
        if row["method"] != "none"
        and "skipped" not in row
        and not row.get("distance", float("inf")) < 0.25 * before[row["pair"]]
    ]
    for line in wrong:
        console.print(f"[red]not recovered  {line}[/]")
    return not wrong


def main(
    files: Annotated[list[Path] | None, typer.Argument(metavar="MANIFEST...", help="YAML files of pairs")] = None,
    data: Annotated[Path, typer.Option(help="Root of the manifests' paths")] = Path("../shared/data"),
    methods: Annotated[str, typer.Option(help="Comma-separated; NAME[:option=value…]")] = "none,greedy,ants_syn,ours",
    out: Annotated[Path, typer.Option(help="Folder of results")] = Path("benchmark-results"),
    only: Annotated[str, typer.Option(help="Comma-separated names of pairs")] = "",
    threads: Annotated[int, typer.Option(help="Threads of every method")] = 2,
    peers_python: Annotated[Path, typer.Option(help="Python of the peers' environment")] = ROOT
    / ".venv-peers/bin/python",
    check: Annotated[bool, typer.Option("--verify", help="Recover known mappings; exit 1 where one is not")] = False,
) -> None:
    """Compare registration methods on real pairs."""
    data, out = data.resolve(), out.resolve()
    if check:
        files = [synthetic.write(data, out / "synthetic-pairs")]
        data = out / "synthetic-pairs"
        methods = "none," + (VERIFY if methods == "none,greedy,ants_syn,ours" else methods)
    if not files:
        raise typer.BadParameter("name at least one manifest, or --verify")
    chosen = [Method(label) for label in dict.fromkeys(methods.split(","))]
    rows = []
    for path in files:
        rows += benchmark(manifests.read(path, data), chosen, out, only, threads=threads, peers_python=peers_python)
    write_csv(out / "results.csv", rows)
    (out / "results.json").write_text(json.dumps(rows, indent=1))
    console.print(f"{out / 'results.csv'} and .json")
    if check and not verify(rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
