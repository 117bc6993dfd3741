"""One registration of ours in a process of its own: python -m RecurrentRegistrationLib.benchmark.ours TASK.json.

Writes `displacement.nrrd` and `report.json` into the task's folder and marks what that has cost; what follows, the
accuracy after each kept step (`steps.json`), the count of operations and the uncertainty (`uncertainty_KIND.nrrd`, and
`calibration.json` where the true mapping is known), is not part of the cost.
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

from RecurrentRegistrationLib import methods
from RecurrentRegistrationLib.benchmark.manifest import Link, Pair, Region
from RecurrentRegistrationLib.benchmark.scoring import Judge
from RecurrentRegistrationLib.io.documents import to_json
from RecurrentRegistrationLib.metrics import calibration, cost
from RecurrentRegistrationLib.pipeline import Options, Run, memory, start, uncertainty
from RecurrentRegistrationLib.pipeline.kept_steps import History
from RecurrentRegistrationLib.volume import Volume, write_image

KEPT = 24  # steps that are judged, about


def main(file: Path) -> None:
    """Register, mark the cost, then judge the steps."""
    folder = file.parent
    task = json.loads(file.read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(task["threads"])
    pair = pair_of(task["pair"])
    images = read_images(pair)
    run, history, linear = registered(images, Options(**task["options"]))
    found = run.result()
    write_image(found.displacement().to_image(), folder / "displacement.nrrd")
    _put(folder / "marked.json", marked())
    _put(folder / "report.json", {**found.report, **figures(found.report["method"], run, task["operations"])})
    judge = Judge(pair)
    _put(folder / "steps.json", curve(run, history, linear, judge))
    calibrations = {}
    for kind, volume in uncertainty.maps(run, history.kept, images, task["uncertainty"]):
        volume.write(folder / f"uncertainty_{kind}.nrrd")
        if judge.truth is not None:
            inside = volume.array[0][judge.region]
            calibrations[kind] = calibration.calibration(inside, judge.error(found.transform)).as_dict()
    if calibrations:
        _put(folder / "calibration.json", calibrations)


def registered(images: dict[str, Any], options: Options) -> tuple[Run, History, int]:
    """A run made to its end, some of its steps, and how many of them were linear."""
    run, history, linear = start(**images, options=options), History(keep=KEPT), 0
    for step in run:
        if run.phase == "align":
            linear = step.index
        elif step.index == linear + 1:
            history.expect(run.plan.planned_steps - linear)
        history.offer(step)
    return run, history, linear


def _put(file: Path, content: Any) -> None:
    file.write_text(to_json(content, indent=1), encoding="utf-8")


def read_images(pair: Pair) -> dict[str, Volume]:
    """The images that a registration takes."""
    names = ("fixed", "moving", "fixed_mask", "moving_mask")
    return {name: Volume.read(path) for name in names if (path := getattr(pair, name)) is not None}


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
    network = methods.create(name, run.plan.grid.dimension, **run.plan.options.method_options).eval()
    count = cost.parameters(network)
    found: dict[str, float] = {"parameters": count} if count else {}
    if operations and count:
        found["gmac"] = cost.multiply_accumulates(network, run.plan.grid.shape, steps=run.plan.options.steps) / 1e9
    return found


def curve(run: Run, history: History, linear: int, judge: Judge) -> list[dict[str, Any]]:
    """The accuracy after the last of the linear steps, as step 0, and after each kept step of the method."""
    records = {record["index"]: record for record in run.steps}
    steps = []
    for kept in history.kept:
        if kept.index >= linear:
            accuracy = judge.accuracy(history.step(kept.index).transform)
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
