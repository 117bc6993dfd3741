"""The runs of a session: which is the current one, what it leaves, and how it ends."""

from __future__ import annotations

import shutil

import slicer

from RecurrentRegistrationSlicer import checks, display, results, volumes
from RecurrentRegistrationSlicer.errors import FAILURES, RegistrationError, sentence
from RecurrentRegistrationSlicer.following import Following
from RecurrentRegistrationSlicer.found import Found, Written
from RecurrentRegistrationSlicer.frame import parentTransform
from RecurrentRegistrationSlicer.process import WorkerProcess
from RecurrentRegistrationSlicer.rendering import paused
from RecurrentRegistrationSlicer.runs import Outputs, Run


class Keeping(Following):
    """Keeps the runs of this session, and takes them away again."""

    def __init__(self, worker: WorkerProcess | None = None) -> None:
        super().__init__(worker)
        self._known: dict[str, Run] = {}  # runs of this session, by the IDs of their nodes

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

    @paused()
    def _load(self, run: Run, found: Found, wanted: Outputs) -> None:
        """Turn what was found into nodes."""
        run.phase = ""
        try:
            checks.checkUnchanged(run)  # it may have taken a while to be written
            if isinstance(found, Written):
                checks.checkFixed(run)
            with self._observer.paused():
                run.result = results.load(run, found, wanted)
        except FAILURES as error:
            run.error = sentence(error)
            self._tell("error", run=run, kind="input", text=run.error)
        else:
            self._tell("result", run=run, result=run.result)

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

    def _discard(self, run: Run) -> None:
        """Let go of a run's images and steps, and delete its files as soon as the worker writes no more of them."""
        folder, run.folder, run.canContinue = run.folder, None, False
        held, self._held = self._held is run, None if self._held is run else self._held
        if held and self._worker.isRunning:
            self._request(lambda event: shutil.rmtree(folder, ignore_errors=True), "forget")
        elif folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _onSceneChanged(self) -> None:
        """A node was removed: without its images, a run is over. What was accepted stays."""
        while (run := self._incomplete()) is not None:
            accepted = run.kept("result") is not None  # also by another logic
            if run.node.GetScene() is None:  # without it, nothing of what the run has made can be found
                slicer.mrmlScene.AddNode(run.node)
            deleted = not run.isComplete
            (self._release if accepted else self._takeBack)(run)
            self._tell("removed", run=run, accepted=accepted, closed=False, deleted=deleted)

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
            self._tell("removed", run=run, accepted=False, closed=True, deleted=False)


def _isDeformedByAnother(run: Run) -> bool:
    return display.isWarped(run) and not results.isOurs(run, run.movingNode.GetParentTransformNode())
