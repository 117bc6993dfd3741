"""The module's Python API: register volumes, watch the steps, stop, continue, accept, revert. It needs no GUI.

    from RecurrentRegistration import RecurrentRegistrationLogic
    logic = RecurrentRegistrationLogic()
    result = logic.registerVolumes(fixedVolumeNode, movingVolumeNode)
    print(result.report["folding"], result.transformNode.GetName())

Everything happens in the main thread. `pump` takes what the worker has told; a timer calls it, or a wait does.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from typing import Any

from RecurrentRegistrationSlicer import checks, display, inputs, sampling, series, volumes
from RecurrentRegistrationSlicer.errors import FAILURES, RegistrationError, sentence
from RecurrentRegistrationSlicer.found import Kept, Written
from RecurrentRegistrationSlicer.frame import Frame, toWorld
from RecurrentRegistrationSlicer.rendering import paused
from RecurrentRegistrationSlicer.requests import STOPPED, Event
from RecurrentRegistrationSlicer.runs import Outputs, Result, Run, Settings, divided
from RecurrentRegistrationSlicer.series import SequenceResult
from RecurrentRegistrationSlicer.steering import Steering

__all__ = ["Outputs", "RegistrationError", "RegistrationLogic", "Result", "Run", "SequenceResult", "Settings"]


class RegistrationLogic(Steering):
    """One registration at a time, by a worker process: what a user can do. The bases hold how it is done."""

    def registerVolumes(
        self, fixedVolumeNode: Any, movingVolumeNode: Any, *, wait: bool = True, **settings: Any
    ) -> Result | Run:
        """Bring a moving volume onto a fixed one.

        Args:
            fixedVolumeNode: scalar volume that stays.
            movingVolumeNode: scalar volume that is deformed.
            wait: accept the last step when there are no more, and return its `Result`; otherwise return the `Run` at
                once: `listeners` are told of its steps.
            settings: fields of `Settings`, and with `wait` also of `Outputs`.

        Raises:
            RegistrationError: the inputs cannot be registered, or (with `wait`) the registration failed.
        """
        chosen, outputs = divided(settings)
        text = checks.problem(fixedVolumeNode, movingVolumeNode, **chosen)
        if text is not None:
            raise RegistrationError(text)
        run = self._begin(fixedVolumeNode, movingVolumeNode, Settings(**chosen))
        if not wait:
            return run
        try:
            self.wait()
            if run.state == "done":
                self.acceptStep(**outputs)
                self.wait()
        finally:
            if run.result is None and run.state != "cancelled":  # then it is gone, and another one may be the current
                self._takeBack(run)
        if run.result is None:
            raise RegistrationError(run.error or STOPPED)
        return run.result

    def registerPairs(self, pairs: Iterable[tuple[Any, Any]], **settings: Any) -> list[Result | RegistrationError]:
        """Register pairs of fixed and moving volumes one after the other; for each its result, or what went wrong."""
        found: list[Result | RegistrationError] = []
        for fixedNode, movingNode in pairs:
            try:
                found.append(self.registerVolumes(fixedNode, movingNode, **settings))
            except FAILURES as error:
                found.append(error if isinstance(error, RegistrationError) else RegistrationError(sentence(error)))
        return found

    def registerSequence(self, sequenceNode: Any, fixedFrame: int = 0, **settings: Any) -> SequenceResult:
        """Bring every frame of a sequence of volumes onto one of them, and wait; listeners hear of each "frame".

        Args:
            sequenceNode: of scalar volumes.
            fixedFrame: number of the frame that stays, from 0.
            settings: fields of `Settings`, apart from the nodes.

        Raises:
            RegistrationError: it is no such sequence, or a frame could not be registered.
        """
        chosen = Settings(**settings)
        if chosen.nodes():
            raise RegistrationError("Masks, landmarks and transforms are for pairs: leave them out for a sequence.")
        series.frames(sequenceNode, fixedFrame)
        self._makeRoom()
        self._stopped = False
        return series.register(sequenceNode, fixedFrame, chosen.options(), self._newFolder(), self._ask, self._tell)

    def estimate(self, fixedVolumeNode: Any, movingVolumeNode: Any, **settings: Any) -> None:
        """Ask what a run would take: the event "estimate" tells bytes, steps and notes, "problem" why it cannot be."""
        chosen, _ = divided(settings)
        text = checks.problem(fixedVolumeNode, movingVolumeNode, **chosen)
        if text is not None:
            self._tell("problem", text=text)
            return
        frame, folder = Frame.of(fixedVolumeNode, movingVolumeNode), self._newFolder()
        files = inputs.written(fixedVolumeNode, movingVolumeNode, Settings(**chosen), frame, folder)

        def take(event: Event) -> None:
            if event["event"] == "done":
                self._tell("estimate", bytes=event["bytes"], steps=event["steps"], notes=event["notes"])
            elif event["event"] in ("error", "ended"):
                self._tell("problem", text=event["text"])
            elif event["event"] == "cancelled":
                self._tell("problem", text="The estimate was interrupted: ask for it again.")
            if event["event"] in ("done", "error", "cancelled", "ended"):
                shutil.rmtree(folder, ignore_errors=True)

        self._request(take, "memory", **files)

    def stop(self) -> None:
        """Make no more steps, and register no more frames; what is finished stays."""
        self._stopped = True
        if self.busy:
            self._worker.cancel()

    def cancel(self) -> None:
        """Take back what is under way: a new run goes altogether; of an earlier one, everything that it had stays."""
        if self.run is not None and self._isAsked(self.run, "register"):
            self.revert()
        else:
            self.stop()

    def acceptStep(self, index: int | None = None, **outputs: Any) -> None:
        """Turn a step into nodes; the event "result" comes when they are there.

        When the worker no longer holds the run (it crashed, or the scene was opened again), the step in the scene is
        taken, which is coarser.

        Args:
            index: a kept step; None for the last one.
            outputs: fields of `Outputs`.

        Raises:
            RegistrationError: there is no run or no step, or the moving volume was changed since.
        """
        checks.checkStep(index)
        wanted = Outputs(**outputs)
        self._hear()
        run = self.run
        if run is not None:
            checks.checkUnchanged(run)
            checks.checkBackground(run, wanted.background)
            run.error = ""
        if run is not None and run.canAccept and not run.canContinue and not self.busy:
            if wanted.interpolation not in sampling.INTERPOLATORS:
                raise RegistrationError(f"There is no interpolation '{wanted.interpolation}'.")
            run.steps.select(run.keptSteps[-1] if index is None else index)
            self._load(run, Kept(run), wanted)
            return
        run = self._continuable()
        checks.checkFixed(run)
        folder = run.folder / "result"
        options = {"interpolation": wanted.interpolation, "background": wanted.background, "inverse": wanted.inverse}
        step = None if index is None or index >= run.made else index

        def take(event: Event) -> None:
            if event["event"] == "done":
                self._load(run, Written(run, folder, event["report"]), wanted)
                shutil.rmtree(folder, ignore_errors=True)
            elif event["event"] in ("error", "cancelled"):  # the steps are as good as before
                self._onUnwritten(run, event)
            else:
                self._onRunEvent(run, event)

        self._request(take, "result", run, folder=str(folder), step=step, **options)
        run.phase = "write"  # the worker tells of a phase only where it was in another one

    @paused()
    def _begin(self, fixedNode: Any, movingNode: Any, settings: Settings) -> Run:
        self._checkIdle()
        self.startWorker()  # first: where it cannot be started, nothing is touched
        frame, folder = Frame.of(fixedNode, movingNode), self._newFolder()
        files = inputs.written(fixedNode, movingNode, settings, frame, folder)
        self._makeRoom()
        with self._observer.paused():
            run = Run.create(fixedNode, movingNode, settings, frame, folder)
        self._known[run.node.GetID()] = self._held = run
        run.keep("basis", frame.into(toWorld(movingNode)).tolist())
        run.keep("moving", volumes.fingerprint(movingNode))
        run.keep("fixed", volumes.place(fixedNode))
        run.keep("longest", settings.stepsLongest)
        run.keep("views", display.views())
        self.run, self.followSteps, run.state = run, True, "starting"
        self._began = time.monotonic()
        if self.arrangeViews:
            display.arrange(run)
        self._request(lambda event: self._onRunEvent(run, event), "register", run, display=self._displays(run), **files)
        return run
