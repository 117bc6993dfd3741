"""A registration under way: prepare, align, deform, refine; a `Run` yields steps and has a valid result after each.

The moving image is pulled onto the working grid (a box of the fixed image) through the linear alignment; the methods
then deform it there. A step's transform is its deformation, then its linear map, from fixed to moving points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.methods.refine import Refine
from RecurrentRegistrationLib.pipeline.conclusion import UNFOLDING, folded_voxels, kept, unfolded
from RecurrentRegistrationLib.pipeline.conflicts import conflicts
from RecurrentRegistrationLib.pipeline.correction import corrected
from RecurrentRegistrationLib.pipeline.guide import Guide
from RecurrentRegistrationLib.pipeline.guided_start import Anchors
from RecurrentRegistrationLib.pipeline.leg import Leg, handed_over, taken_up
from RecurrentRegistrationLib.pipeline.linear import align
from RecurrentRegistrationLib.pipeline.memory import guarded
from RecurrentRegistrationLib.pipeline.poses import named_start
from RecurrentRegistrationLib.pipeline.progress import Progress
from RecurrentRegistrationLib.pipeline.search import create_search, judged_start, search_grid
from RecurrentRegistrationLib.pipeline.stopping import better, exhausted
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.transform import DisplacementField

GUIDED = 60  # steps of refinement through which a guide enters after a method that takes none

NOTHING = 0.1  # voxels: of a deformation that moves nothing further nothing is earned


class Run(Progress):
    """One registration under way: iterate over it for its steps. Arguments and attributes as `Progress`."""

    def __iter__(self) -> Iterator[Step]:
        """Prepare, align, deform and refine, yielding every finished step."""
        yield from guarded(self._whole())

    def extend(self, count: int) -> Iterator[Step]:
        """Go on from the last step for `count` more. Raises InputError where it left nothing to go on from."""
        if self.last is None or self.last.state is None:
            raise InputError("There is no step to continue from: run the method first.")
        yield from guarded(self._concluded(self._follow(self.last.state, count)))

    def refine(self, count: int) -> Iterator[Step]:
        """Improve the result so far by `count` iterations of instance optimisation.

        Where that would choose a finer grid than the method's by itself, it goes on to it, from coarse to fine.
        """
        if self._chosen is None:
            raise InputError("There is no step to refine: run the method first.")
        yield from guarded(self._concluded(self._refine(count)))

    def correct(self) -> Iterator[Step]:
        """Do at once what the guide asks for, around where it asks; what is far away stays exactly as it was.

        It makes no step where the last one is already as the guide asks.
        """
        if self._chosen is None:
            raise InputError("There is no step to correct: run the method first.")
        if self._steering.guide is None:
            raise InputError("There is nothing to correct by: give landmarks, labels or regions first.")
        yield from guarded(self._concluded(self._correct(self._steering.guide)))

    # ---- the phases

    def _whole(self) -> Iterator[Step]:
        yield from self._align()
        yield from self._concluded(self._deform())

    def _deform(self) -> Iterator[Step]:
        plan = self.plan
        if plan.options.deforms:
            searching = isinstance(plan.method, Refine) and plan.options.automatic
            if searching:
                yield from self._search()
            leg = Leg(plan.method, plan.grid, self._linear, "deform", plan.trained_steps)
            if searching:
                steps = self._follow(leg, plan.steps, handed_over(self._chosen, leg, plan.grid.pitch))
                # What labels ask for the images need not show.
                yield from steps if self._steering.labelled else self._earning(steps, leg)
            else:
                yield from self._follow(leg, plan.steps)
        unguided = self._steering.guide is not None and plan.options.deforms and not plan.card.guided
        if unguided:
            self.notes.append(f"{plan.card.title} takes no guide: it enters in the refinement that follows.")
        if count := plan.options.refine or (GUIDED if unguided else 0):
            yield from self._refine(count)

    def _concluded(self, steps: Iterator[Step]) -> Iterator[Step]:
        yield from steps
        yield from self._unfold()
        if self._steering.guide is not None and self._chosen is not None:
            told = conflicts(self._steering.guide, self._chosen)
            self.notes += [sentence for sentence in told if sentence not in self.notes]
        self.phase = "done"

    @torch.no_grad()
    def _align(self) -> Iterator[Step]:
        self._compare()
        fixed, moving = self._images.prepared(self.plan.settings, self.plan.device)
        options, linear = self.plan.options, self._linear
        if self.plan.start is None:
            linear = named_start(fixed, moving, "none" if options.initial == "auto" else str(options.initial))
        if options.linear == "none":
            self._linear = linear
            return
        self.phase, search = "align", options.initial == "auto"
        if search and (anchors := Anchors.of(self._steering.guide)) is not None:
            linear, search = anchors.start(), not anchors.tell_the_posture
            self.notes.append("The landmarks and labels of the guide are where the linear stage starts from.")
        self._header = linear
        maps = align(fixed, moving, kind=options.linear, search=search, start=linear)
        for found in self._clock.each("align", maps):
            if found.note:
                self.notes.append(found.note)
            if found.agreement is not None:
                self._judge_contrast(found.agreement)
                continue
            self._linear = found.matrix
            yield self._made(found.stage, None, found.matrix)

    @torch.no_grad()
    def _follow(self, leg: Leg, count: int | None, initial: Tensor | None = None) -> Iterator[Step]:
        """The steps of a method, until it ends or the stop rule ends it."""
        self.phase = leg.phase
        leg.method.eval()
        with self._clock.running("prepare"):
            turns = leg.turns(*self._pair(leg), count, initial, self._steering)
        trail = [self.before if self.last is None else self.last.similarity]
        best: Step | None = None
        for turn in self._clock.each(leg.phase, turns):
            leg = dataclasses.replace(leg, made=leg.made + 1, state=turn.state)
            kept: dict[str, Any] = {"state": leg, "attached": turn.attached, "beyond_training": leg.beyond_training}
            step = self._made(turn.stage, *leg.placed(turn), **kept)
            # Similarity does not tell what labels have taught: up to its trained steps a network is believed.
            best = step if not leg.beyond_training or better(step, best) else best
            self._chosen = best
            yield step
            trail.append(step.similarity)
            if self.plan.options.stop == "auto" and exhausted(trail):
                self.notes.append(f"Stopped after step {step.index}: the last steps brought next to nothing.")
                return

    def _refine(self, count: int) -> Iterator[Step]:
        assert self._chosen is not None
        leg = Leg(self.plan.create_refinement(), self.plan.refined_grid, self._chosen.linear, "refine")
        yield from self._follow(leg, count, handed_over(self._chosen, leg, self.plan.grid.pitch))

    @torch.no_grad()
    def _correct(self, guide: Guide) -> Iterator[Step]:
        assert self._chosen is not None
        self.phase, base = "correct", self._chosen
        grid = base.field.grid if base.field.grid.pitch < 1.01 * self.plan.grid.pitch else self.plan.grid
        refiner = self.plan.create_refinement()
        with self._clock.running("correct"):
            images = self._images.prepared(self.plan.settings, self.plan.device)
            field = corrected(base.field, grid, images, base.linear, guide, refiner)
        if field is None:
            self.notes.append("There is nothing to correct: the result is as the guide asks.")
        else:
            yield self._made("correct", field, base.linear, state=taken_up(field, base, refiner))

    @torch.no_grad()
    def _search(self) -> Iterator[Step]:
        """Search for what moves too far for a refinement, where a first look finds any."""
        assert self._recorder.comparison is not None
        starts = (self._linear,) if self.plan.options.linear != "auto" else (self._header, self._linear)
        with self._clock.running("search"):
            images = self._images.prepared(self.plan.settings, self.plan.device)
            start, motion = judged_start(images, starts, self.plan.grid, self._recorder.comparison)
        self.notes.append(motion.note)
        if not motion.wants_search:
            return
        if start is not self._linear:
            self._linear, self.phase = start, "search"
            self.notes.append("The search starts from the header's position, from where it finds as much.")
            yield self._made("linear: none", None, start)
        yield from self._follow(Leg(create_search(), search_grid(self.plan.grid), start, "search"), None)

    @torch.no_grad()
    def _unfold(self) -> Iterator[Step]:
        """Smooth foldings away where there are any, a round a step."""
        step = self._chosen
        for number, least in enumerate(UNFOLDING, start=1):
            if step is None or not folded_voxels(step):
                return
            self.phase = "conclude"
            stage, field = f"unfold {number}/{len(UNFOLDING)}", unfolded(step.field, least)
            field = self._steering.settled(field, step.linear)
            step = self._made(stage, field, step.linear, state=step.state)
            yield step
        if step is not None and (left := folded_voxels(step)):
            self.notes.append(f"{left} voxels remain folded: more smoothing would undo what was found.")

    def _earning(self, steps: Iterator[Step], leg: Leg) -> Iterator[Step]:
        """The steps of a deformation, and what of it is earned; coarse ones that earn nothing are not made finer."""
        coarse = True
        for step in steps:
            yield step
            if coarse and step.stage.startswith("full"):
                coarse, field = False, self._earned(leg)
                if field is not None and field.values.abs().max() < NOTHING:
                    break
        else:
            field = self._earned(leg)
        if field is not None:
            yield self._kept(field)
            self.notes.append("Where the deformation explained nothing of the images, the linear result was kept.")

    @torch.no_grad()
    def _earned(self, leg: Leg) -> DisplacementField | None:
        """What of the deformation so far explains the images; None for all of it."""
        assert self._chosen is not None
        with self._clock.running("conclude"):
            return kept(self._chosen.field, *self._pair(leg))

    @torch.no_grad()
    def _kept(self, field: DisplacementField) -> Step:
        """Take back what a training-free deformation did without reason, as a step of its own."""
        assert self._chosen is not None
        self.phase = "conclude"
        field = self._steering.settled(field, self._chosen.linear)
        return self._made("keep what is earned", field, self._chosen.linear, state=self._chosen.state)
