"""What a person at the shell sees while a registration works, on standard error."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Display:
    """Phase, step k of n and similarity: one living line in a terminal, a line for each phase in a log file."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._line = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[similarity]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._line.add_task("read", total=None, similarity="")
        self._phase = ""

    def __enter__(self) -> Self:
        self._line.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.stop()

    def note(self, sentence: str) -> None:
        """Print a sentence that stays."""
        self._console.print(sentence, markup=False)

    def phase(self, name: str) -> None:
        """Say what is being done; nothing where it is being done already."""
        if name == self._phase:
            return
        self._phase = name
        self._line.update(self._task, description=name)
        if not self._console.is_terminal:
            self.note(f"{name} …")

    def step(self, index: int, planned: int, similarity: float) -> None:
        """Say how far it is."""
        shown = "" if math.isnan(similarity) else f"similarity {similarity:.4f}"
        self._line.update(self._task, completed=index, total=max(index, planned), similarity=shown)
