"""Temporary folders that outlived a killed process: held while in use, and cleared by the next one."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: age alone tells
    fcntl = None  # type: ignore[assignment]

DAY = 24 * 3600.0


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Mark an existing folder as in use; the system takes the mark away, however the process ends."""
    descriptor = _lock(path)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def clear(folder: Path, name: str) -> None:
    """Remove the folders `.NAME.xxxxxxxx` of a folder that no process holds any more."""
    for path in folder.glob(f".{_literal(name)}.????????"):
        if not path.is_dir() or path.is_symlink():
            continue
        if fcntl is None:
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > DAY:
                    shutil.rmtree(path, ignore_errors=True)
        elif (descriptor := _lock(path)) is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)


def _lock(path: Path) -> int | None:
    """A descriptor that holds a folder; None where another process does, or where there are no locks."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _literal(text: str) -> str:
    """A text as a pattern that matches it alone."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in text)
