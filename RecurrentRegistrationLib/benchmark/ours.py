"""One registration of ours in a process of its own: python -m RecurrentRegistrationLib.benchmark.ours TASK.json.

Writes `displacement.nrrd` and `report.json` into the task's folder and marks what that has cost; what follows, the
accuracy after each kept step (`steps.json`) and the count of operations, is not part of the cost.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch

from RecurrentRegistrationLib import memory, methods, registration
from RecurrentRegistrationLib.benchmark.manifest import Link, Pair, Region
from RecurrentRegistrationLib.benchmark.scoring import Judge
from RecurrentRegistrationLib.documents import to_json
from RecurrentRegistrationLib.history import History
from RecurrentRegistrationLib.metrics import cost
from RecurrentRegistrationLib.registration import Options, Run
from RecurrentRegistrationLib.volume import Volume, write_image

KEPT = 24  # steps that are judged, about


def main(file: Path) -> None:
    """Register, mark the cost, then judge the steps."""
    folder = file.parent
    task = json.loads(file.read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(task["threads"])
    pair = pair_of(task["pair"])
    run, history = begun(pair, task["options"]), History(keep=KEPT)
    history.expect(run.planned_steps)
    linear = 0
    for step in run:
        linear = step.index if run.phase == "align" else linear
        history.offer(step)
    found = run.result()
    write_image(found.displacement().to_image(), folder / "displacement.nrrd")
    (folder / "marked.json").write_text(to_json(marked()), encoding="utf-8")
    report = {**found.report, **figures(found.report["method"], run, task["operations"])}
    (folder / "report.json").write_text(to_json(report, indent=1), encoding="utf-8")
    (folder / "steps.json").write_text(to_json(curve(run, history, linear, Judge(pair))), encoding="utf-8")


def begun(pair: Pair, options: dict[str, Any]) -> Run:
    """A run on the pair's images."""
    names = ("fixed", "moving", "fixed_mask", "moving_mask")
    volumes = {n: Volume.read(path) for n in names if (path := getattr(pair, n)) is not None}
    return registration.start(**volumes, options=Options(**options))


def marked() -> dict[str, float]:
    """Seconds since the process was started, CPU seconds and memory up to now."""
    spent = os.times()
    mark = {
        "seconds": round(time.time() - float(os.environ.get("BENCHMARK_STARTED", time.time())), 2),
        "cpu_seconds": round(spent.user + spent.system, 2),
    }
    peak = memory.peak()
    return mark | ({"peak_mib": round(peak / 2**20)} if peak else {})


def figures(name: str, run: Run, operations: bool) -> dict[str, float]:
    """Parameters of a method's network and, where asked for, the operations of one registration."""
    network = methods.create(name, run.grid.dimension, **run.options.method_options).eval()
    count = cost.parameters(network)
    found: dict[str, float] = {"parameters": count} if count else {}
    if operations and count:
        found["gmac"] = cost.multiply_accumulates(network, run.grid.shape, steps=run.options.steps) / 1e9
    return found


def curve(run: Run, history: History, linear: int, judge: Judge) -> list[dict[str, Any]]:
    """The accuracy after the last of the linear steps, as step 0, and after each kept step of the method."""
    records = {record["index"]: record for record in run.steps}
    steps = []
    for kept in history.kept:
        if kept.index >= linear:
            accuracy = judge.accuracy(run.transform_at(history.step(kept.index)))
            numbers = {name: value for name, value in accuracy.items() if isinstance(value, float)}
            record = records[kept.index]
            steps.append({**record, "index": kept.index - linear, "folding_percent": record["folding"], **numbers})
    return steps


def pair_of(entry: dict[str, Any]) -> Pair:
    """A pair from what JSON made of it."""

    def path(value: Any) -> Path | None:
        return Path(value) if isinstance(value, str) else None

    def links(values: list[dict[str, Any]]) -> tuple[Link, ...]:
        return tuple(Link(Path(value["file"]), value["inverse"]) for value in values)

    plain = {"name", "modality", "initial", "settings", "structures"}
    values: dict[str, Any] = {key: value if key in plain else path(value) for key, value in entry.items()}
    values |= {"reference": links(entry["reference"]), "region": None}
    if values["structures"] is not None:
        values["structures"] = {name: tuple(pair) for name, pair in values["structures"].items()}
    if region := entry["region"]:
        values["region"] = Region(Path(region["file"]), links(region["through"]))
    return Pair(**values)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # PyTorch takes long to unload
