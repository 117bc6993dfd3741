"""What is installed, what is missing, and the weights on this computer."""

import qt
import slicer
from slicer.i18n import tr as _

from RecurrentRegistrationSlicer import setup


class SetupSection:
    """The section that installs, and only when asked."""

    def __init__(self, panel, changed) -> None:
        self._panel, self._changed, ui = panel, changed, panel.ui
        self._problem = ""  # why the last installation failed
        ui.installButton.clicked.connect(self._onInstall)
        ui.refreshSetupButton.clicked.connect(self.look)
        ui.openWeightsButton.clicked.connect(self._onOpen)
        ui.deleteWeightsButton.clicked.connect(self._onDelete)
        ui.weightsTable.itemSelectionChanged.connect(self._onSelected)

    def look(self) -> None:
        """Read again what is installed."""
        ui = self._panel.ui
        parts = setup.status()
        lines = [f"{'✓' if part.ok else '✗'} <b>{part.name}</b>: {part.text}" for part in parts]
        folder = _("Weights folder: {folder}").format(folder=setup.weightsFolder())
        problem = [f"<b>{self._problem}</b>"] if self._problem else []
        ui.setupLabel.text = "<br>".join([*lines, folder, *problem])
        ui.installButton.enabled = bool(setup.missing())
        if setup.missing():
            ui.setupSection.collapsed = False
        self._showWeights()
        self._changed()

    def _showWeights(self) -> None:
        table, weights = self._panel.ui.weightsTable, setup.weights()
        columns = [_("Weights"), _("Size"), _("SHA-256"), _("State")]
        table.columnCount, table.rowCount = len(columns), len(weights)
        table.setHorizontalHeaderLabels(columns)
        for row, each in enumerate(weights):
            for column, text in enumerate(weightsTexts(each)):
                table.setItem(row, column, qt.QTableWidgetItem(text))
        table.visible = bool(weights)

    def _onSelected(self) -> None:
        self._panel.ui.deleteWeightsButton.enabled = self._panel.ui.weightsTable.currentRow() >= 0

    def _onInstall(self) -> None:
        installed = self._panel.attempt(setup.install)
        self._problem = "" if installed else self._panel.message
        self.look()

    def _onOpen(self) -> None:
        if self._panel.attempt(setup.makeWeightsFolder):
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(setup.weightsFolder())))

    def _onDelete(self) -> None:
        row = self._panel.ui.weightsTable.currentRow()
        name = self._panel.ui.weightsTable.item(row, 0).text()
        if slicer.util.confirmOkCancelDisplay(_("Delete the weights '{name}' from this computer?").format(name=name)):
            self._panel.attempt(setup.deleteWeights, name)
            self.look()


def weightsTexts(weights) -> list[str]:
    """A line of the table."""
    return [weights.name, f"{weights.size / 2**20:.1f} MB", weights.sha256[:12], weights.text]
