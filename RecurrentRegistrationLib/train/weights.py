"""Weights in files: read to begin with, written at the end beside a description of how they came about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from RecurrentRegistrationLib.documents import to_json
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.files import complete
from RecurrentRegistrationLib.methods import Method


def load(method: Method, path: Path, *, strict: bool = True) -> None:
    """Read weights into a method. Raises InputError where they do not fit or cannot be read.

    Args:
        method: changed in place.
        path: a safetensors file.
        strict: otherwise what fits is read, for networks that share only parts.
    """
    try:
        found = {name: value.float() for name, value in load_file(str(path)).items()}
        if not strict:
            own = method.state_dict()
            found = {name: value for name, value in found.items() if name in own and own[name].shape == value.shape}
            if not found:
                raise InputError(f"Nothing in {path} fits the method {method.card.name}.")
        method.load_state_dict(found, strict=strict)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"The weights {path} do not fit the method {method.card.name}, or cannot be read.") from error


def save(method: Method, path: Path, description: Mapping[str, Any], *, half: bool = True) -> None:
    """Write weights, in half precision unless told otherwise, and their description as `path` with the ending .json.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    dtype = torch.float16 if half else torch.float32
    tensors = {
        name: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in method.state_dict().items()
    }
    with complete(path) as temporary:
        save_file(tensors, str(temporary))
    with complete(path.with_suffix(".json")) as temporary:
        temporary.write_text(to_json(dict(description), indent=2) + "\n", encoding="utf-8")
