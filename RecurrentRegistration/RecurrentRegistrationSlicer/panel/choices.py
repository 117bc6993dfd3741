"""Combo boxes that hold names of the library, and show words for them."""

from slicer.i18n import tr as _


def fixedChoices() -> dict[str, tuple[str, dict[str, str]]]:
    """For each combo box the parameter it holds, and its names with their words."""
    return {
        "initialCombo": (
            "initial",
            {
                "auto": _("Search all orientations"),
                "geometry": _("Image centres"),
                "moments": _("Centres of mass"),
                "none": _("Positions in the scene"),
            },
        ),
        "linearCombo": (
            "linear",
            {"auto": _("Automatic"), "affine": _("Affine"), "rigid": _("Rigid"), "none": _("None: deformation only")},
        ),
        "stopCombo": ("stop", {"off": _("Make all steps"), "auto": _("Stop when nothing is gained")}),
        "transformCombo": (
            "transform",
            {
                "composite": _("Linear part and displacement grid"),
                "grid": _("One displacement grid"),
                "none": _("No transform"),
            },
        ),
        "interpolationCombo": (
            "interpolation",
            {"linear": _("Linear"), "nearest": _("Nearest neighbour"), "bspline": _("Cubic B-spline")},
        ),
    }


class Choice:
    """A combo box bound to a text parameter.

    Args:
        panel: what the sections share.
        comboBox: the widget.
        name: the parameter it holds.
    """

    def __init__(self, panel, comboBox, name: str) -> None:
        self._panel, self._box, self._name = panel, comboBox, name
        self._offered: dict[str, str] = {}
        comboBox.currentIndexChanged.connect(self._chosen)

    def offer(self, words: dict[str, str]) -> None:
        """Offer these names with their words; one that was chosen and is no longer offered stays."""
        if words == self._offered:
            return
        self._offered = dict(words)
        blocked = self._box.blockSignals(True)
        self._box.clear()
        for name, text in words.items():
            self._box.addItem(text, name)
        self._box.blockSignals(blocked)

    def update(self) -> None:
        """Show what the parameter holds."""
        if self._panel.parameters is None:
            return
        name = getattr(self._panel.parameters, self._name)
        blocked = self._box.blockSignals(True)
        if self._box.findData(name) < 0:
            self._box.addItem(name, name)
        self._box.currentIndex = self._box.findData(name)
        self._box.blockSignals(blocked)

    def _chosen(self) -> None:
        if self._panel.parameters is not None:
            setattr(self._panel.parameters, self._name, self._box.itemData(self._box.currentIndex))
