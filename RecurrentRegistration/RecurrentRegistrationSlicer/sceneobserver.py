"""Hears when nodes leave the scene; while the module itself removes some, it hears of it in the end."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import slicer


class SceneObserver:
    """Calls back when a node was removed and when the scene is about to close, as long as somebody holds the listeners.

    Args:
        onRemoved: a method without arguments.
        onClosing: a method without arguments.
    """

    def __init__(self, onRemoved: Callable[[], None], onClosing: Callable[[], None]) -> None:
        self._scene = slicer.mrmlScene
        self._paused, self._missed = 0, False
        self._closing = False
        self._onRemoved, self._onClosing = _weakly(onRemoved), _weakly(onClosing)
        events = {
            slicer.vtkMRMLScene.NodeRemovedEvent: self._removed,
            slicer.vtkMRMLScene.StartCloseEvent: self._closes,
            slicer.vtkMRMLScene.EndCloseEvent: self._closed,
        }
        self._tags = [self._scene.AddObserver(event, _weakly(function)) for event, function in events.items()]
        self._finalizer = weakref.finalize(self, _removeObservers, self._scene, self._tags)

    def stop(self) -> None:
        """Hear nothing any more."""
        self._finalizer()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let the module remove nodes; afterwards one call tells of all of them: another run may have used them."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1
        if self._missed and not self._paused:
            self._missed = False
            self._onRemoved()

    def _removed(self, caller: Any, event: Any) -> None:
        if self._closing or self._scene.IsImporting():
            return
        if self._paused:
            self._missed = True
        else:
            self._onRemoved()

    def _closes(self, caller: Any, event: Any) -> None:
        self._closing = True
        self._onClosing()

    def _closed(self, caller: Any, event: Any) -> None:
        self._closing = False


def _weakly(method: Callable[..., None]) -> Callable[..., None]:
    """Call a method of an object that lives, without keeping it alive: the scene outlives its listeners."""
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any) -> None:
        alive = reference()
        if alive is not None:
            alive(*arguments)

    return call


def _removeObservers(scene: Any, tags: list[int]) -> None:
    for tag in tags:
        scene.RemoveObserver(tag)
