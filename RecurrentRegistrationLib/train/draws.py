"""Endless batches whose content depends on their number alone, so that a resumed training sees what it would have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Item = dict[str, Any]
SIDES = ("fixed", "moving")


class Stream(Sampler[list[int]]):
    """Batches of consecutive draws: the n-th of process r of w holds draws `(n w + r) b` to `(n w + r + 1) b - 1`.

    Args:
        batch_size: draws in a batch, b.
        first: number of the first batch.
        process: r.
        processes: w.
    """

    def __init__(self, batch_size: int, *, first: int = 0, process: int = 0, processes: int = 1) -> None:
        self.batch_size, self.first, self.process, self.processes = batch_size, first, process, processes

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.first
        while True:
            start = (batch * self.processes + self.process) * self.batch_size
            yield list(range(start, start + self.batch_size))
            batch += 1


class Loader(DataLoader):
    """A loader that says to Lightning that it resumes by itself: its `Stream` begins where the training stands."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a batch's number is all there is."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


def loader(data: Dataset, batches: Sampler[list[int]], workers: int) -> Loader:
    """Of items as `together` makes batches of."""
    return Loader(data, batch_sampler=batches, num_workers=workers, collate_fn=together, persistent_workers=workers > 0)


class InOrder(Sampler[list[int]]):
    """Each item once, one in a batch, those of process r of w; the first ones again where a process has one less."""

    def __init__(self, count: int, *, process: int = 0, processes: int = 1) -> None:
        self.items = [n % count for n in range(process, -(-count // processes) * processes, processes)]

    def __iter__(self) -> Iterator[list[int]]:
        return ([n] for n in self.items)

    def __len__(self) -> int:
        return len(self.items)


def together(items: Sequence[Item]) -> Item:
    """Items `{name: [C, *S]}` as `{name: [B, C, *S]}`; key points are filled up with NaN to the longest list."""
    batch: Item = {}
    for key in items[0]:
        values = [item[key] for item in items]
        if key.endswith("keypoints"):
            values = _padded(values)
        batch[key] = torch.stack(values) if isinstance(values[0], Tensor) else values
    return batch


def _padded(lists: Sequence[Tensor]) -> list[Tensor]:
    longest = max(len(one) for one in lists)
    return [torch.cat([one, one.new_full((longest - len(one), one.shape[1]), torch.nan)]) for one in lists]


def exchanged(pair: Item) -> Item:
    """The same with fixed and moving exchanged, without the displacement, which is known in one direction alone."""
    return {_other(key): value for key, value in pair.items() if key != "displacement"}


def _other(key: str) -> str:
    first, second = SIDES
    if key.startswith(first):
        return second + key.removeprefix(first)
    return first + key.removeprefix(second) if key.startswith(second) else key
