"""Drawing is held back while several nodes change: each change would let the views draw an unfinished picture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import slicer


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Draw once, at the end; may be nested, and serves as a decorator: `@paused()`."""
    slicer.app.pauseRender()
    try:
        yield
    finally:
        slicer.app.resumeRender()
