"""The pipeline: validate, prepare, align, deform, refine; a `Run` yields steps and has a valid result after each.

The moving image is first pulled onto the working lattice (a box of the fixed image) through the linear alignment; the
methods then deform it there. A step's transform is `displacement, then linear map`, from fixed to moving points.
"""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from RecurrentRegistrationLib import __version__, methods, spatial, weights
from RecurrentRegistrationLib.errors import InputError, OutOfMemoryError, is_out_of_memory
from RecurrentRegistrationLib.layers.affine_map import affine_matrix
from RecurrentRegistrationLib.methods.base import Card, Method
from RecurrentRegistrationLib.methods.refine import CARD as REFINE
from RecurrentRegistrationLib.methods.refine import SIMILARITIES, Refine
from RecurrentRegistrationLib.pipeline import memory
from RecurrentRegistrationLib.pipeline.checks import check_images, check_mask, check_overlap
from RecurrentRegistrationLib.pipeline.linear import LIKE, align, named_start
from RecurrentRegistrationLib.pipeline.preparation import PRESETS, Prepared, blurred_like, choose_preset, prepare
from RecurrentRegistrationLib.pipeline.working_grid import faded_out, working_grid
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.transform import Affine, DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid, Volume, resample

STARTS = ("auto", "none", "geometry", "moments")
ALIGNED = 100  # linear steps, about
FEWEST = 6  # voxels along the longest side of a lattice of a given spacing
FIXED_COST = 700 * 2**20  # bytes of torch and SimpleITK themselves


@dataclass(frozen=True)
class Options:
    """What a user can choose.

    Attributes:
        method: a name of `methods.names()`; "auto" for that of the weights, named or the preset's, or else without
            training; "none" for the linear stage alone.
        preset: a name of `preparation.PRESETS`; "auto" by what the images look like.
        initial: "auto" searches all postures; "geometry", "moments" and "none" begin there; or a transform.
        linear: "affine", "rigid" or "none": what is found before the deformation; "none" leaves `initial` as it is.
        similarity: of the training-free methods, a name of `methods.refine.SIMILARITIES`; None for the preset's.
        steps: of the method; None for its default.
        refine: iterations of instance optimisation after the method; None for none.
        spacing: of the working lattice in millimetres; None for what the method, the images and the memory allow.
        device: "auto", "cpu", "cuda" or "cuda:1".
        seed: of whatever is drawn at random.
        memory_limit: bytes; None for what is free.
        weights: of a trained method: a name of `weights.models()`, or a safetensors file, whose card or description
            beside it says the rest unless `method_options` do; None for those that come with it.
        untrained: whether a trained method may do without weights, to try it out; its output means nothing.
        method_options: passed on to the method.
    """

    method: str = "auto"
    preset: str = "auto"
    initial: str | Path | Transform = "auto"
    linear: str = "affine"
    similarity: str | None = None
    steps: int | None = None
    refine: int | None = None
    spacing: float | None = None
    device: str = "auto"
    seed: int = 0
    memory_limit: int | None = None
    weights: str | Path | None = None
    untrained: bool = False
    method_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Registration:
    """A finished registration.

    Attributes:
        transform: from fixed to moving points.
        grid: the fixed image's lattice.
        moving: the moving image.
        steps: for each step its index, stage, similarity, mean update (mm), folding (%) and seconds.
        report: settings, versions, seconds, memory, steps and what the transform does.
    """

    transform: Transform
    grid: Grid
    moving: Volume
    steps: list[dict[str, Any]]
    report: dict[str, Any]

    def warped(
        self, moving: Volume | None = None, *, interpolation: str = "linear", background: float | None = None
    ) -> Volume:
        """An image of the moving space (default: the moving image) on the fixed lattice."""
        moving = self.moving if moving is None else moving
        value = float(moving.array.min()) if background is None else background
        image = resample(
            moving.to_sitk(), self.grid, self.transform.to_sitk(), interpolation=interpolation, background=value
        )
        return Volume.from_sitk(image)

    def displacement(self) -> DisplacementField:
        """The whole transform as a field on the fixed lattice."""
        return self.transform.displacement_on(self.grid)

    def jacobian(self) -> Volume:
        """Jacobian determinants on the fixed lattice: above 1 a fixed voxel covers more of the moving image."""
        determinant = spatial.jacobian_determinant(self.displacement().values)
        return Volume(determinant[0].numpy(), self.grid)


