"""Do the weights that ship pay? Register pairs that they never saw, beside the training-free default and ANTs SyN.

    python Testing/benchmarks/weights.py --data ../shared/data [NAME …] [--threads 2] [--pairs N] [--recolour] [--write]

Each set of weights names the subjects that it was not trained on; neighbours among them are pairs. The linear stage is
part of every time; SyN's is that of its whole process, reading and writing included. The last line follows the
recurrence step by step, also beyond the number of steps of the training. `--recolour` gives every moving image another
contrast first: its intensities go through a random curve of its own. `--write` puts the numbers on the cards.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from RecurrentRegistrationLib import pipeline, weights
from RecurrentRegistrationLib.benchmark.table import signed_rank
from RecurrentRegistrationLib.metrics.overlap import dice
from RecurrentRegistrationLib.pipeline.options import Options
from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Volume, resample

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Arguments:
    """Of the command line: data folder, peers' Python, pairs at most, steps of refinement, further steps, threads, and
    the folder of recoloured images, None for images as they are."""

    data: Path
    python: Path
    pairs: int | None
    refine: int
    extra: int
    threads: int
    recoloured: Path | None


@dataclass(frozen=True)
class Case:
    """Two images and their label maps."""

    files: tuple[Path, Path]
    images: tuple[Volume, Volume]
    labels: tuple[Volume, Volume]


@dataclass(frozen=True)
class Result:
    """Of one registration: mean Dice over labels, folded voxels in per cent, wall and processor seconds."""

    dice: float
    folding: float
    seconds: float
    processor: float


@functools.cache
def cases(names: tuple[str, ...], arguments: Arguments) -> list[Case]:
    """Neighbours among images below the data folder, with the maps of `labels` beside `images`, read once."""
    files = [arguments.data / name for name in names]
    found = []
    for number, pair in enumerate(list(zip(files[::2], files[1::2], strict=False))[: arguments.pairs]):
        labels = tuple(Volume.read(file.parents[1] / "labels" / file.name) for file in pair)
        if arguments.recoloured:
            pair = pair[0], recoloured(pair[1], arguments.recoloured, number)
        found.append(Case(pair, tuple(Volume.read(file) for file in pair), labels))  # type: ignore[arg-type]
    return found


def recoloured(file: Path, folder: Path, seed: int) -> Path:
    """A copy of an image in another contrast: a random curve between its first and 99th percentile."""
    image = sitk.ReadImage(str(file), sitk.sitkFloat32)
    values = sitk.GetArrayFromImage(image)
    curve = np.random.default_rng(seed).random(6)
    changed = sitk.GetImageFromArray(np.interp(values, np.linspace(*np.percentile(values, (1, 99)), len(curve)), curve))
    changed.CopyInformation(image)
    sitk.WriteImage(sitk.Cast(changed, sitk.sitkFloat32), str(folder / file.name))
    return folder / file.name


def overlap(transform: Transform, case: Case) -> float:
    """Mean Dice of the labels, pulled by nearest neighbour."""
    fixed, moving = case.labels
    warped = resample(moving.to_sitk(), fixed.grid, transform.to_sitk(), interpolation="nearest")
    return float(np.mean(list(dice(fixed.array[0], Volume.from_sitk(warped).array[0]).values())))


def default(case: Case) -> Result:
    """By `register` as it is, without weights."""
    began, processor = time.perf_counter(), time.process_time()
    found = pipeline.register(*case.images)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    return Result(overlap(found.transform, case), found.report["folding"], seconds, processor)


def weighted(case: Case, model: weights.Model, refine: int, extra: int) -> tuple[Result, Result, list[float]]:
    """With weights, then refined, and Dice after the linear stage and each step and, if recurrent, `extra` more."""
    began, processor = time.perf_counter(), time.process_time()

    def result(run: pipeline.Run) -> Result:
        found = run.result()
        seconds, spent = time.perf_counter() - began, time.process_time() - processor
        return Result(overlap(found.transform, case), found.report["folding"], seconds, spent)

    run = pipeline.start(*case.images, options=Options(weights=model.name))
    made = list(run)
    plain = result(run)
    last_linear = max(n for n, step in enumerate(made) if not step.values.any())
    list(run.refine(refine))
    refined = result(run)
    if run.method.card.recurrent:
        run.go_back(made[-1])
        made += run.extend(extra)
    return plain, refined, [overlap(step.transform, case) for step in made[last_linear:]]


def syn(case: Case, python: Path, modality: str) -> Result:
    """By ANTs SyN with its defaults, or mutual information for unlike contrasts, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        adapter = [str(python), str(HERE / "peers" / "ants_syn.py"), *map(str, case.files), "-o", folder]
        cost = Path(folder) / "cost.json"
        measure = HERE.parents[1] / "RecurrentRegistrationLib" / "benchmark" / "measure.py"
        command = ["python3", str(measure), str(cost), *adapter, "--modality", modality, "--initial", "header"]
        subprocess.run(command, check=True, capture_output=True)
        spent = json.loads(cost.read_text(encoding="utf-8"))
        transform = Transform.read(Path(folder) / "displacement.nrrd")
    folded = 100 * (transform.jacobian_determinant(case.images[0].grid) <= 0).float().mean().item()
    return Result(overlap(transform, case), folded, spent["seconds"], spent["cpu_seconds"])


