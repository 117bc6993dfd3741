"""Seconds by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """Adds up seconds by the phase that they were spent in."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def running(self, phase: str) -> Iterator[None]:
        """The seconds of this block count for a phase."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began

    def each(self, phase: str, items: Iterator[T]) -> Iterator[T]:
        """The items; the seconds that each takes to come count for the phase."""
        while True:
            with self.running(phase):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item
