"""Slicer's slice and 3D views without a screen: pictures `[rows, columns, 3]`, uint8, the top row first."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

SLICE_MANAGERS = ("vtkMRMLTransformsDisplayableManager2D", "vtkMRMLModelSliceDisplayableManager")
SPACE_MANAGERS = ("vtkMRMLModelDisplayableManager", "vtkMRMLTransformsDisplayableManager3D")


def canRender() -> bool:
    """Whether this machine can draw without a screen (EGL or OSMesa)."""
    window = vtk.vtkRenderWindow()
    window.OffScreenRenderingOn()
    window.SetSize(8, 8)
    window.AddRenderer(vtk.vtkRenderer())
    window.Render()
    return bool(window.SupportsOpenGL())


class View:
    """A render window on a view node, with Slicer's displayable managers."""

    def __init__(self, viewNode: Any, size: tuple[int, int], factory: Any, managers: tuple[str, ...]) -> None:
        self.viewNode, self.size = viewNode, size
        self.window, self.renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
        self.window.OffScreenRenderingOn()
        self.window.SetSize(*size)
        self.window.AddRenderer(self.renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self.window)
        factory.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        for name in managers:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self._group = factory.InstantiateDisplayableManagers(self.renderer)
        self._group.SetMRMLDisplayableNode(viewNode)
        self.due = False
        self._group.AddObserver(vtk.vtkCommand.UpdateEvent, self.request)

    def request(self, *_: Any) -> None:
        """Wait to be drawn; `slicer.app` does so for the views it was given."""
        self.due = True

    def render(self) -> None:
        """Draw."""
        self.due = False
        self.window.Render()

    def picture(self) -> np.ndarray:
        """What the view shows now."""
        self.render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self.window)
        grabber.ReadFrontBufferOff()
        grabber.Update()
        image = grabber.GetOutput()
        columns, rows, _ = image.GetDimensions()
        values = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
        return values.reshape(rows, columns, -1)[::-1, :, :3].copy()


class SliceView(View):
    """One of the slice views of the layout: "Red", "Green" or "Yellow".

    Args:
        name: of the view.
        orientation: "Axial", "Coronal" or "Sagittal".
        size: width and height in pixels.
        reference: the volume to be seen whole.
    """

    def __init__(self, name: str, orientation: str, size: tuple[int, int], reference: Any) -> None:
        node = slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLSliceNode")
        axes = vtk.vtkMatrix3x3()
        getattr(slicer.vtkMRMLSliceNode, f"Get{orientation}SliceToRASMatrix")(axes)
        for row in range(3):
            for column in range(3):
                node.GetSliceToRAS().SetElement(row, column, axes.GetElement(row, column))
        node.UpdateMatrices()
        node.SetDimensions(*size, 1)
        logics = slicer.app.applicationLogic().GetSliceLogics()
        if logics is None:
            logics = vtk.vtkCollection()
            slicer.app.applicationLogic().SetSliceLogics(logics)
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.logic.SetSliceNode(node)
        logics.AddItem(self.logic)
        super().__init__(node, size, slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), SLICE_MANAGERS)
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(self._mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self.renderer.AddViewProp(actor)
        bounds = np.zeros(6)
        reference.GetRASBounds(bounds)
        centre = bounds.reshape(3, 2).mean(axis=1)
        node.JumpSliceByCentering(*centre)
        self.logic.FitSliceToVolume(reference, *size)
        self.logic.AddObserver(vtk.vtkCommand.ModifiedEvent, self.request)

    def render(self) -> None:
        self.logic.UpdatePipeline()
        self._mapper.SetInputConnection(self.logic.GetImageDataConnection())  # another one when volumes come or go
        super().render()


class SpaceView(View):
    """A 3D view, from the front and above.

    Args:
        size: width and height in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLViewNode")
        if node is None:
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLViewNode")
        super().__init__(node, size, slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(), SPACE_MANAGERS)

    def picture(self) -> np.ndarray:
        camera = self.renderer.GetActiveCamera()
        camera.SetPosition(250, 600, 350)
        camera.SetFocalPoint(0, 0, 0)
        camera.SetViewUp(0, 0, 1)
        self.renderer.ResetCamera()
        return super().picture()