def start(
    fixed: Volume,
    moving: Volume,
    *,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    options: Options | None = None,
) -> Run:
    """Check everything that can be checked before the work, and return a `Run` to iterate over.

    Raises:
        InputError: an input or an option cannot be used.
        OutOfMemoryError: the coarsest useful working lattice does not fit in memory.
    """
    return Run(fixed, moving, fixed_mask, moving_mask, options or Options())


def register(fixed: Volume, moving: Volume, **arguments: Any) -> Registration:
    """Register to the end; arguments as `start`."""
    run = start(fixed, moving, **arguments)
    for _ in run:
        pass
    return run.result()


class Run:
    """One registration under way.

    Attributes:
        phase: "prepare", "align", "deform", "refine" or "done".
        notes: plain sentences about what was chosen and why.
        planned_steps: how many steps there will be.
        model: the weights that come with the method; None for none, or for a file of weights.
        steps: records of the steps made so far.
        last: the last step.
    """

    def __init__(
        self,
        fixed: Volume,
        moving: Volume,
        fixed_mask: Volume | None,
        moving_mask: Volume | None,
        options: Options,
    ) -> None:
        check_images(fixed, moving)
        check_mask(fixed, fixed_mask, "fixed")
        check_mask(moving, moving_mask, "moving")
        self.options = options
        self.notes: list[str] = []
        self.phase = "prepare"
        self.seconds: dict[str, float] = {}
        self.steps: list[dict[str, Any]] = []
        self.last: Step | None = None
        self._fixed, self._moving = fixed, moving
        self._masks = fixed_mask, moving_mask
        self.device = choose_device(options.device)
        self.preset = self._choose_preset()
        self._deforms = options.method != "none"
        self._name = "refine" if options.method in ("auto", "none") else options.method
        if options.similarity is not None and options.similarity not in SIMILARITIES:
            raise InputError(f"There is no similarity '{options.similarity}'; choose one of {', '.join(SIMILARITIES)}.")
        if options.linear not in ("affine", "rigid", "none"):
            raise InputError(f"The linear stage is 'affine', 'rigid' or 'none', not '{options.linear}'.")
        for name, value in (("steps", options.steps), ("refine", options.refine)):
            if value is not None and value < (1 if name == "steps" else 0):
                raise InputError(f"The number of {name} cannot be {value}.")
        if not self._deforms and (options.linear == "none" or options.steps or options.weights):
            raise InputError(
                "The method 'none' is the linear stage alone: it has neither steps nor weights of its own."
            )
        if options.spacing is not None and not options.spacing > 0:
            raise InputError(f"The working spacing must be positive; it is {options.spacing} mm.")
        self._start = self._read_start()
        self._weights: Path | None = None  # a file that nothing describes
        self.model = self._choose_model()
        self._method = self._create_method()
        self.grid = self._working_grid()
        self._pair: tuple[Prepared, Prepared] | None = None
        self._makers: list[tuple[int, Method, Grid]] = []  # steps made before a method went to work, method, lattice
        self._matrix = np.eye(fixed.grid.dimension + 1) if self._start is None else self._start
        self._count = options.steps or (self.model.steps if self.model else None)
        deforming = (self._count or self._method.card.default_steps) if self._deforms else 0
        linear = 0 if options.linear == "none" else ALIGNED + (options.initial == "auto")
        self.planned_steps = linear + deforming + (options.refine or 0)

    @property
    def method(self) -> Method:
        """The method that deforms."""
        return self._method

    def __iter__(self) -> Iterator[Step]:
        """Prepare, align, deform and refine, yielding every finished step."""
        yield from self._guarded(self._prepared_and_aligned())
        if self._deforms:
            yield from self._guarded(self._deform(self._count, None))
        if self.options.refine:
            yield from self.refine(self.options.refine)
        self.phase = "done"

    def extend(self, count: int) -> Iterator[Step]:
        """Go on from the last step for `count` more.

        Raises:
            InputError: the last step left nothing to go on from.
        """
        if self.last is None or self.last.state is None:
            raise InputError("There is no step to continue from: run the method first.")
        _, method, grid = [maker for maker in self._makers if maker[0] < self.last.index][-1]
        self._go_onto(grid)
        yield from self._guarded(self._deform(count, self.last.state, method))
        self.phase = "done"

    def refine(self, count: int) -> Iterator[Step]:
        """Improve the last step by `count` iterations of instance optimisation.

        Where that would choose a finer lattice than the method's by itself, it goes on to it, from coarse to fine.
        """
        if self.last is None:
            raise InputError("There is no step to refine: run the method first.")
        self.phase = "refine"
        refiner = Refine(**{**PRESETS[self.preset].refine, "similarity": self._similarity})
        reached = _pitch(self._grid_of(self.last))
        self._go_onto(self._refined_grid())
        refiner.schedule = tuple(
            (scale, iterations)
            for scale, iterations in refiner.schedule
            if scale == 1 or 1.5 * scale * _pitch(self.grid) < reached
        )
        initial = self.last.values.to(self.device).float()
        yield from self._guarded(self._deform(count, None, refiner, self.last.affine, initial=initial))
        self.phase = "done"

    def go_back(self, step: Step | None) -> None:
        """Make an earlier step the last one, or None: `extend` and `refine` go on from it, `result` tells of it."""
        self.last = step
        self.steps = [record for record in self.steps if step is not None and record["index"] <= step.index]
        if step is None:
            return
        matrix = self._matrix_of(step)
        if not np.allclose(matrix, self._matrix, rtol=0, atol=1e-6):
            self._matrix, self._pair = matrix, None

    def transform_at(self, step: Step) -> Transform:
        """The transform that a step stands for; it covers the whole fixed image.

        Around the working lattice a deformation fades; an affine part of it goes on.
        """
        grid, matrix, values = self._grid_of(step), self._matrix_of(step), step.values.cpu().float()
        least = 0.0
        if step.affine is not None:
            affine = affine_matrix(step.affine[0], step.shape)
            matrix = matrix @ grid.tensor_to_physical @ affine @ grid.physical_to_tensor
            least = 1e-3 * max(1.0, float(values.abs().max()))  # of a voxel, and what half precision leaves
            values = spatial.follow_linear(spatial.resize_displacement(values, step.shape), np.linalg.inv(affine))
        parts: list[Affine | DisplacementField] = [Affine(matrix)]
        if values.abs().max() > least:
            parts.insert(0, faded_out(values, grid, self._fixed.grid))
        return Transform(tuple(parts))

    def result(self, step: Step | None = None) -> Registration:
        """The registration as it stood after a step; None for the last.

        Raises:
            InputError: no step has been finished yet.
        """
        step = step or self.last
        if step is None:
            raise InputError("No step has been finished yet, so there is no result.")
        transform = self._unfolded(self.transform_at(step))
        steps = [record for record in self.steps if record["index"] <= step.index]
        grid = self._grid_of(step)
        report = {
            "method": self._name if self._deforms else "none",
            "preset": self.preset,
            "device": _device_name(self.device),
            "seed": self.options.seed,
            "versions": versions(),
            "notes": list(self.notes),
            "working_grid": {"size": list(grid.size), "spacing": list(grid.spacing)},
            "seconds": {**self.seconds},
            "peak_memory_bytes": memory.peak(),
            "steps": steps,
            **_jacobian_summary(transform, self._fixed.grid),
        }
        return Registration(transform, self._fixed.grid, self._moving, steps, report)

    # ---- the phases

    @torch.no_grad()
    def _prepared_and_aligned(self) -> Iterator[Step]:
        with self._timed("prepare"):
            fixed, moving = self._prepared()
        if self.options.linear != "none":
            yield from self._align(fixed, moving)
        elif self._start is None and self.options.initial in ("geometry", "moments"):
            self._matrix = named_start(fixed, moving, str(self.options.initial))
        self._put_together(fixed, moving)

    def _prepared(self) -> tuple[Prepared, Prepared]:
        preset = PRESETS[self.preset]
        fixed = prepare(self._fixed, self._masks[0], preset).to(self.device)
        moving = prepare(self._moving, self._masks[1], preset).to(self.device)
        return blurred_like(fixed, moving.grid), blurred_like(moving, fixed.grid)

    def _put_together(self, fixed: Prepared, moving: Prepared) -> None:
        with self._timed("prepare"):
            self._pair = fixed.onto(self.grid), moving.onto(self.grid, self._matrix)

    def _align(self, fixed: Prepared, moving: Prepared) -> Iterator[Step]:
        self.phase = "align"
        initial = self.options.initial
        begin = self._start
        if self._start is None:
            begin = named_start(fixed, moving, "none" if initial == "auto" else str(initial))
        iterations = align(fixed, moving, kind=self.options.linear, search=initial == "auto", start=begin)
        previous = self._matrix
        began = time.perf_counter()
        for alignment in iterations:
            if alignment.note:
                self.notes.append(alignment.note)
            if alignment.agreement is not None:
                self._judge_contrast(alignment.agreement)
                continue
            self._matrix = alignment.matrix
            linear = self.grid.physical_to_tensor @ alignment.matrix @ self.grid.tensor_to_physical
            moved = np.linalg.norm(_corner_change(self.grid, previous, alignment.matrix), axis=1).mean()
            previous = alignment.matrix
            yield self._recorded(
                Step(
                    index=len(self.steps) + 1,
                    stage=alignment.stage,
                    values=torch.zeros(1, self.grid.dimension, *[2] * self.grid.dimension),
                    shape=self.grid.shape,
                    seconds=time.perf_counter() - began,
                    measure=lambda _, score=alignment.score: score,  # type: ignore[misc]
                    linear=linear,
                    moved=float(moved) / _pitch(self.grid),
                )
            )
        self.seconds["align"] = time.perf_counter() - began

    @torch.no_grad()
    def _deform(
        self,
        count: int | None,
        state: Any,
        method: Method | None = None,
        affine: Tensor | None = None,
        **extra: Any,
    ) -> Iterator[Step]:
        """The steps of a method; `affine` is the affine part of what it begins with."""
        if self._pair is None:  # going on from a step of the alignment
            self._put_together(*self._prepared())
        assert self._pair is not None
        if self.phase != "refine":
            self.phase = "deform"
        method = (method or self._method).to(self.device).eval()
        fixed, moving = (_as_asked(image, method.card.intensities) for image in self._pair)
        linear = self.grid.physical_to_tensor @ self._matrix @ self.grid.tensor_to_physical
        masks = {"fixed_mask": fixed.mask, "moving_mask": moving.mask}
        began, phase, offset = time.perf_counter(), self.phase, len(self.steps)
        before = self.seconds.get(phase, 0.0)
        self._makers.append((offset, method, self.grid))
        stream = method.steps(fixed.values, moving.values, count=count, state=state, **masks, **extra)
        for number, step in enumerate(stream, start=1):
            self.seconds[phase] = before + time.perf_counter() - began
            part = affine if step.affine is None else step.affine
            yield self._recorded(dataclasses.replace(step, index=offset + number, linear=linear, affine=part))

    def _recorded(self, step: Step) -> Step:
        self.last = step
        self.steps.append(
            {
                "index": step.index,
                "stage": step.stage,
                "similarity": step.similarity,
                "mean_update_mm": step.mean_update * _pitch(self.grid),
                "folding": step.folding,
                "seconds": step.seconds,
            }
        )
        return step

    def _guarded(self, steps: Iterator[Step]) -> Iterator[Step]:
        try:
            yield from steps
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise OutOfMemoryError(
                    "There is not enough memory: close other programs or give a coarser working spacing."
                ) from error
            raise

    # ---- choices

    def _judge_contrast(self, agreement: float) -> None:
        """Turn to the multimodal preset where the contrasts turn out to differ and nothing else was asked for."""
        if agreement > LIKE[self.grid.dimension] or self.options.preset != "auto" or self.preset == "multimodal":
            return
        self.preset = "multimodal"
        self.notes.append(f"The contrasts differ (agreement {agreement:.2f}): preset multimodal.")
        self._method = self._create_method()

    def _choose_preset(self) -> str:
        name = self.options.preset
        if name == "auto":
            name = choose_preset(self._fixed, self._moving)
            self.notes.append(f"Preset: {name}, {PRESETS[name].summary}.")
        if name not in PRESETS:
            raise InputError(f"There is no preset '{name}'; choose auto or one of {', '.join(PRESETS)}.")
        return name

    def _read_start(self) -> np.ndarray | None:
        initial = self.options.initial
        if isinstance(initial, str) and initial in STARTS:
            if initial == "none":
                check_overlap(self._fixed.grid, self._moving.grid)
            return None
        if isinstance(initial, str) and not Path(initial).exists():
            raise InputError(f"There is no start '{initial}'; choose {', '.join(STARTS)} or the file of a transform.")
        transform = initial if isinstance(initial, Transform) else Transform.read(initial)
        transform = transform.simplified()
        if transform.dimension != self._fixed.grid.dimension or any(not isinstance(p, Affine) for p in transform.parts):
            raise InputError(f"The initial transform must be linear and {self._fixed.grid.dimension}D.")
        return transform.parts[0].matrix if transform.parts else np.eye(transform.dimension + 1)  # type: ignore[union-attr]

    @property
    def _similarity(self) -> str:
        return self.options.similarity or PRESETS[self.preset].refine.get("similarity", "lncc")

    def _choose_model(self) -> weights.Model | None:
        """The weights that were named, or else those that come with the method as it is usually made."""
        asked, dimension = self._asked_weights(), self._fixed.grid.dimension
        if asked is not None:
            model = self._named_model(asked)
        else:
            card = methods.card(self._name)
            model = (
                weights.of_method(self._name, dimension) if card.trained and not self.options.method_options else None
            )
            if model is None and card.trained:
                if not self.options.untrained:
                    raise InputError(f"The method '{self._name}' has no weights here: give some, or train it.")
                self.notes.append(f"{card.title} is untrained: its output means nothing.")
        if model is not None:
            about = f", trained on {model.data}. For: {model.summary}" if model.data else "."
            self.notes.append(f"Weights: {model.name}{about}")
        return model

    def _asked_weights(self) -> str | Path | None:
        """The weights that were named or, where the method is left open as well, the preset's."""
        preset, named = PRESETS[self.preset], self.options.weights
        if named is not None or preset.weights is None or self.options.method != "auto":
            return named
        if any(model.name == preset.weights for model in weights.models()):
            return preset.weights
        self.notes.append(f"The weights '{preset.weights}' are not in {weights.home()}: this is done without training.")
        return None

    def _named_model(self, asked: str | Path) -> weights.Model | None:
        """The weights of a name or a file, which choose the method where that is left to them.

        None for a file whose method and options are the user's.
        """
        path = Path(asked) / weights.WEIGHTS if (Path(asked) / weights.CARD).exists() else Path(asked)
        if path.suffix != ".safetensors":
            model = weights.find(str(asked))
        elif not path.exists():
            raise InputError(f"There is no file {path}.")
        else:
            model = None if self.options.method_options else weights.described(path)
        automatic = self.options.method == "auto"
        if model is None:
            if automatic:
                raise InputError(f"Nothing beside {asked} says what these weights are for: name their method.")
            if not self.options.method_options:
                self.notes.append(
                    f"Nothing beside {asked} says with which options, spacing and steps it was trained: "
                    f"those of {self._name} are taken, which may not be right."
                )
            self._weights = path
            return None
        if automatic:
            self._name = model.method
        if (model.method, model.dimension) != (self._name, self._fixed.grid.dimension):
            raise InputError(
                f"The weights '{model.name}' are for the method '{model.method}' and {model.dimension}D images."
            )
        return model

    def _create_method(self) -> Method:
        if self.model is not None:
            return weights.create(self.model)
        options = dict(self.options.method_options)
        if self._name == "refine":
            options = {**PRESETS[self.preset].refine, "similarity": self._similarity, **options}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            method = methods.create(self._name, self._fixed.grid.dimension, **options)
        if method.card.trained and self._weights is not None:
            weights.load(method, self._weights)
        return method

    def _working_grid(self) -> Grid:
        usual = self.model.spacing if self.model and self.model.spacing else self._method.card.spacing
        grid, finest = self._fitting_grid(self.options.spacing or usual, self._method.card)
        if self.options.spacing and grid is not None and max(grid.size) < FEWEST:
            left = f"{max(grid.size)} voxels along the longest side"
            raise InputError(f"A working spacing of {self.options.spacing:g} mm leaves {left}: give a finer one.")
        if grid is None:
            raise OutOfMemoryError(
                f"Registering these images needs more than {self._byte_limit() / 2**30:.1f} GiB of free memory."
            )
        if max(grid.spacing) > 1.01 * finest:
            self.notes.append(
                f"The working lattice is {max(grid.spacing):.2f} mm instead of {finest:.2f} mm, to fit in memory."
            )
        return grid

    def _fitting_grid(self, spacing: float | None, card: Card) -> tuple[Grid | None, float]:
        """See `working_grid`: a lattice that a method of this card can work on in the memory there is."""
        prepared = prepare(self._fixed, self._masks[0], PRESETS[self.preset])
        limit = self._byte_limit()
        return working_grid(prepared, spacing, lambda voxels: self._bytes(voxels, card) <= limit)

    def _byte_limit(self) -> float:
        return 0.8 * (self.options.memory_limit or memory.available(self.device))

    def _bytes(self, voxels: float, card: Card) -> int:
        """Memory for a working lattice of so many voxels, for the process as a whole."""
        images = sum(math.prod(v.grid.size) for v in (self._fixed, self._moving))
        field = math.prod(self._fixed.grid.size) * 4 * self._fixed.grid.dimension
        channels = 12 if self._similarity == "mind" and card is REFINE else 0
        return int(voxels * (card.bytes_per_voxel + 24 * channels) + 16 * images + 4 * field) + FIXED_COST

    def _refined_grid(self) -> Grid:
        """The lattice of the refinement: through the same outer voxels, as fine as it would have it by itself."""
        if self.options.spacing:
            return self.grid
        finest, _ = self._fitting_grid(None, REFINE)
        if finest is None or _pitch(finest) > 0.75 * _pitch(self.grid):
            return self.grid
        return self.grid.between(_pitch(finest))

    def _go_onto(self, grid: Grid) -> None:
        """Work on a lattice from here on."""
        if grid != self.grid:
            self.grid, self._pair = grid, None

    def estimated_bytes(self) -> int:
        """Memory the run will take at most, for the process as a whole."""
        method = self._bytes(math.prod(self.grid.size), self._method.card)
        return max(method, self._bytes(math.prod(self._refined_grid().size), REFINE)) if self.options.refine else method

    # ---- from working lattice to fixed image

    def _unfolded(self, transform: Transform) -> Transform:
        """The transform without foldings on the fixed lattice; no more of the field is smoothed than it takes."""
        parts = transform.parts
        if not isinstance(parts[0], DisplacementField):
            return transform
        for minimum in (0.02, 0.05, 0.1, 0.2, 0.3):
            folded = transform.jacobian_determinant(self._fixed.grid) <= 0
            if not folded.any():
                return transform
            values = spatial.remove_folding(parts[0].values, minimum=minimum)
            transform = Transform((DisplacementField(values, parts[0].grid), *parts[1:]))
        return transform

    def _matrix_of(self, step: Step) -> np.ndarray:
        """The linear map that follows a step's displacement, LPS millimetres."""
        if step.linear is None:
            return self._matrix
        grid = self._grid_of(step)
        return grid.tensor_to_physical @ step.linear @ grid.physical_to_tensor

    def _grid_of(self, step: Step) -> Grid:
        """The working lattice of a step: that of a method or of its refinement."""
        return next((grid for *_, grid in self._makers if grid.shape == step.shape), self.grid)

    def _timed(self, phase: str) -> _Timed:
        return _Timed(self.seconds, phase)


