"""How far a registration is: its plan, its steps, the guide it follows, and its result so far."""

from __future__ import annotations

from typing import Any

import numpy as np

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.pipeline.clock import Clock
from RecurrentRegistrationLib.pipeline.comparison import Comparison
from RecurrentRegistrationLib.pipeline.guide import Guide
from RecurrentRegistrationLib.pipeline.guide_checks import check_guide
from RecurrentRegistrationLib.pipeline.guide_on_grid import Steering
from RecurrentRegistrationLib.pipeline.images import Images
from RecurrentRegistrationLib.pipeline.leg import Leg
from RecurrentRegistrationLib.pipeline.options import Options
from RecurrentRegistrationLib.pipeline.plan import make_plan, replanned
from RecurrentRegistrationLib.pipeline.preparation import Prepared
from RecurrentRegistrationLib.pipeline.recorder import Landmarks, Recorder
from RecurrentRegistrationLib.pipeline.registration import Registration
from RecurrentRegistrationLib.pipeline.report import report
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.transform import DisplacementField


class Progress:
    """How far a registration is, and what was found so far.

    Args:
        images: what is registered.
        options: what was asked for.
        landmarks: paired physical points `[N, d]` of the fixed and of the moving image, to measure by.
        guide: what the user knows of the pair.

    Attributes:
        plan: what was decided; a new one where the contrasts turn out to differ.
        phase: "prepare", "align", "search", "deform", "refine", "correct", "conclude" or "done".
        notes: plain sentences about what was chosen and why.
    """

    def __init__(
        self, images: Images, options: Options, landmarks: Landmarks | None = None, guide: Guide | None = None
    ) -> None:
        self._images = images
        if guide:
            check_guide(guide, images)
        self.plan = make_plan(images, options)
        self.notes = list(self.plan.notes)
        self.phase = "prepare"
        self._clock, self._recorder, self._steering = Clock(), Recorder(images.fixed.grid, landmarks), Steering()
        self._linear = self._header = np.eye(images.dimension + 1) if self.plan.start is None else self.plan.start
        self._chosen: Step | None = None
        self._held: tuple[Any, tuple[Prepared, Prepared]] | None = None
        self._take(guide)

    @property
    def before(self) -> float:
        """Similarity of the images as their headers place them; NaN until they are prepared."""
        return self._recorder.before

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Records of the steps made so far."""
        return self._recorder.steps

    @property
    def last(self) -> Step | None:
        """The last step."""
        return self._recorder.last

    @property
    def best(self) -> Step | None:
        """The step of the highest similarity."""
        return self._recorder.best

    def guide(self, guide: Guide | None) -> None:
        """Take a new guide, or none, from the next step on. Raises InputError for a wrong one."""
        if guide:
            check_guide(guide, self._images, None if self.last is None else self.last.linear)
        self._take(guide)

    def agreement(self) -> dict[str, Any]:
        """How well the last step agrees with the guide: "landmarks" and "labels" one by one; empty without either."""
        return {} if self.last is None else self._recorder.guided(self.last).get("guide", {})

    def go_back(self, step: Step | None) -> None:
        """Make an earlier step the last one, or None: `extend` and `refine` go on from it, `result` tells of it."""
        self._recorder.go_back(step)
        self._chosen = step

    def result(self, step: Step | None = None) -> Registration:
        """The registration as it stood after a step; None for the last one, of a network beyond its training the best.

        Raises:
            InputError: no step has been finished yet.
        """
        step = step or self._chosen
        if step is None:
            raise InputError("No step has been finished yet, so there is no result.")
        told = report(self.plan, self._recorder, self._clock, step, self.notes)
        return Registration(step.transform, step.domain, self._images.moving, told["steps"], told)

    # ---- for the phases

    def _made(self, stage: str, field: DisplacementField | None, linear: np.ndarray, **kept: Any) -> Step:
        seconds = self._clock.seconds.get(self.phase, 0.0)
        self._chosen = self._recorder.made(self.phase, stage, field, linear, seconds=seconds, **kept)
        return self._chosen

    def _pair(self, leg: Leg) -> tuple[Prepared, Prepared]:
        """Both images on a leg's grid; those of the last one are held, for whoever goes on with it."""
        key = leg.grid, leg.linear.tobytes(), leg.method.card.intensities, self.plan.preset
        if self._held is None or self._held[0] != key:
            self._held = key, leg.pair(*self._images.prepared(self.plan.settings, self.plan.device))
        return self._held[1]

    def _take(self, guide: Guide | None) -> None:
        self._steering.guide = guide or None
        self._recorder.agree_with(guide or None)

    def _compare(self) -> None:
        """Begin to measure, or begin anew where the plan has changed."""
        with self._clock.running("prepare"):
            images = self._images.prepared(self.plan.settings, self.plan.device)
            self._recorder.measure_by(Comparison(*images, self.plan.settings.measure))

    def _judge_contrast(self, agreement: float) -> None:
        """Plan for unlike contrasts where they turn out to differ and nothing else was asked for."""
        if plan := replanned(self._images, self.plan, agreement):
            self.plan = plan
            self.notes += [note for note in plan.notes if note not in self.notes]
            self._compare()
