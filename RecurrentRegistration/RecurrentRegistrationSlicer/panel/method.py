"""Preset, method with its card, device, and the memory it takes."""

import contextlib
import json

from slicer.i18n import tr as _

from RecurrentRegistrationSlicer import setup
from RecurrentRegistrationSlicer.panel.choices import Choice
from RecurrentRegistrationSlicer.panel.parameters import settings

GIGABYTE = 2**30


class MethodSection:
    """The section for experts. Methods and devices are those that the worker tells of."""

    def __init__(self, panel) -> None:
        self._panel, ui = panel, panel.ui
        self._preset = Choice(panel, ui.presetCombo, "preset")
        self._method = Choice(panel, ui.methodCombo, "method")
        self._device = Choice(panel, ui.deviceCombo, "device")
        self._weights = Choice(panel, ui.weightsCombo, "weights")
        ui.weightsEdit.currentPathChanged.connect(self._onWeights)
        ui.estimateButton.clicked.connect(self._onEstimate)

    def update(self) -> None:
        """Bring the section up to date."""
        logic, parameters, ui = self._panel.logic, self._panel.parameters, self._panel.ui
        self._preset.offer({"auto": _("Detect automatically")} | dict(logic.presets))
        without = {"auto": _("Automatic (training-free)"), "none": _("Linear alignment only")}
        self._method.offer(without | {m["name"]: m["title"] for m in logic.methods})
        self._device.offer({"auto": _("Fastest available")} | {d["name"]: deviceText(d) for d in logic.devices})
        card = next((m for m in logic.methods if parameters is not None and m["name"] == parameters.method), None)
        trained = card is not None and card["trained"]
        self._weights.offer({"": _("Choose…")} | {name: name for name in (weightsOf(card["name"]) if trained else ())})
        ui.weightsCombo.enabled = trained
        for choice in (self._preset, self._method, self._device, self._weights):
            choice.update()
        ui.cardLabel.text = cardText(card) if card is not None else ""
        ui.cardLabel.visible = card is not None
        ui.weightsEdit.enabled = trained
        if parameters is not None and ui.weightsEdit.currentPath != parameters.weights:
            ui.weightsEdit.currentPath = parameters.weights
        ui.estimateButton.enabled = parameters is not None and not logic.busy

    def handle(self, event: dict) -> None:
        """Show an estimate that has come."""
        label = self._panel.ui.memoryLabel
        if event["event"] == "estimate":
            words = [_("{size:.1f} GB at most, {steps} steps").format(size=event["bytes"] / GIGABYTE, **event)]
            label.text = "; ".join(words + list(event["notes"]))
        elif event["event"] == "problem":
            label.text = event["text"]

    def _onWeights(self) -> None:
        if self._panel.parameters is not None:
            self._panel.parameters.weights = self._panel.ui.weightsEdit.currentPath

    def _onEstimate(self) -> None:
        parameters = self._panel.parameters
        volumes = parameters.fixedVolume, parameters.movingVolume
        self._panel.attempt(self._panel.logic.estimate, *volumes, **settings(parameters, self._panel.logic.methods))
        self._panel.ui.memoryLabel.text = self._panel.message or _("Estimating…")


def deviceText(device: dict) -> str:
    """A device's name with the memory that is free."""
    title = device["title"] or device["name"]
    return _("{title}, {free:.1f} GB free").format(title=title, free=(device["free"] or 0) / GIGABYTE)


def cardText(card: dict) -> str:
    """What a method is for, its paper, its size, and whether it uses masks and needs weights."""
    lines = [f"<b>{card['title']}</b>: {card['summary']}", f"<i>{card['reference']}</i>"]
    facts = [_("{steps} steps").format(steps=card["default_steps"])]
    facts.append(" / ".join(f"{d}D" for d in card["dimensions"]))
    sizes = {int(d): n for d, n in (card.get("parameters") or {}).items()}
    if sizes:
        facts.append(_("{size:.2f} million parameters").format(size=max(sizes.values()) / 1e6))
    facts.append(_("ignores masks") if card["masks"] == "ignored" else _("uses masks"))
    facts.append(weightsText(card["name"]) if card["trained"] else _("needs no training"))
    return "<br>".join([*lines, ", ".join(facts)])


def weightsOf(method: str) -> list[str]:
    """Names of the weights of a trained method on this computer."""
    present = []
    for file in setup.weightsFolder().glob(f"*/{setup.CARD}"):
        with contextlib.suppress(OSError, ValueError):  # Setup tells of damaged ones
            if json.loads(file.read_text(encoding="utf-8")).get("method") == method:
                present.append(file.parent.name)
    return sorted(present)


def weightsText(method: str) -> str:
    """Which weights of a trained method are on this computer: they are used where they are chosen, for one anatomy."""
    present = weightsOf(method)
    if not present:
        return _("needs weights, and none are on this computer: choose a file below")
    return _("choose one of the weights on this computer below: {names}").format(names=", ".join(present))
