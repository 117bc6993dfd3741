"""Stand-ins for the widgets of CTK and Slicer that the module's .ui names, with the properties and signals it uses."""

from __future__ import annotations

from typing import Any

import slicer
from PySide6 import QtCore, QtUiTools, QtWidgets
from PySide6.QtCore import Property, Signal


class ctkCollapsibleButton(QtWidgets.QWidget):
    """A heading that folds away what is below it."""

    contentsCollapsed = Signal(bool)
    HEADING = 26

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._text, self._collapsed, self._flat = "", False, False
        self._heading = QtWidgets.QPushButton(self)
        self._heading.clicked.connect(lambda: self._collapse(not self._collapsed))
        self.setContentsMargins(0, self.HEADING, 0, 0)

    def _collapse(self, collapsed: bool) -> None:
        changed, self._collapsed = collapsed != self._collapsed, collapsed
        self._arrange()
        if changed:
            self.contentsCollapsed.emit(collapsed)

    def _arrange(self) -> None:
        self._heading.setText(("▸ " if self._collapsed else "▾ ") + self._text)
        for child in self.children():
            if child is not self._heading and isinstance(child, QtWidgets.QWidget):
                child.setVisible(not self._collapsed)

    def resizeEvent(self, event: Any) -> None:
        self._heading.setGeometry(0, 0, self.width, self.HEADING - 4)

    def childEvent(self, event: Any) -> None:
        if self._collapsed and event.added() and isinstance(event.child(), QtWidgets.QWidget):
            event.child().setVisible(event.child() is self._heading)

    def showEvent(self, event: Any) -> None:
        self._arrange()

    def _name(self, text: str) -> None:
        self._text = text
        self._arrange()

    text = Property(str, lambda self: self._text, _name)
    collapsed = Property(bool, lambda self: self._collapsed, _collapse)
    flat = Property(bool, lambda self: self._flat, lambda self, flat: setattr(self, "_flat", flat))


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider with a spin box, of real numbers."""

    valueChanged = Signal(float)
    TICKS = 1000

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._box, self._slider = QtWidgets.QDoubleSpinBox(), QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._box)
        self._slider.setRange(0, self.TICKS)
        self._slider.valueChanged.connect(self._slid)
        self._box.valueChanged.connect(self._changed)

    def _slid(self, tick: int) -> None:
        low, high = self._box.minimum, self._box.maximum
        self._box.setValue(low + tick * (high - low) / self.TICKS)

    def _changed(self) -> None:
        low, high = self._box.minimum, self._box.maximum
        self._slider.blockSignals(True)
        self._slider.setValue(round((self._box.value - low) / ((high - low) or 1) * self.TICKS))
        self._slider.blockSignals(False)
        self.valueChanged.emit(self._box.value)

    value = Property(float, lambda self: self._box.value, lambda self, value: self._box.setValue(value))
    minimum = Property(float, lambda self: self._box.minimum, lambda self, value: self._box.setMinimum(value))
    maximum = Property(float, lambda self: self._box.maximum, lambda self, value: self._box.setMaximum(value))
    decimals = Property(int, lambda self: self._box.decimals, lambda self, value: self._box.setDecimals(value))
    singleStep = Property(float, lambda self: self._box.singleStep, lambda self, value: self._box.setSingleStep(value))
    pageStep = Property(float, lambda self: 1.0, lambda self, value: None)


class ctkPathLineEdit(QtWidgets.QWidget):
    """A line with a path."""

    currentPathChanged = Signal(str)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._line, self._filters = QtWidgets.QLineEdit(), []
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._line)
        layout.addWidget(QtWidgets.QToolButton(text="…"))
        self._line.textChanged.connect(self.currentPathChanged)

    currentPath = Property(str, lambda self: self._line.text, lambda self, path: self._line.setText(path))
    nameFilters = Property(list, lambda self: self._filters, lambda self, filters: setattr(self, "_filters", filters))


class qMRMLWidget(QtWidgets.QWidget):
    """A widget that knows the scene and hands it on."""

    mrmlSceneChanged = Signal(object)

    def setMRMLScene(self, scene: Any) -> None:
        """Take the scene; the selectors below take it too."""
        for selector in self.findChildren(qMRMLNodeComboBox):
            selector.setMRMLScene(scene)
        self.mrmlSceneChanged.emit(scene)


class qSlicerModuleWidget(qMRMLWidget):
    """What holds a scripted module's panel in the desktop."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self.entered = False

    isEntered = Property(bool, lambda self: self.entered)


class qMRMLNodeComboBox(QtWidgets.QComboBox):
    """A selector of nodes by class."""

    currentNodeChanged = Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._types, self._options, self._scene, self._told = [], {}, None, None
        self.currentIndexChanged.connect(self._tell)

    def setMRMLScene(self, scene: Any) -> None:
        """Offer the nodes of a scene."""
        self._scene = scene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndBatchProcessEvent):
            scene.AddObserver(event, lambda *_: self._list())
        self._list()

    def currentNode(self) -> Any:
        """The node that is chosen, or None."""
        return self._scene.GetNodeByID(self.currentData) if self._scene is not None and self.currentData else None

    def setCurrentNode(self, node: Any) -> None:
        """Choose a node; one that is not offered is as none."""
        self.setCurrentIndex(max(0, self.findData(node.GetID())) if node is not None else 0)

    def _list(self) -> None:
        chosen = self.currentData
        self.blockSignals(True)
        self.clear()
        self.addItem("None", "")
        for node in self._nodes():
            self.addItem(node.GetName(), node.GetID())
        self.setCurrentIndex(max(0, self.findData(chosen)))
        self.blockSignals(False)
        self._tell()

    def _nodes(self) -> list[Any]:
        for_all = self._options.get("showChildNodeTypes", True)
        found = {n.GetID(): n for kind in self._types for n in slicer.util.getNodesByClass(kind, self._scene)}
        return [
            n for n in found.values() if not n.GetHideFromEditors() and (for_all or n.GetClassName() in self._types)
        ]

    def _tell(self) -> None:
        if self._told != self.currentData:
            self._told = self.currentData
            self.currentNodeChanged.emit(self.currentNode())

    def _retype(self, types: list[str]) -> None:
        self._types = list(types)
        if self._scene is not None:
            self._list()

    def _option(name: str, default: bool) -> Any:  # noqa: N805
        return Property(
            bool, lambda self: self._options.get(name, default), lambda self, on: self._options.__setitem__(name, on)
        )

    nodeTypes = Property("QStringList", lambda self: self._types, _retype)
    noneEnabled = _option("noneEnabled", False)
    addEnabled = _option("addEnabled", True)
    removeEnabled = _option("removeEnabled", True)
    renameEnabled = _option("renameEnabled", False)
    showHidden = _option("showHidden", False)
    showChildNodeTypes = _option("showChildNodeTypes", True)


CTK = [ctkCollapsibleButton, ctkSliderWidget, ctkPathLineEdit]
QMRML = [qMRMLWidget, qMRMLNodeComboBox]


class Loader(QtUiTools.QUiLoader):
    """Loads a .ui with the stand-ins."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[QtWidgets.QWidget] = []
        for kind in (*CTK, *QMRML):
            self.registerCustomWidget(kind)
