"""What a worker keeps between requests: one registration, its inputs and its steps. `worker` documents the fields."""

from __future__ import annotations

import dataclasses
import os
import platform
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from RecurrentRegistrationLib import methods
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io.files import complete
from RecurrentRegistrationLib.pipeline import Run, memory, start, uncertainty
from RecurrentRegistrationLib.pipeline.guide import LOCALISATION, Guide
from RecurrentRegistrationLib.pipeline.guide_files import GuideFiles, landmarks_from
from RecurrentRegistrationLib.pipeline.inputs import Input, notice
from RecurrentRegistrationLib.pipeline.kept_steps import History
from RecurrentRegistrationLib.pipeline.options import Options
from RecurrentRegistrationLib.pipeline.presets import PRESETS
from RecurrentRegistrationLib.pipeline.report import versions
from RecurrentRegistrationLib.report.folder import result_folder, write_results, write_steps
from RecurrentRegistrationLib.report.sequence import coarsened, vectors
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Grid

PROTOCOL = 1
TYPES = ("float16", "float32")

Answer = dict[str, Any]
Fields = dict[str, Any]


class Session:
    """One registration at a time; every public method serves one request and returns the fields of its `done`.

    A step counts once it has been told: one that an interruption kept from it is as if it had not been made.

    Args:
        tell: sends an event, named and with fields, while a request is served; whether anybody waits for it.
        held: makes a context that is not interrupted.
    """

    def __init__(self, tell: Callable[..., bool], held: Callable[[], AbstractContextManager[None]]) -> None:
        self._tell, self._held = tell, held
        self._run: Run | None = None
        self._last: Step | None = None
        self._inputs: dict[str, Input] = {}
        self._history = History()
        self._phase, self._told = "", 0

    def hello(self) -> Answer:
        """Versions and devices."""
        return {
            "protocol": PROTOCOL,
            "process": os.getpid(),
            "versions": versions(),
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
            "devices": list(_devices()),
        }

    def methods(self) -> Answer:
        """Cards of the methods, and the presets."""
        cards = [dataclasses.asdict(methods.card(name)) for name in methods.names()]
        return {"methods": cards, "presets": {name: preset.summary for name, preset in PRESETS.items()}}

    def memory(
        self,
        fixed: str,
        moving: str,
        fixed_mask: str | None = None,
        moving_mask: str | None = None,
        options: Fields | None = None,
    ) -> Answer:
        """What the registration of these files would take, without doing it."""
        run = self._begun(_read(fixed, moving, fixed_mask, moving_mask), options)
        return {"bytes": run.plan.estimated_bytes(), "notes": run.notes, "steps": run.plan.planned_steps}

    def register(
        self,
        fixed: str,
        moving: str,
        fixed_mask: str | None = None,
        moving_mask: str | None = None,
        options: Fields | None = None,
        guide: Fields | None = None,
        display: Fields | None = None,
    ) -> Answer:
        """Register, from the beginning."""
        self.forget()
        self._enter("read")
        inputs = _read(fixed, moving, fixed_mask, moving_mask)
        if warning := notice(inputs):
            self._tell("note", text=warning)
        self._run = self._begun(inputs, options, guide)
        self._inputs = inputs
        return self._advance(iter(self._run), self._run.plan.planned_steps, display)

    def go_on(self, count: int, display: Fields | None = None) -> Answer:
        """More steps of the method."""
        run = self._current
        return self._advance(run.extend(count), count, display)

    def refine(self, count: int, display: Fields | None = None) -> Answer:
        """Instance optimisation of the last step."""
        run = self._current
        return self._advance(run.refine(count), count, display)

    def guide(self, guide: Fields | None = None) -> Answer:
        """Take what the user knows from the next step on."""
        run = self._current
        images = self._inputs["fixed"].volume.grid, self._inputs["moving"].volume.grid
        read, notes = (None, []) if guide is None else _guide(guide, *images)
        run.guide(read)
        for note in notes:
            self._tell("note", text=note)
        return {"agreement": run.agreement()}

    def correct(self, display: Fields | None = None) -> Answer:
        """Do what the guide asks for, where it asks."""
        return self._advance(self._current.correct(), 1, display)

    def where(self, points: Sequence[Sequence[float]]) -> Answer:
        """Where the last step takes fixed points."""
        run = self._current
        dimension = self._inputs["fixed"].volume.grid.dimension
        try:
            fixed = np.array(points, dtype=float).reshape(-1, dimension)
        except (TypeError, ValueError) as error:
            raise InputError(f"Points are lists of {dimension} numbers.") from error
        mapped = fixed if run.last is None else run.last.transform.map_points(fixed)
        return {"points": mapped.tolist()}

    def accept(self, step: int) -> Answer:
        """Make a step the last one."""
        if self._last is None or self._last.index != step:
            self._last = self._history.step(step)
        self._stand()
        return {"steps": step}

    def result(
        self,
        folder: str,
        step: int | None = None,
        save_steps: bool = False,
        interpolation: str = "linear",
        background: float | None = None,
        inverse: bool = False,
    ) -> Answer:
        """Write what a step has found."""
        run = self._current
        last = run.last is not None and step in (None, run.last.index)
        found = run.result() if last or step is None else run.result(self._history.step(step))
        self._enter("write")
        with result_folder(folder) as temporary:
            report = write_results(found, self._inputs, temporary, interpolation=interpolation, background=background)
            if inverse:
                found.transform.inverse().write(temporary / "inverse.h5")
            if save_steps:
                write_steps(found.grid, self._history.kept, temporary / "steps.seq.nrrd")
            names = sorted(file.name for file in temporary.iterdir())
        return {"files": [str(Path(folder).absolute() / name) for name in names], "report": report}

    def uncertainty(self, folder: str, kinds: Sequence[str] = ("steps",)) -> Answer:
        """Write how sure the last step is of itself, a volume in millimetres for each kind."""
        run = self._current
        images = {name: source.volume for name, source in self._inputs.items()}
        files = []
        for kind, volume in uncertainty.maps(run, self._history.kept, images, kinds):
            file = Path(folder).absolute() / f"uncertainty_{kind}.nrrd"
            volume.write(file)
            files.append(str(file))
        return {"files": files}

    def forget(self) -> Answer:
        """Free the memory of the registration."""
        self._run, self._last, self._inputs, self._history = None, None, {}, History()
        self._phase, self._told = "", 0
        return {}

    @property
    def _current(self) -> Run:
        if self._run is None:
            raise InputError("There is no registration to work on: register first.")
        self._stand()
        return self._run

    def _stand(self) -> None:
        """Take the run back to the last step that was told."""
        assert self._run is not None
        self._run.go_back(self._last)
        self._history.forget_after(0 if self._last is None else self._last.index)

    def _begun(self, inputs: dict[str, Input], options: Fields | None, guide: Fields | None = None) -> Run:
        known = {field.name for field in dataclasses.fields(Options)}
        if unknown := set(options or {}) - known:
            raise InputError(f"There is no option '{unknown.pop()}'; there are {', '.join(sorted(known))}.")
        volumes: dict[str, Any] = {name: source.volume for name, source in inputs.items()}
        self._enter("prepare")
        known_of_it, notes = (None, []) if guide is None else _guide(guide, *(volumes[n].grid for n in _PAIR))
        run = start(**volumes, options=Options(**(options or {})), guide=known_of_it)
        run.notes += notes
        return run

    def _advance(self, steps: Iterator[Step], count: int, display: Fields | None) -> Answer:
        """Make steps and tell each."""
        run = self._current
        shown = None if display is None else _Shown.of(display, self._inputs["fixed"].volume.grid)
        planned = len(run.steps) + count
        self._history.expect(count)
        measured = float("nan")
        for step in steps:
            if run.before != measured:
                measured = run.before
                similarity = {record["index"]: record["similarity"] for record in run.steps}
                self._tell("measure", name=run.plan.settings.measure, before=run.before, similarity=similarity)
            self._tell_notes(run)
            self._enter(run.phase)
            kept = self._history.offer(step)
            file = shown.write(step.index, step.transform) if shown is not None and kept else None
            with self._held():
                best = None if run.best is None else run.best.index
                if self._tell(
                    "step", planned=max(planned, step.index), kept=kept, best=best, display=file, **run.steps[-1]
                ):
                    self._last = step
        self._tell_notes(run)
        return {"steps": len(run.steps)}

    def _tell_notes(self, run: Run) -> None:
        for note in run.notes[self._told :]:
            self._tell("note", text=note)
        self._told = len(run.notes)

    def _enter(self, phase: str) -> None:
        if phase != self._phase:
            self._tell("phase", name=phase)
        self._phase = phase


