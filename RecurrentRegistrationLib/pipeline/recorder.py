"""Measures every step of a run in the same way, and remembers what was measured."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.pipeline.agreement import Agreement
from RecurrentRegistrationLib.pipeline.comparison import Comparison, mean_distance
from RecurrentRegistrationLib.pipeline.guide import Guide
from RecurrentRegistrationLib.pipeline.stopping import better
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.transform import DisplacementField
from RecurrentRegistrationLib.volume import Grid

Landmarks = tuple[np.ndarray, np.ndarray]


class Recorder:
    """The steps of one run.

    Args:
        domain: the fixed image's grid.
        landmarks: paired physical points `[N, d]` of the fixed and of the moving image, to measure by.

    Attributes:
        before: similarity of the images as their headers place them; NaN until `measure_by`.
        steps: records of the steps made so far.
        last: the last step.
        best: the step of the highest similarity.
        comparison: what measures; None until `measure_by`.
    """

    def __init__(self, domain: Grid, landmarks: Landmarks | None) -> None:
        self._domain, self._landmarks = domain, landmarks
        self._agreement: Agreement | None = None
        self.before = float("nan")
        self.steps: list[dict[str, Any]] = []
        self.last: Step | None = None
        self.best: Step | None = None
        self._linear_steps: list[Step] = []
        self.comparison: Comparison | None = None
        self._mapped: np.ndarray | None = None

    def measure_by(self, comparison: Comparison) -> None:
        """Measure by this from here on; the linear steps so far are measured again."""
        self.comparison = comparison
        header = comparison.mapped(None, np.eye(self._domain.dimension + 1))
        self.before, self._mapped = comparison.at(header), header
        again, self.steps, self.best, self.last = self._linear_steps, [], None, None
        self._linear_steps = []
        for step in again:
            mapped = comparison.mapped(None, step.linear)
            self._keep(dataclasses.replace(step, similarity=comparison.at(mapped)), mapped)

    def agree_with(self, guide: Guide | None) -> None:
        """Tell of the steps from here on how well they agree with a guide."""
        self._agreement = None if guide is None else Agreement(guide)

    def guided(self, step: Step) -> dict[str, Any]:
        """What a report says of a step and the guide; nothing where there is none."""
        if self._agreement is None:
            return {}
        before = Step(
            0, "start", "", _still(self._domain), np.eye(self._domain.dimension + 1), self._domain, self.before
        )
        records = [record for record in self.steps if record["index"] <= step.index]
        return {"guide": self._agreement.report(before, records, step)}

    def made(
        self,
        phase: str,
        stage: str,
        field: DisplacementField | None,
        linear: np.ndarray,
        *,
        seconds: float,
        state: Any = None,
        attached: Any = None,
        beyond_training: bool = False,
    ) -> Step:
        """A step, measured; `field` is None where there is no deformation."""
        assert self.comparison is not None
        assert self._mapped is not None
        mapped = self.comparison.mapped(field, linear)
        step = Step(
            index=1 + (0 if self.last is None else self.last.index),
            phase=phase,
            stage=stage,
            field=_still(self._domain) if field is None else field,
            linear=linear,
            domain=self._domain,
            similarity=self.comparison.at(mapped),
            folding=0.0 if field is None else 100 * spatial.folding_fraction(field.values),
            mean_update=mean_distance(mapped, self._mapped),
            seconds=seconds,
            state=state,
            attached=attached or {},
        )
        if self._landmarks is not None:
            error = mean_distance(step.transform.map_points(self._landmarks[0]), self._landmarks[1])
            step = dataclasses.replace(step, landmark_error=error)
        if self._agreement is not None:
            errors, overlap = self._agreement.of(step)
            step = dataclasses.replace(step, landmarks=errors, overlap=overlap)
            if errors and self._landmarks is None:
                step = dataclasses.replace(step, landmark_error=sum(errors.values()) / len(errors))
        return self._keep(step, mapped, worse=beyond_training and not better(step, self.best))

    def go_back(self, step: Step | None) -> None:
        """Make an earlier step the last one; None for the beginning."""
        self.last = self.best = step
        self.steps = [record for record in self.steps if step is not None and record["index"] <= step.index]
        self._linear_steps = [s for s in self._linear_steps if step is not None and s.index <= step.index]
        if step is not None and self.comparison is not None:
            self._mapped = self.comparison.mapped(step.field, step.linear)

    def _keep(self, step: Step, mapped: np.ndarray, worse: bool = False) -> Step:
        if better(step, self.best):
            self.best = step
        if step.phase == "align":
            self._linear_steps.append(step)
        self.steps.append({**step.record(), **({"beyond_training": True} if worse else {})})
        self.last, self._mapped = step, mapped
        return step


def _still(domain: Grid) -> DisplacementField:
    """A field that moves nothing, in as few numbers as it takes."""
    return DisplacementField.zero(domain.through([min(n, 2) for n in domain.shape]))
