"""A small `slicer.parameterNodeWrapper`: typed parameters of a node, bound to the widgets that name them in the .ui."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import vtk
from PySide6 import QtWidgets

from . import widgets

READ: dict[type, Callable[[str], Any]] = {bool: lambda text: text == "true", int: int, float: float, str: str}
# widget class, and type of the parameter: property and signal. Other pairs are refused, as in Slicer
BOUND = {
    (QtWidgets.QCheckBox, bool): ("checked", "stateChanged"),
    (QtWidgets.QSpinBox, int): ("value", "valueChanged"),
    (QtWidgets.QDoubleSpinBox, float): ("value", "valueChanged"),
    (widgets.ctkSliderWidget, float): ("value", "valueChanged"),
    (QtWidgets.QLineEdit, str): ("text", "textChanged"),
}


class WithinRange:
    """Limits of a number."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum


def parameterNodeWrapper(wrapped: type) -> type:
    """Decorate a class whose annotations name parameters."""
    hints = typing.get_type_hints(wrapped, include_extras=True)
    kinds = {name: typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint for name, hint in hints.items()}
    for name, kind in kinds.items():
        if typing.get_origin(kind) is typing.Union and type(None) not in typing.get_args(kind):
            raise TypeError(f"The parameter '{name}' does not take None, but begins with it.")  # as Slicer's own does
    limits = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    defaults = {name: getattr(wrapped, name, kind() if kind in READ else None) for name, kind in kinds.items()}
    body: dict[str, Any] = {name: _parameter(name, kind) for name, kind in kinds.items()}
    body |= {"_kinds": kinds, "_limits": limits, "_defaults": defaults, "__doc__": wrapped.__doc__}
    return type(wrapped.__name__, (_Wrapper,), body)


class _Wrapper:
    def __init__(self, parameterNode: Any) -> None:
        self.parameterNode = parameterNode
        self._guis: dict[int, list[tuple[Any, Any, str]]] = {}
        self._updating = False
        for name, default in self._defaults.items():
            if self._kinds[name] in READ and not parameterNode.GetParameter(name):
                setattr(self, name, default)

    def connectGui(self, ui: Any) -> None:
        """Bind every widget of `ui` that has the property SlicerParameterName; Slicer tells no tag either."""
        found = [w for w in vars(ui).values() if w.property("SlicerParameterName")]
        bound = []
        for widget in found:
            name = widget.property("SlicerParameterName")
            if name not in self._kinds:
                raise ValueError(f"The widget {widget.objectName} names no parameter: {name}.")
            bound.append((widget, *self._connect(widget, name)))
        tag = len(self._guis)
        self._guis[tag] = bound
        self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show())

    def disconnectGui(self, tag: int | None) -> None:
        """Undo `connectGui`, as far as the tag is known: without it the widgets stay bound, as in Slicer."""
        for _, signal, changed in self._guis.pop(tag, []) if tag is not None else []:
            signal.disconnect(changed)

    def _connect(self, widget: Any, name: str) -> tuple[Any, Any]:
        self._write(widget, name)
        for limit in self._limits[name]:
            widget.minimum, widget.maximum = limit.minimum, limit.maximum

        def changed() -> None:
            if not self._updating:
                setattr(self, name, self._read(widget, name))

        signal = getattr(widget, self._how(widget, name)[1])
        signal.connect(changed)
        return signal, changed

    def _how(self, widget: Any, name: str) -> tuple[str, str]:
        if type(widget) is widgets.qMRMLNodeComboBox and self._kinds[name] not in READ:
            return "", "currentNodeChanged"
        return BOUND[type(widget), self._kinds[name]]

    def _read(self, widget: Any, name: str) -> Any:
        attribute = self._how(widget, name)[0]
        return getattr(widget, attribute) if attribute else widget.currentNode()

    def _write(self, widget: Any, name: str) -> None:
        attribute, value = self._how(widget, name)[0], getattr(self, name)
        if not attribute:
            widget.setCurrentNode(value)
        elif getattr(widget, attribute) != value:
            setattr(widget, attribute, value)

    def _show(self) -> None:
        if self._updating:
            return
        self._updating = True
        for bound in self._guis.values():
            for widget, _, _ in bound:
                self._write(widget, widget.property("SlicerParameterName"))
        self._updating = False

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        """Observe the node."""
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        """Undo `AddObserver`."""
        self.parameterNode.RemoveObserver(tag)


def _parameter(name: str, kind: Any) -> property:
    if kind not in READ:
        return property(
            lambda self: self.parameterNode.GetNodeReference(name),
            lambda self, node: self.parameterNode.SetNodeReferenceID(name, node.GetID() if node is not None else None),
        )

    def write(self: Any, value: Any) -> None:
        if not isinstance(value, kind):
            raise ValueError(f"The parameter '{name}' is of {kind}, not {value!r}.")
        self.parameterNode.SetParameter(name, str(value).lower() if kind is bool else str(value))

    def read(self: Any) -> Any:
        text = self.parameterNode.GetParameter(name)
        return READ[kind](text) if text else self._defaults[name]

    return property(read, write)


OFFERED = [parameterNodeWrapper, WithinRange]
