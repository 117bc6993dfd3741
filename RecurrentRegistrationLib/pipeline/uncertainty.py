"""How sure a registration can be of itself, voxel by voxel, in millimetres on the fixed grid.

Three kinds, none of which needs to know the truth:

- `steps`: how much the displacement still changed over the last steps;
- `samples`: how much it differs between runs in which the noise and dropout of the training stay on;
- `inverse`: how far one comes back from where one left, there by this registration, back by that of the swapped images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from RecurrentRegistrationLib import pipeline
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers.gr2u import NoisyConvolution
from RecurrentRegistrationLib.methods.base import Method
from RecurrentRegistrationLib.pipeline.options import Options
from RecurrentRegistrationLib.pipeline.run import Run
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Grid, Volume

KINDS = ("steps", "samples", "inverse")
LAST = 6  # steps that are compared
SAMPLES = 8  # runs that are compared
SWAPPED = {"fixed": "moving", "moving": "fixed", "fixed_mask": "moving_mask", "moving_mask": "fixed_mask"}

Images = Mapping[str, Any]


def maps(run: Run, steps: Sequence[Step], images: Images, kinds: Iterable[str]) -> Iterator[tuple[str, Volume]]:
    """Each kind of uncertainty of a finished run, by name.

    Args:
        run: at its last step.
        steps: kept ones, oldest first.
        images: "fixed" and "moving", and "fixed_mask" and "moving_mask" where there were any.
        kinds: of `KINDS`.

    Raises:
        InputError: a kind is unknown, or the method has no randomness to sample.
    """
    transform = run.result().transform
    grid = images["fixed"].grid
    for kind in kinds:
        if kind == "steps":
            yield kind, of_steps(steps, grid)
        elif kind == "samples":
            yield kind, of_samples(images, run.plan.options, transform)
        elif kind == "inverse":
            yield kind, of_inverse(images, run.plan.options, transform)
        else:
            raise InputError(f"There is no uncertainty '{kind}'; choose of {', '.join(KINDS)}.")


def of_steps(steps: Sequence[Step], grid: Grid) -> Volume:
    """Spread of the displacement over the last steps."""
    return Volume(spread(_millimetres(step.transform, grid) for step in steps[-LAST:]), grid)


def of_samples(images: Images, options: Options, linear_from: Transform) -> Volume:
    """Spread of the displacement over runs with the noise of the training; each starts from the same linear map.

    Raises:
        InputError: nothing in the method is random.
    """
    grid = images["fixed"].grid
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(options.seed)
        return Volume(spread(_sampled(images, options, linear_from, grid)), grid)


def _sampled(images: Images, options: Options, transform: Transform, grid: Grid) -> Iterator[Tensor]:
    start = Transform(transform.parts[-1:], transform.dimension)
    fixed_start = dataclasses.replace(options, initial=start, linear="none")
    for _ in range(SAMPLES):
        run = pipeline.start(**images, options=fixed_start)
        if not is_random(run.plan.method):
            raise InputError(f"The method '{run.plan.card.name}' has neither noise nor dropout to sample.")
        run.plan.method.sampling = True
        *_, last = (step for step in run if step.phase != "conclude")  # the same step of each, not the best of each
        yield _millimetres(last.transform, grid)


def is_random(method: Method) -> bool:
    """Whether the method draws something at random in training."""
    return any(
        (isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0)
        or (isinstance(part, NoisyConvolution) and (part.noise > 0 or part.dropconnect > 0))
        for part in method.modules()
    )


def of_inverse(images: Images, options: Options, transform: Transform) -> Volume:
    """Distance to where one comes back, by a registration of the swapped images that starts from the inverse map."""
    swapped = {SWAPPED[name]: volume for name, volume in images.items()}
    start = Transform(transform.parts[-1:], transform.dimension).inverse()
    back = pipeline.register(**swapped, options=dataclasses.replace(options, initial=start, linear="none"))
    grid = images["fixed"].grid
    there_and_back = Transform((*transform.parts, *back.transform.parts), transform.dimension)
    return Volume(_millimetres(there_and_back, grid).norm(dim=0, keepdim=True).numpy(), grid)


def spread(fields: Iterable[Tensor]) -> np.ndarray:
    """Root of the mean squared distance of displacements `[d, *S]` to their mean, `[1, *S]`; one is held at a time."""
    mean = total = None
    count = 0
    for field in fields:
        count += 1
        if mean is None or total is None:
            mean, total = field.double(), torch.zeros_like(field[:1], dtype=torch.double)
            continue
        change = field - mean
        mean = mean + change / count
        total = total + (change * (field - mean)).sum(dim=0, keepdim=True)
    if total is None:
        raise InputError("There are no steps to compare.")
    return (total / count).sqrt().float().numpy()


def _millimetres(transform: Transform, grid: Grid) -> Tensor:
    return transform.displacement_on(grid).millimetres()[0]
