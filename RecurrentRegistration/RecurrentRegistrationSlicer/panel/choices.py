"""Combo boxes that hold names of the library, and show words for them."""

from slicer.i18n import tr as _


def fixedChoices() -> dict[str, tuple[str, dict[str, str]]]:
    """For each combo box the parameter it holds, and its names with their words."""
    return {
        "initialCombo": (
            "initial",
            {
                "auto": _("search from any pose"),
                "geometry": _("centre on centre"),
                "moments": _("centres of mass"),
                "none": _("as the volumes lie"),
            },
        ),
        "linearCombo": (
            "linear",
            {"affine": _("affine"), "rigid": _("rigid"), "none": _("none: the deformation alone")},
        ),
        "transformCombo": (
            "transform",
            {
                "composite": _("linear part and displacement grid"),
                "grid": _("one displacement grid"),
                "none": _("no transform"),
            },
        ),
        "interpolationCombo": (
            "interpolation",
            {"linear": _("linear"), "nearest": _("nearest voxel"), "bspline": _("cubic B-spline")},
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
