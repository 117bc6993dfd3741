"""Which set of weights is worth choosing, and does its recurrence converge? On pairs that no set was trained on.

    python Testing/benchmarks/networks.py --data ../shared/data [NAME …] [--pairs N] [--times 5]

First each set at its usual number of steps beside registering without training, with the paired Wilcoxon test of the
Dice corrected after Holm; processor seconds hold the start and the linear stage. Then each recurrence up to `--times`
its usual steps: Dice step by step, what is left of the best gain over the linear stage in the end, and how much of it
the stop rule and the choice by similarity have. One thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from weights import Arguments, Case, cases, overlap

from RecurrentRegistrationLib import pipeline, weights
from RecurrentRegistrationLib.benchmark.table import holm, signed_rank
from RecurrentRegistrationLib.metrics.smoothness import log_jacobian_deviation
from RecurrentRegistrationLib.pipeline import Options, Run
from RecurrentRegistrationLib.pipeline.stopping import better, exhausted
from RecurrentRegistrationLib.step import Step


@dataclass(frozen=True)
class Result:
    """Of one registration: Dice, folded voxels (%), deviation of the logarithm of the Jacobian, processor seconds."""

    dice: float
    folding: float
    deviation: float
    processor: float


@dataclass(frozen=True)
class Curve:
    """Of one pair: Dice after the linear stage and each step, and the steps that two rules choose."""

    dice: list[float]
    stopped: int
    chosen: int


def registered(case: Case, options: Options) -> tuple[Run, list[Step], Result]:
    """A run made to its end."""
    before = time.process_time()
    run = pipeline.start(*case.images, options=options)
    steps = list(run)
    found = run.result()
    spent = time.process_time() - before
    deviation = log_jacobian_deviation(found.transform.jacobian_determinant(case.images[0].grid).numpy())
    return run, steps, Result(overlap(found.transform, case), found.report["folding"], deviation, spent)


def followed(case: Case, model: weights.Model, times: int) -> tuple[Result, Curve]:
    """A registration, and the same going on to `times` its steps."""
    run, made, result = registered(case, Options(weights=model.name))
    linear = max((step for step in made if step.phase == "align"), key=lambda step: step.index)
    steps = [step for step in made if step.phase == "deform"]
    if run.plan.card.recurrent:
        run.go_back(steps[-1])
        steps += [step for step in run.extend((times - 1) * len(steps)) if step.phase == "deform"]
    trail = [linear.similarity, *(step.similarity for step in steps)]
    dice = [overlap(step.transform, case) for step in (linear, *steps)]
    return result, Curve(dice, stop(trail), best(steps))


def stop(trail: list[float]) -> int:
    """The step after which the stop rule ends; the last where it does not."""
    return next((n for n in range(1, len(trail)) if exhausted(trail[: n + 1])), len(trail) - 1)


def best(steps: list[Step]) -> int:
    """The step of the highest similarity, from 1."""
    chosen: Step | None = None
    for step in steps:
        chosen = step if better(step, chosen) else chosen
    return 1 + steps.index(chosen) if chosen else 0


def curve_row(model: weights.Model, curves: list[Curve]) -> str:
    """What a set does beyond its steps, and below it the Dice of each step."""
    dice, pairs = np.array([curve.dice for curve in curves]), range(len(curves))
    mean = dice.mean(axis=0)

    def told(value: float, place: float) -> str:
        return f"{value:.3f} ({place:.3g}) | {100 * (value - mean[0]) / (mean.max() - mean[0]):.0f}"

    rules = [[curve.stopped for curve in curves], [curve.chosen for curve in curves]]
    usual = model.steps or len(mean) - 1
    cells = [model.name, f"{mean[0]:.3f}", told(mean[usual], usual), f"{mean.max():.3f} ({mean.argmax()})"]
    cells += [told(mean[-1], len(mean) - 1), *(told(dice[pairs, rule].mean(), np.mean(rule)) for rule in rules)]
    return f"| {' | '.join(cells)} |\n  {' '.join(f'{value:.4f}' for value in mean)}"


def result_rows(results: dict[str, list[Result]], against: str) -> list[str]:
    """A table of means and deviations over pairs, with the tests against one of them."""
    dice = {name: np.array([one.dice for one in found]) for name, found in results.items()}
    others = [name for name in results if name != against]
    p = dict(zip(others, holm([signed_rank(dice[name] - dice[against]) for name in others]), strict=True))
    rows = []
    for name, found in results.items():
        cells = [name, f"{dice[name].mean():.3f} ± {dice[name].std(ddof=1):.3f}"]
        cells += [f"{np.mean([one.folding for one in found]):.4f}", f"{np.mean([one.deviation for one in found]):.3f}"]
        cells.append(f"{np.mean([one.processor for one in found]):.1f}")
        gain = dice[name] - dice[against]
        cells.append("" if name == against else f"{np.median(gain):+.4f} | {(gain > 0).sum()} | {p[name]:.2g}")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="all, if none is given")
    parser.add_argument("--data", type=Path, required=True, help="the folder that the cards' files start from")
    parser.add_argument("--pairs", type=int, help="as many as there are, if not given")
    parser.add_argument("--times", type=int, default=5, help="how many times the usual steps")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    arguments = Arguments(given.data, Path(), given.pairs, 0, 0, 1, None)
    models = [weights.find(name) for name in given.names] or weights.models()
    pairs = cases(models[0].held_back, arguments)
    registered(pairs[0], Options())  # compiles what later runs find ready
    results = {"without training": [registered(case, Options())[2] for case in pairs]}
    rows = ["| weights | linear | usual steps | % | best | last | % | stop rule | % | by similarity | % |"]
    for model in models:
        results[model.name], curves = zip(*(followed(case, model, given.times) for case in pairs), strict=True)
        print(curve_row(model, curves), *result_rows(results, "without training"), sep="\n", file=sys.stderr)
        rows.append(curve_row(model, curves))
    print("\n".join(rows))
    print("\n| | Dice | folding % | std log J | processor s | median gain | better on | p, corrected |")
    print("\n".join(result_rows(results, "without training")))


if __name__ == "__main__":
    main()
