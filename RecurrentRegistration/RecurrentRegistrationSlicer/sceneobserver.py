"""Hears when nodes leave the scene, unless the module itself removes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import slicer


class SceneObserver:
    """Calls back when a node was removed and when the scene is about to close.

    Args:
        onRemoved: without arguments.
        onClosing: without arguments.
    """

    def __init__(self, onRemoved: Callable[[], None], onClosing: Callable[[], None]) -> None:
        self._scene = slicer.mrmlScene
        self._paused = 0
        self._closing = False
        self._onRemoved, self._onClosing = onRemoved, onClosing
        events = {
            slicer.vtkMRMLScene.NodeRemovedEvent: self._removed,
            slicer.vtkMRMLScene.StartCloseEvent: self._closes,
            slicer.vtkMRMLScene.EndCloseEvent: self._closed,
        }
        self._tags = [self._scene.AddObserver(event, function) for event, function in events.items()]

    def stop(self) -> None:
        """Hear nothing any more."""
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = []

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let the module remove nodes."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def _removed(self, caller: Any, event: Any) -> None:
        if not self._paused and not self._closing:
            self._onRemoved()

    def _closes(self, caller: Any, event: Any) -> None:
        self._closing = True
        self._onClosing()

    def _closed(self, caller: Any, event: Any) -> None:
        self._closing = False
