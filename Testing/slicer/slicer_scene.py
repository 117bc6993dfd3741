"""3D Slicer's scene without its desktop: the objects that a module finds as `slicer.mrmlScene`, `.app`, `.modules`."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import slicer

LOGICS = {
    "colors": "vtkMRMLColorLogic",
    "volumes": "vtkSlicerVolumesLogic",
    "transforms": "vtkSlicerTransformLogic",
    "sequences": "vtkSlicerSequencesLogic",
    "segmentations": "vtkSlicerSegmentationsModuleLogic",
    "markups": "vtkSlicerMarkupsLogic",
    "tables": "vtkSlicerTablesLogic",
    "plots": "vtkSlicerPlotsLogic",
}


class Module:
    """What `slicer.modules.volumes` offers."""

    def __init__(self, logic: Any) -> None:
        self._logic = logic

    def logic(self) -> Any:
        """The module's logic."""
        return self._logic


class Application:
    """What this extension asks `slicer.app` for.

    Attributes:
        views: what is drawn; each has `due`, whether it waits to be drawn, and `render`.
    """

    def __init__(self, logic: Any, folder: Path) -> None:
        self._logic = logic
        self.temporaryPath = str(folder)
        self.views: list[Any] = []
        self._paused = 0
        logic.AddObserver(logic.PauseRenderEvent, lambda *_: self.pauseRender())
        logic.AddObserver(logic.ResumeRenderEvent, lambda *_: self.resumeRender())

    def applicationLogic(self) -> Any:
        """The application's logic."""
        return self._logic

    def pauseRender(self) -> None:
        """Draw nothing until `resumeRender` was called as often."""
        self._paused += 1

    def resumeRender(self) -> None:
        """Draw what has become due meanwhile, at once, as the desktop does."""
        self._paused -= 1
        assert self._paused >= 0
        self.processEvents()

    def processEvents(self) -> None:
        """There is no event loop but for what is to be drawn."""
        for view in self.views if not self._paused else ():
            if view.due:
                view.render()


def boot(folder: Path) -> Any:
    """A new scene with the logics of Slicer's own modules, slice views and a layout; it becomes Slicer's scene.

    Args:
        folder: for temporary files.
    """
    scene = slicer.vtkMRMLScene()
    cache = slicer.vtkCacheManager()
    cache.SetRemoteCacheDirectory(str(folder))
    manager = slicer.vtkDataIOManager()
    manager.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(manager)
    application = slicer.vtkSlicerApplicationLogic()
    application.SetTemporaryPath(str(folder))
    application.SetMRMLScene(scene)
    modules = types.SimpleNamespace()
    for name, kind in LOGICS.items():
        logic = getattr(slicer, kind)()
        logic.SetMRMLScene(scene)
        if hasattr(logic, "SetMRMLApplicationLogic"):
            logic.SetMRMLApplicationLogic(application)
        setattr(modules, name, Module(logic))
    application.SetColorLogic(modules.colors.logic())
    modules.colors.logic().AddDefaultColorNodes()
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    for name, orientation in (("Red", "Axial"), ("Green", "Coronal"), ("Yellow", "Sagittal")):
        for kind in ("vtkMRMLSliceNode", "vtkMRMLSliceCompositeNode"):
            node = scene.CreateNodeByClass(kind)
            node.UnRegister(None)
            node.SetName(name)
            node.SetLayoutName(name)
            node.SetSingletonTag(name)
            scene.AddNode(node)
        scene.GetNodeByID(f"vtkMRMLSliceNode{name}").SetOrientation(orientation)
    layout = slicer.vtkMRMLLayoutNode()
    layout.SetSingletonTag("vtkMRMLLayoutNode")  # it survives a closed scene
    for number in (
        slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView,
        slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView,
    ):
        layout.AddLayoutDescription(number, '<layout type="horizontal"></layout>')
    scene.AddNode(layout)
    layout.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    slicer.mrmlScene, slicer.modules = scene, modules
    slicer.app = Application(application, folder)
    return scene
