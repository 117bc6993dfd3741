"""Weights that ship: a folder for each, with `card.json` and half-precision `weights.safetensors`.

They lie in the package where it was installed, in `Resources/Models` beside it in the sources and in the extension, or
in the folder that `RECURRENT_REGISTRATION_MODELS` names. Nothing is ever downloaded. The file of a training, with its
description beside it, is read as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from RecurrentRegistrationLib import methods
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io.documents import to_json
from RecurrentRegistrationLib.io.files import complete
from RecurrentRegistrationLib.methods import Method

VARIABLE = "RECURRENT_REGISTRATION_MODELS"
CARD, WEIGHTS = "card.json", "weights.safetensors"


@dataclass(frozen=True)
class Model:
    """What is known of a method's weights.

    Attributes:
        name: of the folder.
        method: whose weights they are.
        dimension: of the images.
        summary: what they are for, one sentence.
        anatomy: that they are for.
        contrast: that they are for.
        data: what they were trained on.
        licence: of the data.
        configuration: the file of `training/` that trains them again.
        seed: of the training.
        spacing: isotropic working spacing in millimetres that they were trained with; None for the method's own.
        steps: default number of steps; None for the method's own.
        options: of `methods.create`.
        held_back: images that they never saw, below the data folder.
        metrics: what was measured on pairs of those.
        sha256: of the weights' file.
        bytes: of the weights' file.
        folder: where they lie.
        file: its name in there.
    """

    name: str
    method: str
    dimension: int
    summary: str
    data: str
    licence: str
    configuration: str
    seed: int
    anatomy: str = ""
    contrast: str = ""
    spacing: float | None = None
    steps: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    held_back: tuple[str, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""
    bytes: int = 0
    folder: Path = Path()
    file: str = WEIGHTS

    def card(self) -> dict[str, Any]:
        """What `card.json` holds: everything but the place."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in ("folder", "file")}


def home(folder: str | Path | None = None) -> Path:
    """The folder of all weights: the one given, the one the environment names, or the one that came along."""
    if named := folder or os.environ.get(VARIABLE):
        return Path(named)
    installed = Path(__file__).parent / "Models"
    return installed if installed.exists() else Path(__file__).parents[1] / "Resources" / "Models"


def models(folder: str | Path | None = None) -> list[Model]:
    """All weights of a folder, by name; none where there is no such folder.

    Raises:
        InputError: a card cannot be read.
    """
    return [_read(card.parent) for card in sorted(home(folder).glob(f"*/{CARD}"))]


def find(name: str, folder: str | Path | None = None) -> Model:
    """The weights of a name. Raises InputError where there are none."""
    known = {model.name: model for model in models(folder)}
    if name not in known:
        names = ", ".join(known) or "none"
        raise InputError(
            f"There are no weights '{name}' in {home(folder)}; there are: {names}. {VARIABLE} names another folder."
        )
    return known[name]


def of_method(method: str, dimension: int, folder: str | Path | None = None) -> Model | None:
    """The weights of a method, None where it has none.

    Raises:
        InputError: there are several to choose from.
    """
    fitting = [model for model in models(folder) if (model.method, model.dimension) == (method, dimension)]
    if len(fitting) > 1:
        names = " or ".join(model.name for model in fitting)
        raise InputError(f"There are several weights for the method '{method}'; choose {names}.")
    return fitting[0] if fitting else None


def described(path: str | Path) -> Model | None:
    """The weights of a file by the card, or the training's description, beside it; None where there is neither.

    Raises:
        InputError: that cannot be read.
    """
    path = Path(path)
    if path.name == WEIGHTS and (path.parent / CARD).exists():
        return _read(path.parent)
    return _trained(path) if path.with_suffix(".json").exists() else None


def create(model: Model) -> Method:
    """The method with its weights, checked.

    Raises:
        InputError: the file is missing, differs from what the card says, or does not fit the method.
    """
    from safetensors import SafetensorError  # only trained methods need it
    from safetensors.torch import load

    path = model.folder / model.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"The weights {path} cannot be read: install them again.") from error
    if model.sha256 and hashlib.sha256(content).hexdigest() != model.sha256:
        raise InputError(f"The weights {path} are not those of their card (other checksum): install them again.")
    method = methods.create(model.method, model.dimension, **model.options)
    try:
        method.load_state_dict({name: _single(tensor) for name, tensor in load(content).items()})
    except (RuntimeError, SafetensorError) as error:
        raise InputError(f"The weights {path} do not fit the method {model.method}: install them again.") from error
    return method


def save(model: Model, method: Method, folder: str | Path | None = None) -> Model:
    """Write weights and card into a folder of their name; the model with checksum, size and folder."""
    from safetensors.torch import save as serialised

    content = serialised({name: _half(tensor) for name, tensor in method.state_dict().items()})
    model = dataclasses.replace(
        model,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        folder=home(folder) / model.name,
    )
    model.folder.mkdir(parents=True, exist_ok=True)
    (model.folder / WEIGHTS).write_bytes(content)
    save_card(model)
    return model


def save_card(model: Model) -> None:
    """Write the card alone, where what is known of the weights has grown."""
    (model.folder / CARD).write_text(to_json(model.card(), indent=2) + "\n", encoding="utf-8")


def load(method: Method, path: Path, *, strict: bool = True) -> None:
    """Read weights into a method. Raises InputError where they do not fit or cannot be read.

    Args:
        method: changed in place.
        path: a safetensors file.
        strict: otherwise what fits is read, for networks that share only parts.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

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


def write(method: Method, path: Path, description: Mapping[str, Any], *, half: bool = True) -> None:
    """Write weights, in half precision unless told otherwise, and their description as `path` with the ending .json.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    from safetensors.torch import save_file

    dtype = torch.float16 if half else torch.float32
    tensors = {
        name: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in method.state_dict().items()
    }
    with complete(path) as temporary:
        save_file(tensors, str(temporary))
    with complete(path.with_suffix(".json")) as temporary:
        temporary.write_text(to_json(dict(description), indent=2) + "\n", encoding="utf-8")


def _read(folder: Path) -> Model:
    try:
        values = json.loads((folder / CARD).read_text(encoding="utf-8"))
        values["held_back"] = tuple(values["held_back"])
        return Model(**values, folder=folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"The card {folder / CARD} cannot be read: install the weights again.") from error


def _trained(path: Path) -> Model:
    """What a training wrote beside its weights; "" where only a card would say more."""
    description = path.with_suffix(".json")
    try:
        values = json.loads(description.read_text(encoding="utf-8"))
        return Model(
            name=str(path),
            method=values["name"],
            dimension=values["dimension"],
            summary="",
            data="",
            licence="",
            configuration=values.get("configuration", {}).get("file", ""),
            seed=values["seed"],
            spacing=math.prod(values["spacing"]) ** (1 / len(values["spacing"])),
            steps=values["steps"],
            options=values["options"],
            folder=path.parent,
            file=path.name,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise InputError(f"The description {description} cannot be read: train again, or remove it.") from error


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.half() if tensor.is_floating_point() else tensor).contiguous()


def _single(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
