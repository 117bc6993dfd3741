"""The card of weights that are to ship."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from RecurrentRegistrationLib import weights
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.cases import TRAIN
from RecurrentRegistrationLib.train.divided import DividedData


@dataclass(frozen=True)
class Card:
    """What a training cannot know of its weights.

    Attributes:
        name: of the weights.
        summary: what they are for, one sentence.
        data: what they were trained on.
        licence: of the data.
        steps: of a registration by default, best on the validation subjects; None for as many as in training.
        spacing: of the working grid in millimetres, where a registration's is another than the training's.
        options: of the method, where they are others than the training's.
    """

    name: str
    summary: str
    data: str
    licence: str
    steps: int | None = None
    spacing: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def publish(card: Card, trained: Path, folder: Path, data: DividedData) -> Path:
    """Write the weights of a finished training with their card below a folder; the folder of both.

    Args:
        card: what is to be said of them.
        trained: the file that the training wrote.
        folder: for the folder of their name.
        data: what they were trained on.
    """
    known = weights.described(trained)
    if known is None:
        raise InputError(f"There is no description beside {trained}: train again.")
    model = weights.Model(
        name=card.name,
        method=known.method,
        dimension=known.dimension,
        summary=card.summary,
        data=f"{card.data}, {len(data.divided[TRAIN])} subjects",
        licence=card.licence,
        configuration=_in_project(known.configuration),
        seed=known.seed,
        spacing=card.spacing or round(known.spacing or 0.0, 6) or None,
        steps=card.steps or known.steps,
        options={**known.options, **card.options},
        held_back=data.held_back,
    )
    return weights.save(model, weights.create(known), folder).folder


def _in_project(configuration: str) -> str:
    """A configuration's path from `training` on, where it is in there."""
    parts = Path(configuration).resolve().parts
    return "/".join(parts[parts.index("training") :]) if "training" in parts else Path(configuration).name
