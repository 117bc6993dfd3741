"""Checkpoints that are complete or absent, whatever happens to the disk or the process."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from RecurrentRegistrationLib.errors import InputError, is_out_of_memory
from RecurrentRegistrationLib.io.files import complete

UNREADABLE = (EOFError, RuntimeError, KeyError, pickle.UnpicklingError)


class CompleteCheckpoints(TorchCheckpointIO):
    """Writes beside the old file and renames, so that a full disk or a kill leaves the last good one as it was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Raises InputError where the disk is full."""
        content = io.BytesIO()  # torch.save itself would speak of a broken archive where the disk is full
        torch.save(checkpoint, content)
        with complete(path) as temporary:
            temporary.write_bytes(content.getbuffer())

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Raises InputError for a damaged file."""
        try:
            return super().load_checkpoint(path, *args, **kwargs)
        except UNREADABLE as error:
            if is_out_of_memory(error):
                raise
            raise InputError(f"The checkpoint {path} cannot be read: remove it to begin anew.") from error
