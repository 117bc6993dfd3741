"""What goes on from a step: more steps of the method, a refinement, a guide and what it corrects."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

from RecurrentRegistrationSlicer import checks, guiding
from RecurrentRegistrationSlicer.errors import RegistrationError
from RecurrentRegistrationSlicer.keeping import Keeping
from RecurrentRegistrationSlicer.requests import Event
from RecurrentRegistrationSlicer.runs import Run


class Steering(Keeping):
    """Goes on with the current run, as long as the worker holds it."""

    def continueRun(self, count: int, step: int | None = None) -> None:
        """Make more steps of the method, from the last step or from an earlier one, whose successors are dropped.

        Raises:
            RegistrationError: the worker no longer holds the run.
        """
        self._goOn("continue", count, step)

    def refineRun(self, count: int, step: int | None = None) -> None:
        """Improve the last step, or an earlier one, by instance optimisation.

        Raises:
            RegistrationError: the worker no longer holds the run.
        """
        self._goOn("refine", count, step)

    def guideRun(self, **guide: Any) -> None:
        """Say what you know of the pair: steps from here on follow it. The event "guided" tells the `agreement` now.

        Args:
            guide: fields of `guiding.Guide`; without any, nothing guides any more.

        Raises:
            RegistrationError: the worker no longer holds the run, or the guide cannot be meant.
        """
        self._guide(guide, lambda run: None)

    def correctRun(self, **guide: Any) -> None:
        """Do at once, in one step, what a guide asks for, around where it asks; what is far away stays as it was.

        Args:
            guide: as for `guideRun`; without any field, the one there is.

        Raises:
            RegistrationError: likewise.
        """
        if guide:
            self._guide(guide, self._correct)
        else:
            self._correct(self._continuable())

    def _goOn(self, command: str, count: int, step: int | None) -> None:
        run = self._continuable()
        run.error = ""
        if count < 1:
            raise RegistrationError("The number of steps must be 1 or more.")
        checks.checkStep(step)
        if step is not None and step < run.made:
            if step not in run.keptSteps:
                raise RegistrationError(f"Step {step} was not kept: choose one of those that can be shown.")
            self._request(lambda event: self._onRunEvent(run, event), "accept", run, step=step)
            run.steps.forgetAfter(step)
            run.progress.forgetAfter(step)
        run.state, self.followSteps = "running", True
        self._began = time.monotonic() - run.elapsed
        take = lambda event: self._onRunEvent(run, event)  # noqa: E731
        self._request(take, command, run, count=count, display=self._displays(run))
        run.phase = "refine" if command == "refine" else "deform"  # told by the worker only where it was in another one

    def _guide(self, guide: dict[str, Any], then: Callable[[Run], None]) -> None:
        run = self._continuable()
        run.error = ""
        folder = self._newFolder()
        told = guiding.fields(guiding.Guide.of(guide), run.frame, folder) if guide else None

        def take(event: Event) -> None:
            kind = event["event"]
            if kind in ("done", "error", "cancelled", "ended"):
                shutil.rmtree(folder, ignore_errors=True)
            if kind == "done":
                self._tell("guided", run=run, agreement=event["agreement"])
                then(run)
            elif kind in ("error", "cancelled"):  # the guide before it stays, and so do the steps
                self._onUnwritten(run, event)
            else:
                self._onRunEvent(run, event)

        self._request(take, "guide", run, guide=told)

    def _correct(self, run: Run) -> None:
        run.state, run.error, self.followSteps = "running", "", True
        self._began = time.monotonic() - run.elapsed
        self._request(lambda event: self._onRunEvent(run, event), "correct", run, display=self._displays(run))
        run.phase = "correct"

    def _continuable(self) -> Run:
        if self.run is None:
            raise RegistrationError("There is no registration to work on: register first.")
        self._checkIdle()
        if not self.run.canContinue:
            raise RegistrationError("The worker no longer holds this registration: register again.")
        return self.run