@dataclasses.dataclass(frozen=True)
class _Shown:
    """Where and how displacements are written for display."""

    folder: Path
    grid: Grid
    type: str

    @classmethod
    def of(cls, display: Fields, fixed: Grid) -> _Shown:
        try:
            folder, longest = Path(display["folder"]), int(display.get("longest", 96))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("The display needs a folder, and a whole number for its longest side.") from error
        kind = display.get("type", TYPES[0])
        if kind not in TYPES or longest < 2:
            raise InputError(f"The display's type is one of {', '.join(TYPES)}, its longest side 2 voxels or more.")
        return cls(folder, coarsened(fixed, longest), kind)

    def write(self, index: int, transform: Transform) -> Answer:
        """Write the displacement after a step; a new name each time, because the receiver may still read the last."""
        path = self.folder.absolute() / f"step-{index:04d}-{uuid.uuid4().hex[:8]}.npy"
        with complete(path) as temporary, temporary.open("wb") as file:
            np.save(file, vectors(transform.displacement_on(self.grid)).astype(self.type, order="C"))
        placed = {name: list(getattr(self.grid, name)) for name in ("size", "spacing", "origin", "direction")}
        return {"path": str(path), **placed}


def _read(fixed: str, moving: str, fixed_mask: str | None, moving_mask: str | None) -> dict[str, Input]:
    named = {"fixed": fixed, "moving": moving, "fixed_mask": fixed_mask, "moving_mask": moving_mask}
    return {name: Input.read(path) for name, path in named.items() if path is not None}


