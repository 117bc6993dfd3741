"""`Plan`: what is decided before the first step. When evidence changes it, a new plan is made, as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from RecurrentRegistrationLib import methods, weights
from RecurrentRegistrationLib.errors import InputError, OutOfMemoryError
from RecurrentRegistrationLib.methods.base import Card, Method
from RecurrentRegistrationLib.methods.refine import CARD as REFINE
from RecurrentRegistrationLib.methods.refine import Refine
from RecurrentRegistrationLib.pipeline import memory
from RecurrentRegistrationLib.pipeline.checks import check_overlap
from RecurrentRegistrationLib.pipeline.images import Images
from RecurrentRegistrationLib.pipeline.linear import LIKE, planned
from RecurrentRegistrationLib.pipeline.options import Options, check_options, choose_device, read_start
from RecurrentRegistrationLib.pipeline.presets import PRESETS, Preset, preset
from RecurrentRegistrationLib.pipeline.working_grid import working_grid
from RecurrentRegistrationLib.volume import Grid
from RecurrentRegistrationLib.weights import Model

FEWEST = 6  # voxels along the longest side of a grid of a given spacing
FIXED_COST = 700 * 2**20  # bytes of torch and SimpleITK themselves
SHARE = 0.8  # of the free memory that is used


@dataclass(frozen=True)
class Plan:
    """What was decided, and why.

    Attributes:
        options: what was asked for.
        preset: a name of `presets.PRESETS`.
        method: what deforms, with its weights where it has any, on the device.
        model: its weights; None for none, or for a file that nothing describes.
        device: where it is done.
        start: matrix of a given start, LPS millimetres; None for one of the named ones.
        grid: the working grid of the method.
        refined_grid: the working grid of a refinement that follows.
        voxels: of both images and of the fixed one, for the estimate of memory.
        steps: of the method; None where it decides itself.
        notes: plain sentences about what was chosen and why.
    """

    options: Options
    preset: str
    method: Method
    model: Model | None
    device: torch.device
    start: np.ndarray | None
    grid: Grid
    refined_grid: Grid
    voxels: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def steps(self) -> int | None:
        """Of the method, where they were named or come with its weights."""
        return self.options.steps or (self.model.steps if self.model else None)

    @property
    def trained_steps(self) -> int | None:
        """How many steps the method was trained for; None for one that was not trained."""
        known = self.model.steps if self.model else self.options.steps
        return (known or self.card.default_steps) if self.card.trained else None

    @property
    def planned_steps(self) -> int:
        """How many steps there will be, about."""
        deforming = (self.steps or self.card.default_steps) if self.options.deforms else 0
        kind, search = self.options.linear, self.options.initial == "auto"
        linear = 0 if kind == "none" else planned(kind, search)
        return linear + deforming + (self.options.refine or 0)

    @property
    def settings(self) -> Preset:
        """The preset itself."""
        return PRESETS[self.preset]

    @property
    def card(self) -> Card:
        """Of the method."""
        return self.method.card

    def create_refinement(self) -> Refine:
        """What refines the result of the method, or of an earlier step."""
        return Refine(**_refinement(self.options, self.settings)).to(self.device).eval()

    def estimated_bytes(self) -> int:
        """Memory the run takes at most, for the process as a whole."""
        own = _bytes(math.prod(self.grid.size), self.card, self.options, self.settings, self.voxels)
        if not self.options.refine:
            return own
        refined = math.prod(self.refined_grid.size)
        return max(own, _bytes(refined, REFINE, self.options, self.settings, self.voxels))


def make_plan(images: Images, options: Options, *, name: str | None = None, why: str = "") -> Plan:
    """Check everything that can be checked before the work, and decide.

    Args:
        images: what is registered.
        options: what was asked for.
        name: of the preset, where it has become known; None to decide.
        why: a sentence about that.

    Raises:
        InputError: an input or an option cannot be used.
        OutOfMemoryError: the coarsest useful working grid does not fit in memory.
    """
    check_options(options)
    device = choose_device(options.device)
    notes = [why] if why else []
    if name is None:
        name = images.looks_like if options.preset == "auto" else options.preset
        if options.preset == "auto":
            notes.append(f"Preset: {name}, {PRESETS[name].summary}.")
    settings = preset(name)
    notes += images.remarks(settings)
    start = read_start(options.initial, images.dimension)
    if options.initial == "none":
        check_overlap(images.fixed.grid, images.moving.grid)
    chosen, model, file, told = _chosen(options, settings, images.dimension)
    method = _created(chosen, model, file, options, settings, images.dimension).to(device).eval()
    card = method.card
    if images.masked and options.deforms and not card.uses_masks:
        told.append(f"{card.title} does not use masks: they count only in the linear stage and in the similarity.")
    voxels = images.voxels, math.prod(images.fixed.grid.size)
    limit = SHARE * (options.memory_limit or memory.available(device))
    fixed, _ = images.prepared(settings, torch.device("cpu"))

    def fitting(spacing: float | None, card: Card) -> tuple[Grid | None, float]:
        def fits(count: float) -> bool:
            return _bytes(count, card, options, settings, voxels) <= limit

        return working_grid(fixed, spacing, fits, settings.voxels)

    grid, finest = fitting(options.spacing or (model.spacing if model else None) or card.spacing, card)
    if grid is None:
        raise OutOfMemoryError(f"Registering these images needs more than {limit / 2**30:.1f} GiB of free memory.")
    if options.spacing and max(grid.size) < FEWEST:
        left = f"{max(grid.size)} voxels along the longest side"
        raise InputError(f"A working spacing of {options.spacing:g} mm leaves {left}: give a finer one.")
    grid = grid.upright() if card.upright else grid
    reached = max((s for n, s in zip(grid.size, grid.spacing, strict=True) if n > 1), default=finest)
    if reached > 1.01 * finest:
        told.append(f"The working grid is {reached:.2f} mm instead of {finest:.2f} mm, to fit in memory.")
    refined = None if options.spacing else fitting(None, REFINE)[0]
    refined_grid = grid if refined is None or refined.pitch > 0.75 * grid.pitch else grid.between(refined.pitch)
    return Plan(options, name, method, model, device, start, grid, refined_grid, voxels, tuple(notes + told))


def replanned(images: Images, plan: Plan, agreement: float) -> Plan | None:
    """A plan for unlike contrasts where they turn out to differ and nothing else was asked for; otherwise None."""
    if agreement > LIKE[images.dimension] or plan.options.preset != "auto" or plan.preset == "multimodal":
        return None
    why = f"The contrasts differ (agreement {agreement:.2f}): preset multimodal."
    return make_plan(images, plan.options, name="multimodal", why=why)


def _created(
    name: str, model: Model | None, file: Path | None, options: Options, settings: Preset, dimension: int
) -> Method:
    """The method of a name, with the weights of a model or a file."""
    if model is not None:
        return weights.create(model)
    given = dict(options.method_options)
    if name == "refine":
        given = {**_refinement(options, settings), **given}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        method = methods.create(name, dimension, **given)
    if file is not None:
        weights.load(method, file)
    return method


def _refinement(options: Options, settings: Preset) -> dict[str, Any]:
    return {**settings.refine, "similarity": _similarity(options, settings)}


def _similarity(options: Options, settings: Preset) -> str:
    return options.similarity or settings.refine.get("similarity", "lncc")


def _bytes(count: float, card: Card, options: Options, settings: Preset, voxels: tuple[int, int]) -> int:
    """Memory for a working grid of so many voxels, for the process as a whole."""
    images, fixed = voxels
    channels = 12 if _similarity(options, settings) == "mind" and card is REFINE else 0
    return int(count * (card.bytes_per_voxel + 24 * channels) + 16 * images + 48 * fixed) + FIXED_COST


def _chosen(options: Options, settings: Preset, dimension: int) -> tuple[str, Model | None, Path | None, list[str]]:
    """Method, weights or the file of them, and what is to be said about it."""
    told: list[str] = []
    asked = options.weights
    if asked is None and options.method == "auto" and settings.weights is not None:
        if any(model.name == settings.weights for model in weights.models()):
            asked = settings.weights
        else:
            told.append(f"The weights '{settings.weights}' are not in {weights.home()}: this is done without training.")
    name = "refine" if options.method in ("auto", "none") else options.method
    if asked is None:
        if methods.card(name).trained:
            _allow_untrained(name, options, dimension)
            told.append(f"{methods.card(name).title} is untrained: its output means nothing.")
        return name, None, None, told
    model, file = _named(asked, options)
    if model is None:
        if options.method == "auto":
            raise InputError(f"Nothing beside {asked} says what these weights are for: name their method.")
        if not options.method_options:
            told.append(
                f"Nothing beside {asked} says with which options, spacing and steps it was trained: "
                f"those of {name} are taken, which may not be right."
            )
        return name, None, file, told
    name = model.method if options.method == "auto" else name
    if (model.method, model.dimension) != (name, dimension):
        raise InputError(f"The weights '{model.name}' are for the method '{model.method}' and {model.dimension}D.")
    about = f", trained on {model.data}. For: {model.summary}" if model.data else "."
    return name, model, None, [*told, f"Weights: {model.name}{about}"]


def _allow_untrained(name: str, options: Options, dimension: int) -> None:
    """Weights are used only where they were named: what they learnt on one anatomy means nothing on another."""
    if options.untrained or options.method_options.get("weights"):
        return
    fitting = [model for model in weights.models() if (model.method, model.dimension) == (name, dimension)]
    known = [f"{model.name} ({model.anatomy})" if model.anatomy else model.name for model in fitting]
    if known and not options.method_options:
        raise InputError(f"The method '{name}' needs weights for this anatomy: name one of {', '.join(known)}.")
    raise InputError(f"The method '{name}' has no weights here: give some, or train it.")


def _named(asked: str | Path, options: Options) -> tuple[Model | None, Path | None]:
    """The weights of a name or a file; without a model for a file whose method and options are the user's."""
    path = Path(asked) / weights.WEIGHTS if (Path(asked) / weights.CARD).exists() else Path(asked)
    if path.suffix != ".safetensors":
        return weights.find(str(asked)), None
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    return (None if options.method_options else weights.described(path)), path
