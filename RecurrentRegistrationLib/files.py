"""Files that are either complete or absent."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from RecurrentRegistrationLib.errors import InputError


def suffix_of(path: Path) -> str:
    """The ending that decides a format, `.nii.gz` and `.seq.nrrd` included."""
    name = path.name.lower()
    known = (".nii.gz", ".seq.nrrd", ".mrk.json")
    return next((s for s in known if name.endswith(s)), path.suffix.lower())


@contextlib.contextmanager
def complete(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it takes the name `path` only when the block ends well.

    Raises:
        InputError: the folder cannot be written to or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=suffix_of(path), delete=False) as handle:
            temporary = Path(handle.name)
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror or error}. Choose another output folder.") from error
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_write_failure(error):
            raise
        reason = getattr(error, "strerror", None) or "the disk is full or the file cannot be written there"
        raise InputError(f"Cannot write {path}: {reason}. Free some space or choose another folder.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _is_write_failure(error: RuntimeError) -> bool:
    """Whether an ITK error tells of a failed write rather than of something else."""
    text = str(error).lower()
    return any(word in text for word in ("write", "writing", "no space", "could not be opened"))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
