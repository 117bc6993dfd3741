"""The module's Python API: register volumes, watch the steps, stop, continue, accept, revert. It needs no GUI.

    from RecurrentRegistration import RecurrentRegistrationLogic
    logic = RecurrentRegistrationLogic()
    result = logic.registerVolumes(fixedVolumeNode, movingVolumeNode)
    print(result.report["folding"], result.transformNode.GetName())

Everything happens in the main thread. `pump` takes what the worker has told; a timer calls it, or a wait does.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from RecurrentRegistrationSlicer import checks, display, results, sampling, series, volumes
from RecurrentRegistrationSlicer.errors import FAILURES, RegistrationError, sentence
from RecurrentRegistrationSlicer.found import Found, Kept, Written
from RecurrentRegistrationSlicer.frame import FLIP, Frame, parentTransform, toWorld, worldMatrix
from RecurrentRegistrationSlicer.process import ENDS, WorkerProcess
from RecurrentRegistrationSlicer.rendering import paused
from RecurrentRegistrationSlicer.runs import Outputs, Result, Run, Settings
from RecurrentRegistrationSlicer.sceneobserver import SceneObserver
from RecurrentRegistrationSlicer.series import SequenceResult
from RecurrentRegistrationSlicer.steps import Steps
from RecurrentRegistrationSlicer.transforms import setReferences

__all__ = ["Outputs", "RegistrationError", "RegistrationLogic", "Result", "Run", "SequenceResult", "Settings"]

Event = dict[str, Any]
STOPPED = "The registration was stopped before its end."
PREFIX = "RecurrentRegistration-"  # of folders with temporary files
OLD = 86_400  # seconds after which a folder of temporary files belongs to nobody any more
PAUSE = 0.01  # seconds between two looks at the worker while a script waits
LONGEST_PUMP = 0.15  # seconds that steps may be taken over at a stretch, so that the GUI stays alive
LATE = 0.3  # seconds after which a step that waits to be shown is passed over for a later one


class RegistrationLogic:
    """One registration at a time, by a worker process.

    Attributes:
        listeners: functions that are told every event, a dictionary with "event" and, where it belongs to one, "run".
        run: the current run; None before the first and after it was taken back.
        devices, methods, presets: what the worker offers; empty until it is ready.
        arrangeViews: whether the slice views show a run as soon as it begins.
        followSteps: whether the newest step is shown while a run lasts; choosing another one ends that.

    Args:
        worker: the process that calculates; None for one of its own.
    """

    def __init__(self, worker: WorkerProcess | None = None) -> None:
        self.listeners: list[Callable[[Event], None]] = []
        self.run: Run | None = None
        self.devices: list[dict[str, Any]] = []
        self.methods: list[dict[str, Any]] = []
        self.presets: dict[str, str] = {}
        self.arrangeViews = True
        self.followSteps = True
        self._worker = worker or WorkerProcess()
        self._served: dict[int, _Served] = {}  # requests, and who takes their events
        self._known: dict[str, Run] = {}  # runs of this session, by the IDs of their nodes
        self._held: Run | None = None  # whose images and steps the worker has
        self._waiting: list[Event] = []  # events that the last pump left
        self._newest: int | None = None  # a step that is about to be shown
        self._began = 0.0
        self._folder: Path | None = None
        self._count = 0
        self._stopped = False  # whether a sequence is to register no more frames
        self._observer = SceneObserver(self._onSceneChanged, self._onSceneClosing)

    # ---- the process

    @property
    def busy(self) -> bool:
        """Whether the worker works for a run, or estimates one."""
        return any(served.command != "forget" for served in self._open())

    def startWorker(self) -> None:
        """Start the process in advance: it takes seconds to be ready. Raises RegistrationError if it cannot start."""
        if not self._worker.isRunning:
            self.pump()
            self._worker.start()
            self._lose()
            self._worker.send("methods")
            self._tell("worker", state="starting", text="")

    def pump(self) -> int:
        """Take what the worker has told, up to the next step that can be shown, and draw once; the number of events.

        Where the picture falls behind the worker by more than `LATE`, steps are passed over for the newest.
        """
        self._waiting += self._worker.poll()
        count = self._takeWaiting() if self._waiting else 0
        if self.run is not None and self.run.isRunning:
            self.run.elapsed = time.monotonic() - self._began
        return count

    def wait(self, timeout: float | None = None) -> None:
        """Let Slicer live until the worker has nothing left to do.

        Raises:
            RegistrationError: it took longer than `timeout` seconds.
        """
        began = time.monotonic()
        while self.busy or self._waiting:
            if self.pump() == 0:
                time.sleep(PAUSE)
            slicer.app.processEvents()
            if timeout is not None and time.monotonic() - began > timeout:
                raise RegistrationError(f"The registration took longer than {timeout:g} s.")

    def shutdown(self) -> None:
        """End the process, delete temporary files, leave the scene alone."""
        self.disconnect()
        self._worker.close()
        self._served, self._waiting, self._held = {}, [], None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def disconnect(self) -> None:
        """Hear nothing more of the scene."""
        self._observer.stop()

    # ---- runs

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
        chosen, outputs = _divided(settings)
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
        chosen, _ = _divided(settings)
        text = checks.problem(fixedVolumeNode, movingVolumeNode, **chosen)
        if text is not None:
            self._tell("problem", text=text)
            return
        frame, folder = Frame.of(fixedVolumeNode, movingVolumeNode), self._newFolder()
        files = _written(fixedVolumeNode, movingVolumeNode, Settings(**chosen), frame, folder)

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
            _checkUnchanged(run)
        shown = self._warping(run) if on else parentTransform(run.movingNode)
        run.movingNode.SetAndObserveTransformNodeID(shown.GetID() if shown is not None else None)

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
        _checkStep(index)
        wanted = Outputs(**outputs)
        self._hear()
        run = self.run
        if run is not None:
            _checkUnchanged(run)
            _checkBackground(run, wanted.background)
            run.error = ""
        if run is not None and run.canAccept and not run.canContinue and not self.busy:
            if wanted.interpolation not in sampling.INTERPOLATORS:
                raise RegistrationError(f"There is no interpolation '{wanted.interpolation}'.")
            run.steps.select(run.keptSteps[-1] if index is None else index)
            self._load(run, Kept(run), wanted)
            return
        run = self._continuable()
        _checkFixed(run)
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

    def revert(self) -> None:
        """Take back the current run: its nodes go, the moving volume and the views are as they were before."""
        if self.run is not None:
            self._takeBack(self.run)

    def runs(self) -> list[Run]:
        """The runs in the scene, the oldest first; those of a saved scene can be looked at, not continued."""
        return [self._known.get(node.GetID()) or Run(node) for node in Run.nodes()]

    @paused()
    def adopt(self, run: Run) -> None:
        """Make one of `runs()` the current one; where its moving volume is shown deformed, it is by this run.

        Raises:
            RegistrationError: another run is under way.
        """
        if self.busy:
            raise RegistrationError("A registration is under way: stop it first.")
        self.run = run = self._known.setdefault(run.node.GetID(), run)
        if _isDeformedByAnother(run):
            changed = not volumes.isUnchanged(run.movingNode, run.kept("moving"))  # hardened, it would move twice
            shown = parentTransform(run.movingNode) if changed else self._warping(run)
            if changed or shown is not None:
                run.movingNode.SetAndObserveTransformNodeID(shown.GetID() if shown is not None else None)

    def adoptLatest(self) -> None:
        """Where there is no current run, make the last one it that leaves the scene as it is, or else the last."""
        if self.run is not None or self.busy:
            return
        runs = self.runs()
        if runs:
            self.adopt(([run for run in runs if not _isDeformedByAnother(run)] or runs)[-1])

    # ---- how a run goes

    @paused()
    def _begin(self, fixedNode: Any, movingNode: Any, settings: Settings) -> Run:
        self._checkIdle()
        self.startWorker()  # first: where it cannot be started, nothing is touched
        frame, folder = Frame.of(fixedNode, movingNode), self._newFolder()
        files = _written(fixedNode, movingNode, settings, frame, folder)
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

    @paused()
    def _load(self, run: Run, found: Found, wanted: Outputs) -> None:
        """Turn what was found into nodes."""
        run.phase = ""
        try:
            _checkUnchanged(run)  # it may have taken a while to be written
            if isinstance(found, Written):
                _checkFixed(run)
            with self._observer.paused():
                run.result = results.load(run, found, wanted)
        except FAILURES as error:
            run.error = sentence(error)
            self._tell("error", run=run, kind="input", text=run.error)
        else:
            self._tell("result", run=run, result=run.result)

    def _checkIdle(self) -> None:
        self._hear()
        if self.busy:
            raise RegistrationError("A registration is under way: stop it first.")

    def _makeRoom(self) -> None:
        """The worker holds one registration: what this session has not accepted goes, the rest cannot be continued."""
        self._checkIdle()
        for run in [run for run in self.runs() if run.state != "restored"]:
            if run.result is None:
                self._takeBack(run)
            else:
                self._discard(run)

    @paused()
    def _takeBack(self, run: Run) -> None:
        """Take a run and all its nodes away."""
        current = self.run is run
        self._forget(run)
        changed = run.movingNode is not None and not volumes.isUnchanged(run.movingNode, run.kept("moving"))
        with self._observer.paused():
            results.remove(run)
            if current:  # else the views show something else by now
                display.restore(run.kept("views"))
            slicer.mrmlScene.RemoveNode(run.node)
        self._tell("reverted", run=run, changed=changed)

    @paused()
    def _release(self, run: Run) -> None:
        """End a run of which a volume was deleted; its result stays in the scene."""
        self._forget(run)
        with self._observer.paused():
            results.release(run)
            slicer.mrmlScene.RemoveNode(run.node)

    def _forget(self, run: Run) -> None:
        """Ask nothing more for a run."""
        if self.run is run:
            self.run = None
        self._known.pop(run.node.GetID(), None)
        if self._isAsked(run):
            self._worker.cancel()
        self._served = {number: served for number, served in self._served.items() if served.run is not run}
        self._discard(run)
        run.state = "cancelled"

    def _isAsked(self, run: Run, *commands: str) -> bool:
        """Whether the worker has yet to answer a request for a run."""
        return any(each.run is run and (not commands or each.command in commands) for each in self._open())

    def _open(self) -> list[_Served]:
        """Requests that have not ended, or whose end was told and waits to be taken."""
        pending = self._worker.pending
        return [served for number, served in self._served.items() if self._waiting or number in pending]

    def _hear(self) -> None:
        """Learn that the worker has died, where nobody has pumped since."""
        if not self._worker.isRunning:
            self.pump()

    def _lose(self) -> None:
        """The process has gone that held a run."""
        if self._held is not None:
            self._held.canContinue = False
        self._held = None

    def _goOn(self, command: str, count: int, step: int | None) -> None:
        run = self._continuable()
        run.error = ""
        if count < 1:
            raise RegistrationError("The number of steps must be 1 or more.")
        _checkStep(step)
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

    def _warping(self, run: Run) -> Any:
        """What shows the selected step: the result where it was accepted, which is finer."""
        if run.referred("stepTransform") is None and run.stepTransformNode is not None:  # deleted, and made anew
            self._place(run, run.steps)
        accepted = run.result is not None and run.result.step == run.selectedStep
        return (run.referred("result") if accepted else None) or run.stepTransformNode

    def _continuable(self) -> Run:
        if self.run is None:
            raise RegistrationError("There is no registration to work on: register first.")
        self._checkIdle()
        if not self.run.canContinue:
            raise RegistrationError("The worker no longer holds this registration: register again.")
        return self.run

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
        run.planned = event["planned"]
        record = {
            name: event[name] for name in ("index", "stage", "similarity", "mean_update_mm", "folding", "seconds")
        }
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

    def _displays(self, run: Run) -> dict[str, Any]:
        return {"folder": str(run.folder / "steps"), "longest": run.kept("longest"), "type": "float32"}

    # ---- events

    @paused()
    def _takeWaiting(self) -> int:
        began, count = time.monotonic(), 0
        while self._waiting and time.monotonic() - began < LONGEST_PUMP:
            self._take(self._waiting.pop(0))
            count += 1
            late = bool(self._waiting) and began - self._waiting[0].get("heard", began) > LATE
            if self._newest is not None and not late:
                break
        self._showNewest()
        return count

    def _showNewest(self) -> None:
        """Show what the last steps have changed."""
        newest, self._newest = self._newest, None
        if self.run is None:
            return
        self.run.progress.show()
        if newest is not None and self.followSteps and self.run.steps is not None:
            self._select(self.run, newest)

    def _request(self, take: Callable[[Event], None], command: str, run: Run | None = None, **fields: Any) -> None:
        self.startWorker()
        self._served[self._worker.send(command, **fields)] = _Served(take, run, command)

    def _ask(self, command: str, **fields: Any) -> Event:
        """Send a request and wait for its end. Raises RegistrationError where it fails."""
        if self._stopped:
            raise RegistrationError(STOPPED)
        ends: list[Event] = []
        self._request(
            lambda event: ends.append(event) if event["event"] in (*ENDS, "ended") else None, command, None, **fields
        )
        self.wait()
        if not ends or ends[-1]["event"] != "done":
            text = ends[-1].get("text") if ends else None
            raise RegistrationError(text or STOPPED)
        return ends[-1]

    def _take(self, event: Event) -> None:
        kind, command = event["event"], event.get("command")
        if kind == "ended":
            served, self._served = self._served, {}
            for each in served.values():
                each.take(event)
            self._lose()
            self._tell("worker", state="ended", text=event["text"])
        elif command in ("hello", "methods") and kind == "cancelled":  # with whatever it waited for
            self._worker.send(command)
        elif command in ("hello", "methods") and kind == "done":
            if command == "hello":
                self.devices = event["devices"]
            else:
                self.methods, self.presets = event["methods"], event["presets"]
            if self.devices and self.methods:
                self._tell("worker", state="ready", text="")
        elif kind == "log" and event.get("id") not in self._served:
            self._tell("log", text=event["text"])
        else:
            served = self._served.get(event.get("id"))
            if command is not None:
                self._served.pop(event.get("id"), None)
            if served is not None:
                served.take(event)

    def _tell(self, event: str, **fields: Any) -> None:
        for listener in list(self.listeners):
            listener({"event": event, **fields})

    def _onSceneChanged(self) -> None:
        """A node was removed: without its images, a run is over. What was accepted stays."""
        while (run := self._incomplete()) is not None:
            accepted = run.kept("result") is not None  # also by another logic
            if run.node.GetScene() is None:  # without it, nothing of what the run has made can be found
                slicer.mrmlScene.AddNode(run.node)
            (self._release if accepted else self._takeBack)(run)
            self._tell("removed", run=run, accepted=accepted, closed=False)

    def _incomplete(self) -> Run | None:
        runs = {run.node.GetID(): run for run in self.runs()} | self._known
        return next((run for run in runs.values() if not run.isComplete or run.node.GetScene() is None), None)

    def _onSceneClosing(self) -> None:
        self._stopped = True
        if self.busy:
            self._worker.cancel()  # also the frames of a sequence
        run = self.run
        for each in list(self._known.values()):
            self._forget(each)
        if run is not None:
            self._tell("removed", run=run, accepted=False, closed=True)

    def _discard(self, run: Run) -> None:
        """Let go of a run's images and steps, and delete its files as soon as the worker writes no more of them."""
        folder, run.folder, run.canContinue = run.folder, None, False
        held, self._held = self._held is run, None if self._held is run else self._held
        if held and self._worker.isRunning:
            self._request(lambda event: shutil.rmtree(folder, ignore_errors=True), "forget")
        elif folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _newFolder(self) -> Path:
        if self._folder is None:
            temporary = getattr(slicer.app, "temporaryPath", None) or tempfile.gettempdir()
            _sweep(Path(temporary))
            self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=temporary))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)  # also without a shutdown
        self._count += 1
        folder = self._folder / f"run-{self._count}"
        folder.mkdir(parents=True)  # somebody may have tidied up
        return folder


