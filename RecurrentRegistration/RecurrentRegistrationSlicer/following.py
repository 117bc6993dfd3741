"""The steps of a run in the scene while they are made, and which of them is shown."""

from __future__ import annotations

from typing import Any

import numpy as np

from RecurrentRegistrationSlicer import display, results
from RecurrentRegistrationSlicer.checks import checkUnchanged
from RecurrentRegistrationSlicer.frame import parentTransform
from RecurrentRegistrationSlicer.process import WorkerProcess
from RecurrentRegistrationSlicer.rendering import paused
from RecurrentRegistrationSlicer.requests import Event, Requests
from RecurrentRegistrationSlicer.runs import Run
from RecurrentRegistrationSlicer.sceneobserver import SceneObserver
from RecurrentRegistrationSlicer.steps import Steps
from RecurrentRegistrationSlicer.transforms import setReferences


class Following(Requests):
    """Takes the steps of the current run into the scene.

    Attributes:
        arrangeViews: whether the slice views show a run as soon as it begins.
        followSteps: whether the newest step is shown while a run lasts; choosing another one ends that.
    """

    def __init__(self, worker: WorkerProcess | None = None) -> None:
        super().__init__(worker)
        self.arrangeViews = True
        self.followSteps = True
        self._observer = SceneObserver(self._onSceneChanged, self._onSceneClosing)

    @paused()
    def selectStep(self, index: int) -> None:
        """Show a kept step (or the one kept before it) of the current run; the accepted one is shown as its result."""
        if self.run is not None and self.run.steps is not None:
            newest = self.run.keptSteps[-1]
            self.followSteps = index >= newest
            self._select(self.run, index)

    @paused()
    def showWarped(self, on: bool) -> None:
        """Show the moving volume deformed by the selected step, or as it came.

        Raises:
            RegistrationError: it has been changed since it was registered.
        """
        run = self.run
        if run is None or run.movingNode is None or run.stepTransformNode is None:
            return
        if on and not display.isWarped(run):
            checkUnchanged(run)
        shown = self._warping(run) if on else parentTransform(run.movingNode)
        run.movingNode.SetAndObserveTransformNodeID(shown.GetID() if shown is not None else None)

    def _onRunEvent(self, run: Run, event: Event) -> None:
        """One event of a run, in the scene and to the listeners."""
        kind = event["event"]
        extra = {name: value for name, value in event.items() if name not in ("id", "event", "command", "heard")}
        if kind != "step":
            self._showNewest()
        if kind == "phase":
            run.phase = event["name"]
            run.state = run.state if run.phase == "write" else "running"
        elif kind == "note":
            run.keep("notes", [*run.notes, event["text"]])
        elif kind == "step":
            self._addStep(run, event)
            extra["shown"] = event["display"] is not None
        elif kind in ("done", "cancelled"):
            if event["command"] == "accept":
                return
            run.state, run.error = "done" if kind == "done" else "stopped", ""
            run.stoppedIn = run.phase if kind == "cancelled" else ""
            run.phase, run.canContinue = "", run.made > 0
        elif kind in ("error", "ended"):
            run.state, run.phase, run.error = "failed", "", event["text"]
            run.canContinue = kind == "error" and self._held is run and run.made > 0
            kind = "error"
        self._tell(kind, run=run, **extra)

    def _onUnwritten(self, run: Run, event: Event) -> None:
        """A result was not written; the steps are what they were."""
        run.phase, run.error = "", event.get("text", "")
        extra = {name: event[name] for name in ("kind", "text") if name in event}
        self._tell(event["event"], run=run, **extra)

    def _addStep(self, run: Run, event: Event) -> None:
        run.planned, run.best = event["planned"], event.get("best")
        record = {
            name: event[name] for name in ("index", "stage", "similarity", "mean_update_mm", "folding", "seconds")
        }
        guided = ("landmark_error_mm", "landmark_worst_mm", "label_overlap")
        record |= {name: event[name] for name in guided if name in event}
        run.progress.add(record)
        run.canContinue = True
        if event["display"] is None:
            return
        with self._observer.paused():
            steps = run.steps
            if steps is None:  # the first step, or somebody has removed them
                for role in ("browser", "sequence", "stepTransform"):
                    results.removeNode(run.referred(role))
                steps = Steps.create(run.node.GetName())
                run.refer("sequence", steps.sequenceNode)
                run.refer("browser", steps.browserNode)
            steps.add(event["index"], event["display"], run.frame, np.array(run.kept("basis")))
            if run.referred("stepTransform") is None:
                self._place(run, steps)
                run.movingNode.SetAndObserveTransformNodeID(run.stepTransformNode.GetID())
        self._newest = event["index"]

    def _place(self, run: Run, steps: Steps) -> None:
        """Put what shows the selected step between the moving volume and its own parent."""
        node = steps.transformNode
        parent = parentTransform(run.movingNode)
        node.SetAndObserveTransformNodeID(parent.GetID() if parent is not None else None)
        setReferences(node, run.fixedNode, run.movingNode)
        run.refer("stepTransform", node)

    def _select(self, run: Run, index: int) -> None:
        run.steps.select(index)
        run.progress.mark(run.selectedStep)
        if display.isWarped(run):
            self.showWarped(True)

    def _showNewest(self) -> None:
        """Show what the last steps have changed."""
        newest, self._newest = self._newest, None
        if self.run is None:
            return
        self.run.progress.show()
        if newest is not None and self.followSteps and self.run.steps is not None:
            self._select(self.run, newest)

    def _warping(self, run: Run) -> Any:
        """What shows the selected step: the result where it was accepted, which is finer."""
        if run.referred("stepTransform") is None and run.stepTransformNode is not None:  # deleted, and made anew
            self._place(run, run.steps)
        accepted = run.result is not None and run.result.step == run.selectedStep
        return (run.referred("result") if accepted else None) or run.stepTransformNode

    def _displays(self, run: Run) -> dict[str, Any]:
        return {"folder": str(run.folder / "steps"), "longest": run.kept("longest"), "type": "float32"}

    def _onSceneChanged(self) -> None:
        """A node was removed."""

    def _onSceneClosing(self) -> None:
        """All nodes are about to go."""
