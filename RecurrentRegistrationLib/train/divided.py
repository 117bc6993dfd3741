"""`DividedData`: data whose cases are divided once: who is trained on, who watches, and who is held back."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from RecurrentRegistrationLib.train.cases import TEST, Case
from RecurrentRegistrationLib.train.data import PairData
from RecurrentRegistrationLib.train.sources import Source
from RecurrentRegistrationLib.train.splits import Split, divide


class DividedData(PairData):
    """Data of the cases of a source.

    Args:
        source: where the cases are.
        split: who is in which part.
        batch_size: items in a batch, on each process.
        workers: processes that draw items.
        seed: of the draws.
    """

    def __init__(self, source: Source, split: Split, batch_size: int, workers: int, seed: int) -> None:
        super().__init__(batch_size, workers, seed)
        self.source, self.split = source, split

    @cached_property
    def divided(self) -> dict[str, list[Case]]:
        """The cases of each part."""
        return divide(self.source.collect(), self.split)

    @property
    def named(self) -> dict[str, list[str]]:
        """Their names."""
        return {part: [case.name for case in cases] for part, cases in self.divided.items()}

    @property
    def held_back(self) -> tuple[str, ...]:
        """The images to test on, by their paths below the folder that the data set lies in."""
        root = Path(getattr(self.source, "root", "."))
        return tuple(os.path.relpath(case.image, root.parent) for case in self.divided[TEST])