@dataclass(frozen=True)
class _Served:
    """Who takes the events of a request, and the run that it is for."""

    take: Callable[[Event], None]
    run: Run | None
    command: str


def _sweep(temporary: Path) -> None:
    """Delete what earlier sessions left: Windows deletes no file that is mapped into memory when Slicer closes."""
    for folder in temporary.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > OLD:
                shutil.rmtree(folder, ignore_errors=True)


def _isDeformedByAnother(run: Run) -> bool:
    return display.isWarped(run) and not results.isOurs(run, run.movingNode.GetParentTransformNode())


def _checkUnchanged(run: Run) -> None:
    """Raises RegistrationError where the moving volume is no longer what was registered, as after hardening."""
    node = run.movingNode
    if node is not None and not volumes.isUnchanged(node, run.kept("moving")):
        raise RegistrationError(f"'{node.GetName()}' was changed since it was registered: register it again.")


def _checkFixed(run: Run) -> None:
    """Raises RegistrationError where the fixed volume no longer has the lattice that the worker writes on."""
    node = run.fixedNode
    if node is not None and not volumes.isPlaced(node, run.kept("fixed")):
        raise RegistrationError(f"'{node.GetName()}' was moved or cropped since: register again.")


def _checkBackground(run: Run, background: float | None) -> None:
    """Raises RegistrationError for a background that would come out as another value: voxels may be whole numbers."""
    image = run.movingNode.GetImageData() if run.movingNode is not None else None
    if image is not None and background is not None:
        low, high = image.GetScalarTypeMin(), image.GetScalarTypeMax()
        if not low <= background <= high:
            raise RegistrationError(
                f"The moving volume holds values from {low:g} to {high:g}: choose a background of these."
            )


