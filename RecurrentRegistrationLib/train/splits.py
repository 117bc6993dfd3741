"""Who is trained on and who is held back: always whole subjects, the same for every model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.cases import PARTS, TRAIN, Case, Collection


@dataclass(frozen=True)
class Split:
    """Shares of the subjects, as numbers of any scale: `0.7, 0.1, 0.2` or `300, 30, 84`.

    Attributes:
        train: share of the subjects to train on.
        validation: to watch the training.
        test: to report on; never touched here.
        fraction: of the training subjects that are used. A smaller fraction is part of every larger one.
        seed: of the order in which the subjects are dealt; not that of the training, so that models can be compared.
        shuffle: deal them in a random order; otherwise sorted by name: the first to train on, the last to test on.
    """

    train: float = 0.8
    validation: float = 0.1
    test: float = 0.1
    fraction: float = 1.0
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if min(self.train, self.validation, self.test) < 0 or self.train <= 0:
            raise InputError("The shares of a split are 0 or more, and something must be left to train on.")
        if not 0 < self.fraction <= 1:
            raise InputError(f"The fraction of the training subjects lies above 0 and up to 1, not {self.fraction}.")


def divide(collection: Collection, split: Split) -> dict[str, list[Case]]:
    """The cases of each part.

    A case keeps the part its source gives it, by itself or by a list of pairs; everyone else is dealt by the split, or
    is for training where the source holds others back itself.
    """
    listed = {name: part for part in PARTS for pair in collection.pairs.get(part, ()) for name in pair}
    parts = {case.name: case.part or listed.get(case.name) for case in collection.cases}
    held = {c.subject: parts[c.name] for c in collection.cases if parts[c.name] not in (None, TRAIN)}
    free = sorted({case.subject for case in collection.cases} - held.keys())
    dealt = dict.fromkeys(free, TRAIN) if held else deal(free, split)
    of_subject = {**dealt, **held}
    chosen = set(fraction_of([s for s in free if of_subject[s] == TRAIN], split))
    divided: dict[str, list[Case]] = {part: [] for part in PARTS}
    for case in collection.cases:
        part = of_subject[case.subject]
        if part != TRAIN or case.subject in chosen:
            divided[str(part)].append(replace(case, part=part))
    return divided


def deal(subjects: Sequence[str], split: Split) -> dict[str, str]:
    """The part of each subject; a part with a share gets at least one as long as there are enough."""
    order = shuffled(subjects, split.seed) if split.shuffle else sorted(subjects)
    shares = [split.train, split.validation, split.test]
    sizes = [round(len(order) * share / sum(shares)) for share in shares]
    for n in (1, 2):
        if shares[n] and not sizes[n] and len(order) > n:
            sizes[n] = 1
    sizes[0] = len(order) - sizes[1] - sizes[2]
    parts = [part for part, size in zip(PARTS, sizes, strict=True) for _ in range(size)]
    return dict(zip(order, parts, strict=True))


def fraction_of(subjects: Sequence[str], split: Split) -> list[str]:
    """The first of the training subjects in an order of their own."""
    return shuffled(subjects, split.seed + 1)[: max(1, math.ceil(split.fraction * len(subjects) - 1e-9))]


def shuffled(subjects: Sequence[str], seed: int) -> list[str]:
    """The subjects in an order that depends on their names and the seed alone."""
    order = np.random.default_rng(seed).permutation(len(subjects))
    return [sorted(subjects)[n] for n in order]
