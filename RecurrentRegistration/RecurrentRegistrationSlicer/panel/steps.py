"""The slider over the steps, live while they are made; stop, continue, refine, accept, revert."""

import qt
import slicer
from slicer.i18n import tr as _

from RecurrentRegistrationSlicer import display
from RecurrentRegistrationSlicer.panel.parameters import outputs

PLAY_INTERVAL = 250  # milliseconds a step is shown


class StepsSection:
    """The section that is used while looking at the views."""

    def __init__(self, panel) -> None:
        self._panel, ui = panel, panel.ui
        self._timer = qt.QTimer()
        self._timer.setInterval(PLAY_INTERVAL)
        self._timer.timeout.connect(self._onPlayed)
        ui.runCombo.currentIndexChanged.connect(self._onRun)
        ui.stepSlider.valueChanged.connect(self._onSlid)
        ui.playButton.toggled.connect(self._onPlay)
        ui.previewBox.toggled.connect(self._onPreview)
        ui.gridBox.toggled.connect(self._onGrid)
        ui.glyphsBox.toggled.connect(self._onGlyphs)
        ui.curvesButton.clicked.connect(self._onCurves)
        ui.stopButton.clicked.connect(self._onStop)
        ui.continueButton.clicked.connect(self._onContinue)
        ui.refineButton.clicked.connect(self._onRefine)
        ui.acceptButton.clicked.connect(self._onAccept)
        ui.revertButton.clicked.connect(self._onRevert)

    def update(self) -> None:
        """Bring the section up to date."""
        self._showRuns()
        self.showStep()

    def handle(self, event: dict) -> None:
        """After a run was taken back, an earlier one is the current one."""
        logic = self._panel.logic
        gone = event["event"] == "reverted" or (event["event"] == "removed" and not event["closed"])
        if gone:
            logic.adoptLatest()

    def showStep(self) -> None:
        """Bring slider, numbers and buttons to the step that the scene shows: often, while steps are made."""
        logic, ui = self._panel.logic, self._panel.ui
        run, busy = logic.run, logic.busy
        steps = run.keptSteps if run is not None else []
        for widget in (ui.stepSlider, ui.playButton, ui.previewBox, ui.gridBox, ui.glyphsBox, ui.curvesButton):
            widget.enabled = bool(steps)
        ui.stopButton.enabled = busy and run is not None and run.state == "running"
        more = run is not None and run.canExtend and bool(steps) and not busy
        for widget in (ui.continueButton, ui.refineButton):
            widget.enabled = more
        ui.acceptButton.enabled = run is not None and run.canAccept and bool(run.selectedStep) and not busy
        ui.revertButton.enabled = run is not None
        self._tick(run if steps else None)
        self._slide(run, steps)

    def _tick(self, run) -> None:
        """The boxes tell what the scene shows: it may be another run's, or that of a scene that was opened."""
        ui = self._panel.ui
        states = (
            (ui.previewBox, run is not None and display.isWarped(run)),
            (ui.gridBox, run is not None and display.isGridShown(run)),
            (ui.glyphsBox, run is not None and display.areGlyphsShown(run)),
        )
        for box, state in states:
            blocked = box.blockSignals(True)
            box.checked = state
            box.blockSignals(blocked)

    def _slide(self, run, steps) -> None:
        ui = self._panel.ui
        shown = run.selectedStep if steps else None
        first, last = (steps[0], steps[-1]) if steps else (0, 1)
        blocked = ui.stepSlider.blockSignals(True)
        ui.stepSlider.minimum = float(first)
        ui.stepSlider.maximum = float(last)
        ui.stepSlider.value = float(shown or 0)
        ui.stepSlider.blockSignals(blocked)
        ui.stepLabel.text = stepText(run) if shown is not None else ""

    def _showRuns(self) -> None:
        logic, box = self._panel.logic, self._panel.ui.runCombo
        runs = runTexts(logic.runs())
        blocked = box.blockSignals(True)
        if {box.itemData(n): box.itemText(n) for n in range(box.count)} != runs:
            box.clear()
            for identifier, text in runs.items():
                box.addItem(text, identifier)
        if logic.run is not None:
            box.currentIndex = box.findData(logic.run.node.GetID())
        box.blockSignals(blocked)
        box.enabled = len(runs) > 1 and not logic.busy

    def _onRun(self) -> None:
        box, logic = self._panel.ui.runCombo, self._panel.logic
        chosen = [run for run in logic.runs() if run.node.GetID() == box.itemData(box.currentIndex)]
        if chosen and not logic.busy:
            self._panel.tell({"event": "leaving"})
            if self._panel.attempt(logic.adopt, chosen[0]) and logic.arrangeViews and logic.run.isComplete:
                display.arrange(logic.run)

    def _onSlid(self) -> None:
        if self._panel.logic.run is not None:
            self._panel.logic.selectStep(round(self._panel.ui.stepSlider.value))
            self.showStep()
            self._panel.tell({"event": "selected"})

    def _onPlay(self) -> None:
        if self._panel.ui.playButton.checked:
            self._panel.ui.stepSlider.value = self._panel.ui.stepSlider.minimum
            self._timer.start()
        else:
            self._timer.stop()

    def _onPlayed(self) -> None:
        run, ui = self._panel.logic.run, self._panel.ui
        later = [step for step in run.keptSteps if step > ui.stepSlider.value] if run is not None else []
        if later:
            ui.stepSlider.value = float(later[0])
        else:
            ui.playButton.checked = False

    def _onPreview(self) -> None:
        self._panel.attempt(self._panel.logic.showWarped, self._panel.ui.previewBox.checked)

    def _onGrid(self) -> None:
        self._overlay(display.showGrid, self._panel.ui.gridBox, self._panel.ui.glyphsBox)

    def _onGlyphs(self) -> None:
        self._overlay(display.showGlyphs, self._panel.ui.glyphsBox, self._panel.ui.gridBox)

    def _overlay(self, show, box, other) -> None:
        """Show grid or arrows: Slicer draws one of them at a time."""
        if box.checked:
            other.checked = False
        if self._panel.logic.run is not None:
            show(self._panel.logic.run, box.checked)

    def _onCurves(self) -> None:
        run = self._panel.logic.run
        if run is not None and run.chartNode is not None:
            slicer.modules.plots.logic().ShowChartInLayout(run.chartNode)

    def _onStop(self) -> None:
        self._panel.attempt(self._panel.logic.stop)

    def _onContinue(self) -> None:
        self._panel.attempt(self._panel.logic.continueRun, self._panel.parameters.continueSteps)

    def _onRefine(self) -> None:
        self._panel.attempt(self._panel.logic.refineRun, self._panel.parameters.refineSteps)

    def _onAccept(self) -> None:
        self._panel.attempt(self._accept)

    def _accept(self) -> None:
        logic = self._panel.logic
        logic.acceptStep(logic.run.selectedStep, **outputs(self._panel.parameters))

    def _onRevert(self) -> None:
        self._panel.attempt(self._panel.logic.revert)

    def stop(self) -> None:
        """Stop playing; the panel is about to go."""
        self._timer.stop()