class _Timed:
    """Adds the seconds of its block to a phase."""

    def __init__(self, seconds: dict[str, float], phase: str) -> None:
        self._seconds, self._phase = seconds, phase

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + time.perf_counter() - self._began


def estimate_memory(fixed: Volume, moving: Volume, options: Options | None = None) -> int:
    """Bytes a registration of these images will take at most."""
    return start(fixed, moving, options=options).estimated_bytes()


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


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    return {
        "RecurrentRegistrationLib": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "SimpleITK": sitk.Version.VersionString(),
        "python": platform.python_version(),
    }


def _pitch(grid: Grid) -> float:
    """Millimetres between voxels, on average over the axes that have several."""
    spacings = [s for n, s in zip(grid.size, grid.spacing, strict=True) if n > 1]
    return math.prod(spacings) ** (1 / len(spacings)) if spacings else 1.0


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _as_asked(image: Prepared, intensities: str) -> Prepared:
    """Intensities as a card asks: [0, 1] as they are, or zero mean and unit deviation clamped to [-2, 2]."""
    if intensities != "zscore":
        return image
    values = (image.values - image.values.mean()) / image.values.std().clamp_min(1e-6)
    return dataclasses.replace(image, values=values.clamp(-2, 2))


def _corner_change(grid: Grid, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    corners = grid.corners()
    return Affine(new).map_points(corners) - Affine(old).map_points(corners)


def _jacobian_summary(transform: Transform, grid: Grid) -> dict[str, Any]:
    determinant: Tensor = transform.jacobian_determinant(grid)
    folded = int((determinant <= 0).sum())
    return {
        "folded_voxels": folded,
        "folding": 100 * folded / determinant.numel(),
        "jacobian": {
            "min": float(determinant.min()),
            "mean": float(determinant.mean()),
            "max": float(determinant.max()),
        },
    }
