"""Apply and Cancel, the check before, the progress during, the log."""

from slicer.i18n import tr as _

from RecurrentRegistrationSlicer import checks, setup
from RecurrentRegistrationSlicer.panel.parameters import inputs, settings


class RunSection:
    """The section with the button."""

    def __init__(self, panel) -> None:
        self._panel, self.ready = panel, False
        panel.ui.applyButton.clicked.connect(self._onApply)
        panel.ui.cancelButton.clicked.connect(self._onCancel)

    def lookForPackages(self) -> None:
        """Find out again whether PyTorch and what else is needed are installed."""
        self.ready = setup.ready()

    def problem(self) -> str:
        """What forbids a run as one sentence; empty where nothing does."""
        parameters = self._panel.parameters
        if not self.ready:
            return _("PyTorch is not installed yet: open Setup below and install the missing packages.")
        if parameters is None:
            return _("The scene is empty: load two volumes.")
        return checks.problem(parameters.fixedVolume, parameters.movingVolume, **inputs(parameters)) or ""

    def update(self) -> None:
        """Bring the section up to date."""
        ui, logic = self._panel.ui, self._panel.logic
        problem = self.problem()
        ui.checkLabel.text = problem or self._notice() or _("Ready.")
        ui.applyButton.enabled = not problem and not logic.busy
        ui.applyButton.toolTip = problem or _("Registers the moving volume to the fixed one.")
        run = logic.run
        ui.cancelButton.enabled = logic.busy and run is not None and (run.isRunning or run.phase == "write")
        self.showProgress()

    def showProgress(self) -> None:
        """Show the phase, the step and the time."""
        ui, run = self._panel.ui, self._panel.logic.run
        if run is not None:
            planned = max(1, run.planned if run.isRunning else run.made)  # a method may end before its last step
            ui.progressBar.maximum = planned
            ui.progressBar.value = min(run.made, planned)
            ui.progressBar.format = progressText(run)
        else:
            ui.progressBar.value = 0
            ui.progressBar.format = ""
        ui.statusLabel.text = self._panel.message or statusText(run)

    def handle(self, event: dict) -> None:
        """Log what has happened, and tell what matters."""
        kind, text = event["event"], event.get("text", "")
        if kind == "removed":
            text = removedText(event)
        if text:
            self._panel.ui.logText.appendPlainText(text)
        if kind in ("error", "removed") or (kind == "worker" and event["state"] == "ended"):
            self._panel.message = text
        elif kind == "reverted":
            self._panel.message = revertedText(event)

    def _notice(self) -> str:
        parameters = self._panel.parameters
        return checks.notice(parameters.fixedVolume, parameters.movingVolume, **inputs(parameters)) or ""

    def _onApply(self) -> None:
        parameters, logic = self._panel.parameters, self._panel.logic
        self._panel.ui.logText.clear()
        volumes = parameters.fixedVolume, parameters.movingVolume
        self._panel.tell({"event": "leaving"})
        if self._panel.attempt(logic.registerVolumes, *volumes, wait=False, **settings(parameters, logic.methods)):
            self._panel.message = ""  # that an earlier run made room
            self.showProgress()

    def _onCancel(self) -> None:
        self._panel.attempt(self._panel.logic.cancel)


def progressText(run) -> str:
    """Phase, step, and seconds."""
    working = run.state in ("starting", "running") or run.phase == "write"
    words = [phaseText(run.phase) if working else _("Finished")]
    if run.isRunning and run.planned:
        words.append(_("step {made} of {planned}").format(made=run.made, planned=run.planned))
    else:
        words.append(_("{made} steps").format(made=run.made))
    if working or run.elapsed:  # unknown for a run of a saved scene
        words.append(f"{run.elapsed:.0f} s")
    return " · ".join(words)


def phaseText(name: str) -> str:
    """What the worker is doing."""
    phases = {
        "read": _("Reading"),
        "prepare": _("Preparing"),
        "align": _("Aligning"),
        "deform": _("Deforming"),
        "correct": _("Correcting"),
        "refine": _("Refining"),
        "write": _("Writing"),
    }
    return phases.get(name, _("Starting"))


def statusText(run) -> str:
    """How a run stands, as one sentence."""
    states = {
        "starting": _("The worker process is starting."),
        "running": _("Registration in progress: watch the steps below."),
        "stopped": _("Stopped: every step so far can be shown, continued and accepted."),
        "done": _("Done: look at the steps, and accept one."),
        "restored": _("An earlier registration: its steps can be shown and accepted."),
    }
    if run is None:
        return ""
    if run.phase == "write":
        return _("The result is being written.")
    if run.error:
        return run.error
    if run.result is not None and run.state in ("stopped", "done", "failed"):  # its error went when it was accepted
        return _("Done: step {step} is the result.").format(step=run.result.step)
    return states.get(run.state, "")


def removedText(event: dict) -> str:
    """Why a run is over, and what is left of it."""
    if event["closed"]:
        return _("The registration was reverted because the scene was closed.")
    if not event["deleted"]:
        return _("The registration was removed from the scene.")
    if event["accepted"]:
        return _("One of its volumes was deleted: the registration has ended, and its result stays in the scene.")
    return _("One of its volumes was deleted: the registration was reverted.")


def revertedText(event: dict) -> str:
    """What is as it was."""
    if event["changed"]:
        return _("The registration was reverted; its moving volume has been changed since and stays as it is.")
    return _("The scene is as it was before the registration.")