def runText(run) -> str:
    """The two volumes of a run."""
    names = [node.GetName() if node is not None else _("deleted") for node in (run.fixedNode, run.movingNode)]
    return _("{moving} onto {fixed}").format(fixed=names[0], moving=names[1])


def runTexts(runs) -> dict[str, str]:
    """A name for each run, by the IDs of their nodes; runs of the same two volumes are numbered."""
    texts, counts = {}, {}
    for run in runs:
        text = runText(run)
        counts[text] = counts.get(text, 0) + 1
        texts[run.node.GetID()] = text if counts[text] == 1 else f"{text} ({counts[text]})"
    return texts


def stepText(run) -> str:
    """The numbers of the step that is shown."""
    record = next((r for r in run.records if r["index"] == run.selectedStep), None)
    if record is None:
        return _("Before the first step")
    words = [_("Step {index} ({stage})").format(**record)]
    if record["index"] == run.best:
        words.append(_("the best so far"))
    if record["similarity"] is not None:
        words.append(_("similarity {value:.3f}").format(value=record["similarity"]))
    if record["mean_update_mm"] is not None:
        words.append(_("mean update {value:.2f} mm").format(value=record["mean_update_mm"]))
    if record["folding"] is not None:
        words.append(_("folding {value:.3g} %").format(value=record["folding"]))
    if record.get("landmark_error_mm") is not None:
        words.append(_("landmarks {value:.2f} mm").format(value=record["landmark_error_mm"]))
    if record.get("label_overlap") is not None:
        words.append(_("label overlap {value:.3f}").format(value=record["label_overlap"]))
    return ", ".join(words)
