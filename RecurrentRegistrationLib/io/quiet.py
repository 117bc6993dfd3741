"""What compiled readers print about a damaged file: one sentence of ours says it instead."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Drop what C code writes to standard output and standard error in this process while the block runs."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept, nowhere = [], os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (1, 2):
            try:
                kept.append((stream, os.dup(stream)))
            except OSError:  # closed, as in a windowed program
                continue
            os.dup2(nowhere, stream)
        yield
    finally:
        for stream, copy in kept:
            os.dup2(copy, stream)
            os.close(copy)
        os.close(nowhere)
