"""Images named on a command line, and what a report says about them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from RecurrentRegistrationLib.volume import Volume, split_part


@dataclass(frozen=True)
class Input:
    """An image and where it came from.

    Attributes:
        path: as it was named.
        volume: the image.
    """

    path: str
    volume: Volume

    @classmethod
    def read(cls, path: str, *, mask: bool = False) -> Input:
        """Read an image or a mask. Raises InputError where it is none."""
        return cls(str(path), Volume.read_mask(path) if mask else Volume.read(path))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return Path(self.path).name

    def described(self) -> dict[str, Any]:
        """Absolute path, size, spacing (i, j[, k]; millimetres) and SHA-256 of the file, or of a folder's files."""
        grid = self.volume.grid
        file, part = split_part(self.path)
        where = str(file.absolute()) + (f"#{part}" if part else "")
        return {"path": where, "size": list(grid.size), "spacing": list(grid.spacing), "sha256": _checksum(file)}


def _checksum(path: Path) -> str:
    if path.is_dir():
        parts = [_checksum(file) for file in sorted(path.rglob("*")) if file.is_file()]
        return hashlib.sha256("".join(parts).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def notice(inputs: dict[str, Input]) -> str | None:
    """A warning where the fixed and the moving image are the same file."""
    fixed, moving = (split_part(inputs[name].path) for name in ("fixed", "moving"))
    same = fixed[1] == moving[1] and (
        fixed[0].resolve() == moving[0].resolve() or _checksum(fixed[0]) == _checksum(moving[0])
    )
    return "warning: the fixed and the moving image are the same." if same else None
