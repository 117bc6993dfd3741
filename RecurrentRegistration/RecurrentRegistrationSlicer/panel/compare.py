"""Fade, checkerboard, difference, and side by side."""

from slicer.i18n import tr as _

from RecurrentRegistrationSlicer import display

SIDE_BY_SIDE = "side by side"


class CompareSection:
    """The section with the ways to look at two volumes."""

    def __init__(self, panel) -> None:
        self._panel, ui = panel, panel.ui
        self._shown = ""
        names = {
            "": _("Overlay"),
            "checkerboard": _("Checkerboard"),
            "difference": _("Difference"),
            SIDE_BY_SIDE: _("Side by side"),
        }
        for name, text in names.items():
            ui.compareCombo.addItem(text, name)
        ui.compareCombo.currentIndexChanged.connect(self._onCompare)
        ui.fadeSlider.valueChanged.connect(self._onFade)

    def update(self) -> None:
        """Bring the section up to date."""
        ui, run = self._panel.ui, self._panel.logic.run
        ui.compareCombo.enabled = run is not None and bool(run.keptSteps)
        ui.fadeSlider.enabled = run is not None and not self._shown
        if run is None and self._shown:
            self._forget()

    def _onCompare(self) -> None:
        run, box = self._panel.logic.run, self._panel.ui.compareCombo
        if run is None:
            return
        if self._shown == SIDE_BY_SIDE:
            display.leaveSideBySide(run)
        elif self._shown:
            display.compare(run, None)
        self._onFade()
        self._shown = box.itemData(box.currentIndex)
        if self._shown == SIDE_BY_SIDE:
            self._panel.attempt(display.showSideBySide, run)
        elif self._shown:
            self._panel.attempt(display.compare, run, self._shown)
        self.update()

    def handle(self, event: dict) -> None:
        """A comparison is of the step that is shown; it takes too long to be made anew while steps come in."""
        run, kinds = self._panel.logic.run, ("selected", "done", "cancelled", "result")
        if event["event"] in kinds and run is not None and self._shown not in ("", SIDE_BY_SIDE):
            display.compare(run, self._shown)
        elif event["event"] in ("reverted", "removed"):  # with the comparison; an earlier run may be current already
            self._forget()
        elif event["event"] == "leaving":  # the current run: another one is about to be shown
            self._panel.ui.compareCombo.currentIndex = 0
        elif event["event"] == "phase" and event["name"] == "read":
            self._onFade()

    def _forget(self) -> None:
        box = self._panel.ui.compareCombo
        blocked = box.blockSignals(True)
        box.currentIndex, self._shown = 0, ""
        box.blockSignals(blocked)

    def _onFade(self) -> None:
        display.setFade(self._panel.ui.fadeSlider.value)
