"""The base classes of a scripted module, as far as the module uses them."""

from __future__ import annotations

import importlib.util
import sys
import unittest
from pathlib import Path
from typing import Any

import slicer


class ScriptedLoadableModule:
    """What the module says of itself goes to `parent`."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__


class ScriptedLoadableModuleWidget:
    """The panel; `setup` is called by whoever made it."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.parent = parent
        self.layout = parent.layout()
        self.moduleName = type(self).__name__.removesuffix("Widget")

    def setup(self) -> None:
        """Nothing: there is no developer's section."""

    def resourcePath(self, name: str) -> str:
        """A file of the module's Resources."""
        return str(Path(sys.modules[type(self).__module__].__file__).parent / "Resources" / name)

    def onReload(self) -> None:
        """Run the module's file anew, end the old panel, make a new one, in the desktop's order."""
        name = self.moduleName
        file = sys.modules[name].__file__
        spec = importlib.util.spec_from_file_location(name, file)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
        self.cleanup()
        self.layout.takeAt(0).widget().hide()
        self.parent.reload()

    def cleanup(self) -> None:
        """Overridden by the module."""


class ScriptedLoadableModuleLogic:
    """Gives the module's parameter node."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self) -> Any:
        """The one parameter node of this module."""
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node.SetModuleName(self.moduleName)
            node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
            node = slicer.mrmlScene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Without a method to run by default, as in Slicer."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments or ("runTest",))

    def delayDisplay(self, message: str, requestedDelay: Any = None, msec: Any = None) -> None:
        """Nothing is displayed."""

    def runTest(self) -> None:
        """Overridden by the module."""


def tr(text: str) -> str:
    """The text itself: there is no translation here."""
    return text


OFFERED = [
    ScriptedLoadableModule,
    ScriptedLoadableModuleWidget,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
]
