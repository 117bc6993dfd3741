"""The folder that a registration leaves behind: complete, or not there at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from RecurrentRegistrationLib.errors import InputError

FILES = (
    "transform.h5",
    "displacement.nrrd",
    "warped.nrrd",
    "jacobian.nrrd",
    "report.json",
    "report.png",
    "steps.seq.nrrd",
)


@contextlib.contextmanager
def result_folder(folder: str | Path) -> Iterator[Path]:
    """Give an empty folder beside `folder`; when the block ends well its files move to where they belong.

    A folder that is there keeps its other files; results of an earlier registration are replaced, all of them. When
    the block fails, nothing is left behind, not even the folders above.

    Raises:
        InputError: the folder cannot be made or written.
    """
    folder = Path(folder).absolute()
    made = _missing_parents(folder)
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    try:
        if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise InputError(f"Cannot write into {folder}: it is no folder, or it may not be written.")
        temporary.mkdir(parents=True)
        yield temporary
        _move(temporary, folder)
    except OSError as error:
        raise InputError(
            f"Cannot write into {folder}: {error.strerror or error}. Free some space or choose another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:  # only those that stayed empty
            with contextlib.suppress(OSError):
                parent.rmdir()


def _missing_parents(folder: Path) -> list[Path]:
    """The folders above that do not exist yet, innermost first."""
    return [parent for parent in folder.parents if not parent.exists()]


def _move(temporary: Path, folder: Path) -> None:
    if not folder.exists():
        temporary.rename(folder)
        return
    written = {file.name for file in temporary.iterdir()}
    for name in set(FILES) - written:
        (folder / name).unlink(missing_ok=True)
    for name in written:
        os.replace(temporary / name, folder / name)