def mean(results: Sequence[Result]) -> Result:
    """Over pairs."""
    return Result(*np.mean([dataclasses.astuple(result) for result in results], axis=0).tolist())


def row(name: str, result: Result) -> str:
    """A line of the table."""
    numbers = f"{result.dice:.4f} | {result.folding:.3f} | {result.seconds:.2f} | {result.processor:.2f}"
    return f"| {name} | {numbers} |"


@functools.cache
def without_weights(files: tuple[str, ...], arguments: Arguments) -> dict[str, list[Result]]:
    """What the default and SyN reach pair by pair, once for all weights with the same held-back images."""
    pairs = cases(files, arguments)
    found = {"default": [default(case) for case in pairs]}
    if arguments.python.exists():
        modality = "multi" if arguments.recoloured else "mr"
        found["ANTs SyN"] = [syn(case, arguments.python, modality) for case in pairs]
    return found


def compared(results: Sequence[Result], others: Sequence[Result]) -> str:
    """Whether one is better than the other beyond chance, in words."""
    gains = [ours.dice - theirs.dice for ours, theirs in zip(results, others, strict=True)]
    better, p = sum(gain > 0 for gain in gains), signed_rank(gains)
    return f"better on {better} of {len(gains)} pairs, by {np.median(gains):.4f} in the median (Wilcoxon, p = {p:.2g})"


def measured(model: weights.Model, arguments: Arguments) -> dict[str, object]:
    """Print the table of one set of weights and return what its card should say."""
    pairs = cases(model.held_back, arguments)
    weighted(pairs[0], model, 1, 1), default(pairs[0])  # loads and compiles what later runs find ready
    refine, extra = arguments.refine, arguments.extra
    plain, refined, dice_by_step = zip(*[weighted(case, model, refine, extra) for case in pairs], strict=True)
    others = without_weights(model.held_back, arguments)
    made = {model.name: plain, f"{model.name}, {refine} steps of refinement": refined, **others}
    results = {name: mean(found) for name, found in made.items()}
    curve = np.mean(dice_by_step, axis=0).round(4).tolist()
    what = "recoloured pairs" if arguments.recoloured else "pairs"
    print(f"\n{model.name}, {len(pairs)} {what}, {arguments.threads} threads\n")
    print("| method | Dice | folding % | s | processor s |\n|---|---|---|---|---|")
    print("\n".join(row(name, result) for name, result in results.items()))
    print(f"\nAgainst the default: {compared(plain, others['default'])}.")
    print("Dice after the linear stage and each step: " + ", ".join(f"{value:.4f}" for value in curve), flush=True)
    table = {name: {k: round(v, 4) for k, v in dataclasses.asdict(result).items()} for name, result in results.items()}
    return {"pairs": len(pairs), "threads": arguments.threads, "results": table, "dice_by_step": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="all, if none is given")
    parser.add_argument("--data", type=Path, required=True, help="the folder that the cards' files start from")
    parser.add_argument("--peers", type=Path, default=HERE.parents[1] / ".venv-peers", help="for ANTs SyN")
    parser.add_argument("--pairs", type=int, help="as many as there are, if not given")
    parser.add_argument("--refine", type=int, default=10, help="steps of refinement after the training's")
    parser.add_argument("--extra", type=int, default=4, help="steps beyond those of the training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--recolour", action="store_true", help="give every moving image another contrast")
    parser.add_argument("--write", action="store_true", help="put the numbers on the cards")
    given = parser.parse_args()
    python = given.peers / "bin" / "python"
    torch.set_num_threads(given.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        recolour = Path(folder) if given.recolour else None
        arguments = Arguments(given.data, python, given.pairs, given.refine, given.extra, given.threads, recolour)
        for model in [weights.find(name) for name in given.names] or weights.models():
            metrics = measured(model, arguments)
            if given.write:
                metrics = {**model.metrics, "recoloured": metrics} if recolour else {**model.metrics, **metrics}
                weights.save_card(dataclasses.replace(model, metrics=metrics))


if __name__ == "__main__":
    main()