_PAIR = ("fixed", "moving")


def _guide(fields: Fields, fixed: Grid, moving: Grid) -> tuple[Guide, list[str]]:
    """The guide of a request, and what is to be said about it."""
    fields = dict(fields)
    rows, labels, rigid = (fields.pop(name, None) for name in ("landmarks", "labels", "rigid_labels"))
    error = fields.pop("landmark_error", LOCALISATION)
    known = {field.name for field in dataclasses.fields(GuideFiles)}
    if unknown := set(fields) - known:
        raise InputError(f"A guide has no '{unknown.pop()}'; it has landmarks, {', '.join(sorted(known))}.")
    guide, notes = GuideFiles(**fields).read(fixed, moving, error=error, labels=labels, rigid_labels=rigid)
    return (dataclasses.replace(guide, landmarks=landmarks_from(rows)) if rows else guide), notes


def _devices() -> Iterator[dict[str, Any]]:
    cpu = memory.available(torch.device("cpu"))
    yield {"name": "cpu", "title": platform.processor() or platform.machine(), "free": cpu, "total": None}
    for n in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(n)
        yield {"name": f"cuda:{n}", "title": torch.cuda.get_device_name(n), "free": free, "total": total}


COMMANDS: dict[str, Callable[..., Answer]] = {
    "hello": Session.hello,
    "methods": Session.methods,
    "memory": Session.memory,
    "register": Session.register,
    "continue": Session.go_on,
    "refine": Session.refine,
    "guide": Session.guide,
    "correct": Session.correct,
    "map": Session.where,
    "accept": Session.accept,
    "result": Session.result,
    "uncertainty": Session.uncertainty,
    "forget": Session.forget,
}
