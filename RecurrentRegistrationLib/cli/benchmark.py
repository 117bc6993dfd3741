"""`benchmark`: methods side by side on the pairs of a manifest."""

from __future__ import annotations

import dataclasses
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from RecurrentRegistrationLib.errors import InputError

if TYPE_CHECKING:
    from RecurrentRegistrationLib.benchmark.manifest import Manifest
    from RecurrentRegistrationLib.benchmark.runner import Benchmark


def benchmark(
    manifests: Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="YAML files of pairs and methods.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")],
    data: Annotated[Path, typer.Option(help="Folder that the manifests' paths start from.")] = Path(),
    methods: Annotated[
        str | None,
        typer.Option(
            help="Instead of the manifests' methods: NAME[:option=value…], comma-separated; NAME is a manifest's "
            "label, a method (see 'methods') or a peer."
        ),
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="Instead of the manifests' pairs: those of this one.")] = None,
    only: Annotated[str | None, typer.Option(help="Only these pairs, comma-separated.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of every method.")] = None,
    weights: Annotated[Path, typer.Option(help="Folder that the paths of weights start from.")] = Path(),
    peers: Annotated[Path | None, typer.Option(help="Folder of the peers' adapters.")] = None,
    peers_python: Annotated[Path | None, typer.Option(help="Python of the peers' environment.")] = None,
    discard: Annotated[bool, typer.Option(help="Delete each displacement field once it is judged.")] = False,
    plan: Annotated[bool, typer.Option(help="Tell what is to be done, and do nothing.")] = False,
    report_only: Annotated[bool, typer.Option(help="Only write tables, figures and report of what is there.")] = False,
    document: Annotated[
        Path | None, typer.Option(help="Also write all tables, with hardware and versions, as this Markdown file.")
    ] = None,
) -> None:
    """Register pairs with several methods, judge all alike, and write tables, tests, figures and an HTML report.

    A run that was interrupted goes on where it was: results that exist are not made again. The exit status is 1 where
    a registration failed.
    """
    _require_packages()
    from RecurrentRegistrationLib.benchmark import document as documents
    from RecurrentRegistrationLib.benchmark import manifest as reading
    from RecurrentRegistrationLib.benchmark import page
    from RecurrentRegistrationLib.benchmark.programs import Programs
    from RecurrentRegistrationLib.benchmark.runner import Benchmark
    from RecurrentRegistrationLib.io.files import safe_name

    python = Path(sys.executable) if peers_python is None else peers_python.absolute()
    programs = Programs(None if peers is None else peers.absolute(), python, weights.absolute())
    chosen = None if methods is None else methods.split(",")
    read = []
    for path in manifests:
        manifest = reading.read(path, data.absolute(), methods=chosen, pairs=pairs)
        if not manifest.contenders:
            raise InputError(f"{path} names no methods: give some by --methods.")
        if threads is not None:
            manifest = dataclasses.replace(manifest, threads=threads)
        read.append(manifest)
    kept = read if only is None else _only(only.split(","), read)
    sets = [Benchmark(each, programs, output.absolute() / safe_name(each.name), discard) for each in kept]
    if plan:
        for each in sets:
            total, missing = each.plan()
            print(f"{each.manifest.name}: {missing} of {total} registrations to make")
        return
    failed = 0
    for each in sets:
        if not report_only:
            failed += _run(each)
        print(page.write(each))
    if document is not None:
        documents.write(sets, document, command=" ".join(sys.argv[1:]))
    if failed:
        raise typer.Exit(1)


def _only(names: list[str], manifests: list[Manifest]) -> list[Manifest]:
    """The manifests with the pairs of some names alone; one that has none of them is left out."""
    known = dict.fromkeys(pair.name for manifest in manifests for pair in manifest.pairs)
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"There is no pair '{unknown[0]}'; there are {', '.join(known)}.")
    chosen = (
        dataclasses.replace(manifest, pairs=tuple(pair for pair in manifest.pairs if pair.name in names))
        for manifest in manifests
    )
    return [manifest for manifest in chosen if manifest.pairs]


def _require_packages() -> None:
    missing = [name for name in ("yaml", "pandas", "filelock", "jinja2", "matplotlib") if not find_spec(name)]
    if missing:
        raise InputError(
            f"The benchmark needs {', '.join(missing)} as well: pip install 'RecurrentRegistrationLib[benchmark]'."
        )


def _run(benchmark: Benchmark) -> int:
    """Make what is missing, and return how many registrations failed."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    total, missing = benchmark.plan()
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(benchmark.manifest.name, total=total, completed=total - missing)
        failed = 0
        for row in benchmark.run():
            progress.advance(task)
            failed += row["status"] == "failed"
            if row["status"] != "done":
                console.print(f"{row['pair']}: {row['method']}: {row['status']}: {row['message']}", markup=False)
    return failed
