"""A stand-in for the desktop: enough of `qt`, `ctk`, qMRML and `slicer` to run the real module on the real scene.

It behaves as PythonQt does where that differs from PySide6, so that what runs here is written as Slicer needs it.
It proves the wiring of the widget; it is not a proof of Slicer's own widgets.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import slicer
from PySide6 import QtCore

from . import parameters, pythonqt, scripted, widgets

MODULE = Path(__file__).parents[3] / "RecurrentRegistration"


def install() -> None:
    """Make `import qt`, `import ctk` and the desktop's parts of `slicer` work in this process."""
    if "qt" in sys.modules:
        return
    QtCore.qInstallMessageHandler(_message)
    qt = pythonqt.module()
    qt.QUiLoader = widgets.Loader
    sys.modules["qt"] = qt
    sys.modules["ctk"] = _module("ctk", widgets.CTK)
    for widget in widgets.QMRML:
        setattr(slicer, widget.__name__, widget)
    _submodule("ScriptedLoadableModule", scripted.OFFERED)
    _submodule("parameterNodeWrapper", parameters.OFFERED)
    _submodule("i18n", [scripted.tr])
    sys.path.insert(0, str(MODULE))


class Host:
    """The module as the desktop holds it: created, opened, left and unloaded."""

    def __init__(self) -> None:
        self.parent = widgets.qSlicerModuleWidget()
        self.parent.setLayout(sys.modules["qt"].QVBoxLayout())
        self.parent.setMRMLScene(slicer.mrmlScene)
        self.parent.reload = self._make
        self._make()

    def _make(self) -> None:
        """As the desktop does when the module is first chosen, and when it is reloaded: nobody enters it then."""
        self.module = importlib.import_module("RecurrentRegistration")
        self.widget = self.module.RecurrentRegistrationWidget(self.parent)
        self.widget.setup()

    def open(self) -> Any:
        """Choose the module; its widget."""
        self.parent.show()
        self.parent.entered = True
        self.widget.enter()
        return self.widget

    def invented(self) -> list[str]:
        """What was set at a widget that is not a property of it: PySide6 takes it silently, PythonQt does not."""
        named = {name: vars(widget) for name, widget in vars(self.widget.ui).items()}
        return [
            f"{name}.{key}"
            for name, found in named.items()
            for key, value in found.items()
            if not key.startswith("_") and not isinstance(value, (QtCore.SignalInstance, QtCore.QObject))
        ]

    def until(self, condition: Callable[[], Any], seconds: float = 240) -> float:
        """Let the event loop turn until a condition holds; the seconds it took. Fails when it takes too long."""
        began = time.perf_counter()
        while not condition():
            QtCore.QCoreApplication.processEvents()
            slicer.app.processEvents()
            time.sleep(0.002)
            assert time.perf_counter() - began < seconds, f"waited {seconds} s; the panel says: {self.words()}"
        return time.perf_counter() - began

    def words(self) -> str:
        """What the panel tells at the moment."""
        ui = self.widget.ui
        return " | ".join(label.text for label in (ui.checkLabel, ui.statusLabel, ui.stepLabel, ui.resultLabel))

    def close(self) -> None:
        """Leave and unload the module."""
        self.parent.entered = False
        self.widget.exit()
        self.widget.cleanup()
        self.parent.close()


def _module(name: str, offered: list[Any]) -> ModuleType:
    made = ModuleType(name)
    for each in offered:
        setattr(made, each.__name__, each)
    return made


def _submodule(name: str, offered: list[Any]) -> None:
    made = _module(f"slicer.{name}", offered)
    sys.modules[made.__name__] = made
    setattr(slicer, name, made)


def _message(kind: Any, context: Any, text: str) -> None:
    # the stand-ins hand on the scene themselves, without the .ui's connections; offscreen windows have no hints
    if not any(words in text for words in ("QObject::connect", "propagateSizeHints")):
        print(text, file=sys.stderr)
