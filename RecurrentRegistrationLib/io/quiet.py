"""What compiled readers print about a damaged file: one sentence of ours says it instead."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Heard:
    """What was printed, once the block has ended."""

    text: str = ""


@contextlib.contextmanager
def silenced() -> Iterator[Heard]:
    """Keep away what C code writes to standard output and standard error in this process while the block runs."""
    heard = Heard()
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as listener:
        kept = []
        try:
            for stream in (1, 2):
                try:
                    kept.append((stream, os.dup(stream)))
                except OSError:  # closed, as in a windowed program
                    continue
                os.dup2(listener.fileno(), stream)
            yield heard
        finally:
            for stream, copy in kept:
                os.dup2(copy, stream)
                os.close(copy)
            listener.seek(0)
            heard.text = listener.read().decode(errors="replace")
