"""The linear stage: a search over poses, a descent from coarse to fine, and a verdict on what it found.

An affine map is taken where most of the image speaks for it rather than for a rigid one, and either where most of it
speaks against the header's position: what one organ gains is no reason to move everything else.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from RecurrentRegistrationLib.losses.similarity import (
    LocalCorrelation,
    MutualInformation,
    Similarity,
    contrast_agreement,
)
from RecurrentRegistrationLib.pipeline.evidence import Blocks
from RecurrentRegistrationLib.pipeline.levels import Level
from RecurrentRegistrationLib.pipeline.poses import (
    Adam,
    Parameters,
    centre_of_mass,
    extent,
    fade,
    radius,
    search_poses,
    thin_normal,
)
from RecurrentRegistrationLib.pipeline.preparation import Prepared, foreground_box

SEARCH_SIZE = 24  # voxels along the longest side where poses are compared
# Voxels along the longest side, at most, where maps are made exact: correlation sees as much on a coarser grid, and
# costs more of it.
FINEST = {LocalCorrelation: 96, MutualInformation: 160}
ITERATIONS = 30  # of each level
MORE = 0.45  # of the blocks that differ have to speak for an affine map rather than for a rigid one, which it can be
MOST = 0.66  # two of three, for moving anything at all
# Agreement of contrast from which on local correlation is trusted. After the affine level, hippocampi and brains of one
# contrast had 0.87 to 1.00, T1 with FLAIR, PD or EPI 0.59 to 0.83; in 2D 0.80 to 0.82 and T1 with PD -0.03.
LIKE = {2: 0.5, 3: 0.85}


@dataclass(frozen=True)
class Alignment:
    """One iteration of the linear stage.

    Attributes:
        stage: for example "search", "rigid 1/4 3/30".
        matrix: from fixed to moving points, LPS millimetres.
        score: similarity, higher is better, comparable within one stage.
        note: how the start was found, once it is.
        agreement: of the images' contrasts, once it is known.
    """

    stage: str
    matrix: np.ndarray
    score: float = math.nan
    note: str = ""
    agreement: float | None = None


def planned(kind: str, search: bool) -> int:
    """How many steps `align` takes; arguments as there."""
    levels = (2 if search else 3) + (kind != "rigid") + 1
    return search + ITERATIONS * levels + (kind == "auto")


def align(
    fixed: Prepared, moving: Prepared, *, kind: str, search: bool, start: np.ndarray | None = None
) -> Iterator[Alignment]:
    """Yield the iterations from a start to a map.

    Args:
        fixed: the fixed image.
        moving: the moving image.
        kind: "rigid" or "affine"; "auto" for what most blocks of the image speak for, the start itself included.
        search: whether to try all postures and both centrings; otherwise `start` is all there is.
        start: a matrix to begin with; None for the header's.

    Images are compared by mutual information, at the finest level by local correlation where their contrasts agree.
    """
    d = fixed.grid.dimension
    header = np.eye(d + 1) if start is None else start
    normal = thin_normal(fixed, moving)
    longest = max(extent(fixed))
    spacing = longest / (SEARCH_SIZE if d == 3 else 2 * SEARCH_SIZE)
    fixed = fixed.cropped(*foreground_box(fixed, 2 * spacing))
    matrix = header
    if search:
        matrix, score, note = search_poses(fixed, moving, Level(fixed, moving, spacing), matrix)
        yield Alignment("search", matrix, score, note)
    native = min(s for n, s in zip(fixed.grid.size, fixed.grid.spacing, strict=True) if n > 1) * 1.01
    sizes = [max(spacing / part, native) for part in ((2, 3) if search else (1, 2, 3))]
    levels = len(sizes) + (kind != "rigid") + 1
    for number, size in enumerate(sizes, start=1):
        level = Level(fixed, moving, size)
        matrix = yield from _descend(level, matrix, "rigid", f"{number}/{levels}", MutualInformation(), normal)
    rigid = matrix
    if kind != "rigid":
        matrix = yield from _descend(level, matrix, "affine", f"{levels - 1}/{levels}", MutualInformation(), normal)
    agreement = _agreement(level, matrix)
    yield Alignment("contrast", matrix, agreement=agreement)
    like = agreement > LIKE[d if normal is None else 2]
    blocks = Blocks(level, like)
    free = kind == "affine" or (kind == "auto" and blocks.gaining(rigid, matrix) >= MORE)
    matrix = matrix if free else rigid
    measure = LocalCorrelation() if like else MutualInformation()
    finest = Level(fixed, moving, max(longest / FINEST[type(measure)], native))
    shape = "affine" if free else "rigid"
    matrix = yield from _descend(finest, matrix, shape, f"{levels}/{levels}", measure, normal)
    if kind == "auto":
        yield _verdict(blocks.gaining(header, matrix), header, matrix, shape)


def _verdict(share: float, header: np.ndarray, matrix: np.ndarray, shape: str) -> Alignment:
    """What was found, where it brings most blocks closer, otherwise the header's position."""
    told = f"{share:.0%} of the blocks that it changes are more alike than before"
    if share < MOST:
        return Alignment("linear: none", header, note=f"Linear: none, only {told}.")
    return Alignment(f"linear: {shape}", matrix, note=f"Linear: {shape}, {told}.")


def _agreement(level: Level, matrix: np.ndarray) -> float:
    return contrast_agreement(level.fixed.values, *level.under(matrix))


def _descend(
    level: Level, matrix: np.ndarray, shape: str, title: str, similarity: Similarity, normal: np.ndarray | None
) -> Generator[Alignment, None, np.ndarray]:
    """Improve one map; yields the best one met so far after each iteration, and returns it."""
    parameters = Parameters(matrix[None], centre_of_mass(level.fixed), radius(level.fixed), shape, normal)
    optimiser = Adam(parameters.values)
    best, found = -math.inf, matrix
    for iteration in range(ITERATIONS):
        with torch.enable_grad():
            current = parameters.matrices()
            warped, weight = level.warp(current.to(level.fixed.values.device))
            loss = similarity(level.fixed.values, warped, weight)
            (gradient,) = torch.autograd.grad(loss, parameters.values)
        if 1 - loss.item() > best:
            best, found = 1 - loss.item(), current.detach()[0].double().numpy()
        optimiser.step(gradient, 0.4 * level.spacing * fade(iteration, ITERATIONS))
        yield Alignment(f"{shape} {title} {iteration + 1}/{ITERATIONS}", found, best)
    return found
