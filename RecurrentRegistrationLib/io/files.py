"""Files that are either complete or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io import abandoned


def suffix_of(path: Path) -> str:
    """The ending that decides a format, `.nii.gz` and `.seq.nrrd` included."""
    name = path.name.lower()
    known = (".nii.gz", ".seq.nrrd", ".mrk.json")
    return next((s for s in known if name.endswith(s)), path.suffix.lower())


def safe_name(text: str) -> str:
    """A text as the name of one file or folder; where that changes it, with a mark by which two texts stay two."""
    name = re.sub(r"[^\w.+=,-]+|^[.-]+", "_", text)[:60]
    if name and name == text:
        return name
    return f"{name or '_'}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


@contextlib.contextmanager
def complete(path: str | Path, *, size: int = 0) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it takes the name `path` only when the block ends well.

    Args:
        path: the file to be.
        size: bytes that must be free before the block begins, for writers that do not survive a full disk.

    Raises:
        InputError: the folder cannot be written to or the disk is full.
    """
    path = Path(path)
    place = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        name = path.name[:200]  # names are 255 bytes at most
        abandoned.clear(path.parent, name)
        place = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{name}."))
        temporary = place / f"new{suffix_of(path)}"
        temporary.touch()
        with abandoned.held(place):
            try:
                yield temporary
            except RuntimeError:  # ITK's writers raise the same for a full disk as for a wrong pixel type
                _require_space(temporary)
                raise
            _require_space(temporary)
            temporary.chmod(0o666 & ~_umask())
            os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"Cannot write {path}: {reason}. Free some space or choose another folder.") from error
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)


def _require_space(path: Path) -> None:
    """Raise OSError if the file could not be longer than it is: several of ITK's writers do not notice a full disk."""
    length = path.stat().st_size
    with path.open("ab") as handle:
        handle.write(bytes(1 << 16))
        handle.flush()
        handle.truncate(length)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