def _checkStep(index: int | None) -> None:
    if index is not None and index < 1:
        raise RegistrationError("Nothing is registered yet at this step: choose a later one.")


def _divided(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a run, and outputs. Raises RegistrationError for a name that is neither."""
    ours, theirs = ({field.name for field in fields(kind)} for kind in (Settings, Outputs))
    if unknown := set(settings) - ours - theirs:
        raise RegistrationError(f"There is no setting '{unknown.pop()}'; there are {', '.join(sorted(ours | theirs))}.")
    chosen = {name: value for name, value in settings.items() if name in ours}
    return chosen, {name: value for name, value in settings.items() if name in theirs}


def _written(fixedNode: Any, movingNode: Any, settings: Settings, frame: Frame, folder: Path) -> dict[str, Any]:
    """Write the inputs of a run; the fields of a request. Nothing is left of inputs that cannot be written."""
    try:
        return _inputs(fixedNode, movingNode, settings, frame, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _inputs(fixedNode: Any, movingNode: Any, settings: Settings, frame: Frame, folder: Path) -> dict[str, Any]:
    files = {"fixed": folder / "fixed.nrrd", "moving": folder / "moving.nrrd"}
    volumes.writeVolume(fixedNode, files["fixed"], frame)
    volumes.writeVolume(movingNode, files["moving"], frame)
    for name, node in (("fixed_mask", settings.fixedMask), ("moving_mask", settings.movingMask)):
        if node is not None:
            files[name] = folder / f"{name}.nrrd"
            volumes.writeMask(node, files[name], frame)
    options = settings.options()
    if settings.initialTransform is not None:
        start = folder / "initial.tfm"
        volumes.writeMatrix(_start(settings.initialTransform, movingNode), start, frame)
        options["initial"] = str(start)
    return {**{name: str(path) for name, path in files.items()}, "options": options}


def _start(transformNode: Any, movingNode: Any) -> np.ndarray:
    """From fixed to moving points, world LPS: what an initial transform says, nothing where it is already applied."""
    if checks.isUnder(movingNode, transformNode):
        return np.eye(4)
    return FLIP @ np.linalg.inv(worldMatrix(transformNode, transformNode.GetName())) @ FLIP
