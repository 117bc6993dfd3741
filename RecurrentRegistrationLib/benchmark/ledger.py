"""`rows.csv`: one row for each finished run, appended whole, so that an interrupted benchmark goes on where it was."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from RecurrentRegistrationLib.benchmark.measures import MEASURES

COLUMNS = ("key", "pair", "method", "repeat", "status", *MEASURES, "message")
DONE = ("done", "declined")  # a failed run is tried again


FORMULA = ("=", "+", "-", "@", "'")  # how a cell begins that a spreadsheet computes, or that was marked before


def plain(value: Any) -> Any:
    """A value as a cell of text, where a spreadsheet would take it for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


class Ledger:
    """The rows of one manifest; one writer at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            self._mend()

    def _mend(self) -> None:
        """Drop a last line that was cut off while it was written."""
        with self.path.open("rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)

    def rows(self) -> Iterator[dict[str, str]]:
        """The rows, as text, oldest first."""
        if not self.path.exists():
            return
        with self.path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield {name: v[1:] if v and v[0] == "'" and v[1:2] in FORMULA else v for name, v in row.items()}

    def done(self) -> set[str]:
        """Keys of the runs that need not be made again."""
        return {row["key"] for row in self.rows() if row["status"] in DONE}

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row, by one call to the system, and see that it reaches the disk."""
        new = not self.path.exists() or self.path.stat().st_size == 0
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({name: plain(" ".join(v.split())) if isinstance(v, str) else v for name, v in row.items()})
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        try:
            os.write(descriptor, text.getvalue().encode("utf-8"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
