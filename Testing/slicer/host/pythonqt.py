"""`qt` as PythonQt offers it: all classes in one module, and Qt's properties as attributes without brackets."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

# properties that are virtual functions too: C++ calls them, and must find a function
VIRTUAL = ("sizeHint", "minimumSizeHint")


def module() -> ModuleType:
    """The module `qt`; PySide6's classes get PythonQt's manners on the way."""
    made = ModuleType("qt")
    for source in (QtCore, QtGui, QtWidgets):
        for name in dir(source):
            if name.startswith("Q"):
                each = getattr(source, name)
                setattr(made, name, each)
                if isinstance(each, type) and issubclass(each, (QtWidgets.QWidget, QtCore.QTimer)):
                    _properties(each)
    QtCore.QObject.name = _property("objectName")
    if QtWidgets.QApplication.instance() is None:
        made.application = QtWidgets.QApplication([])
    return made


def _properties(kind: Any) -> None:
    meta = kind.staticMetaObject
    for n in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(n).name()
        if name not in VIRTUAL:
            setattr(kind, name, _property(name))


def _property(name: str) -> property:
    def read(self: Any) -> Any:
        return QtCore.QObject.property(self, name)

    def write(self: Any, value: Any) -> None:
        if not QtCore.QObject.setProperty(self, name, value):
            raise TypeError(f"The property '{name}' does not take {value!r}.")

    return property(read, write)
