"""What a user may choose, and what can be said of it before anything is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.methods.refine import SIMILARITIES
from RecurrentRegistrationLib.transform import Affine, Transform

STARTS = ("auto", "none", "geometry", "moments")
LINEAR = ("auto", "affine", "rigid", "none")
STOPS = ("off", "auto")


@dataclass(frozen=True)
class Options:
    """What a user can choose.

    Attributes:
        method: a name of `methods.names()`; "auto" for that of the weights, named or the preset's, or else without
            training; "none" for the linear stage alone.
        preset: a name of `presets.PRESETS`; "auto" by what the images look like.
        initial: "auto" searches all postures; "geometry", "moments" and "none" begin there; or a transform.
        linear: what is found before the deformation: "affine", "rigid", "none" to leave `initial` as it is, or "auto"
            for what most of the image speaks for.
        similarity: of the training-free methods, a name of `methods.refine.SIMILARITIES`; None for the preset's.
        steps: of the method; None for its default.
        refine: iterations of instance optimisation after the method; None for none.
        stop: "auto" ends the method once its last steps brought next to nothing (`stopping`), "off" makes all of them.
        spacing: of the working grid in millimetres; None for what the method, the images and the memory allow.
        device: "auto", "cpu", "cuda" or "cuda:1".
        seed: of whatever is drawn at random.
        memory_limit: bytes; None for what is free.
        weights: of a trained method: a name of `weights.models()`, or a safetensors file, whose card or description
            beside it says the rest unless `method_options` do.
        untrained: whether a trained method may do without weights, to try it out; its output means nothing.
        method_options: passed on to the method.
    """

    method: str = "auto"
    preset: str = "auto"
    initial: str | Path | Transform = "auto"
    linear: str = "auto"
    similarity: str | None = None
    steps: int | None = None
    refine: int | None = None
    stop: str = "off"
    spacing: float | None = None
    device: str = "auto"
    seed: int = 0
    memory_limit: int | None = None
    weights: str | Path | None = None
    untrained: bool = False
    method_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def automatic(self) -> bool:
        """Whether the deformation is composed by evidence; a named method, or number of steps, is taken as it is."""
        return self.method == "auto" and self.steps is None and not self.method_options

    @property
    def deforms(self) -> bool:
        """Whether a method follows the linear stage."""
        return self.method != "none"


def check_options(options: Options) -> None:
    """Refuse what no images could make right. Raises InputError."""
    if options.similarity is not None and options.similarity not in SIMILARITIES:
        raise InputError(f"There is no similarity '{options.similarity}'; choose one of {', '.join(SIMILARITIES)}.")
    if options.linear not in LINEAR:
        raise InputError(f"The linear stage is 'auto', 'affine', 'rigid' or 'none', not '{options.linear}'.")
    if options.stop not in STOPS:
        raise InputError(f"The stop rule is 'auto' or 'off', not '{options.stop}'.")
    for name, value in (("steps", options.steps), ("refine", options.refine)):
        if value is not None and value < (1 if name == "steps" else 0):
            raise InputError(f"The number of {name} cannot be {value}.")
    if not options.deforms and (options.linear == "none" or options.steps or options.weights):
        raise InputError("The method 'none' is the linear stage alone: it has neither steps nor weights of its own.")
    if options.spacing is not None and not options.spacing > 0:
        raise InputError(f"The working spacing must be positive; it is {options.spacing} mm.")


def read_start(initial: str | Path | Transform, dimension: int) -> np.ndarray | None:
    """The matrix of a given start, LPS millimetres; None for one of the named `STARTS`.

    Raises:
        InputError: there is no such start, or it is not a linear transform of this dimension that can be inverted.
    """
    if isinstance(initial, str) and initial in STARTS:
        return None
    if isinstance(initial, str) and not Path(initial).exists():
        raise InputError(f"There is no start '{initial}'; choose {', '.join(STARTS)} or the file of a transform.")
    transform = (initial if isinstance(initial, Transform) else Transform.read(initial)).simplified()
    if transform.dimension != dimension or any(not isinstance(p, Affine) for p in transform.parts):
        raise InputError(
            f"The initial transform must be linear and {dimension}D: of another, give the linear part, or warp the "
            "moving image through it first with 'apply'."
        )
    transform.inverse()
    return transform.parts[0].matrix if transform.parts else np.eye(dimension + 1)  # type: ignore[union-attr]


def choose_device(name: str) -> torch.device:
    """The device a name stands for. Raises InputError where this machine does not have it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"There is no device '{name}'; choose auto, cpu, cuda or cuda:0.") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"The device '{name}' is not supported; choose auto, cpu, cuda or cuda:0.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"This machine has no device '{name}' that PyTorch can use; choose cpu.")
    return device
