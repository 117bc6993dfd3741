"""Stop the main thread from another thread, wherever it is in Python code and no harm is done.

A flag that is looked at between steps would not do: reading, alignment and a step of a large volume each take seconds.
So the main thread is sent SIGINT, whose handler raises KeyboardInterrupt. It is sent again every `PAUSE` seconds,
because the handler raises nothing in an indivisible place, and what raised may have been swallowed by a library's
`except`. Two kinds of place are indivisible: a block under `held`, and code that would stay broken if it were left
half-way (an import, numba's compiler), which is known by its frames on the stack.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

PAUSE = 0.05


class Interruption:
    """Of one main thread, which calls everything here except `insist`."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._open = False  # set by the main thread alone

    def listen(self) -> None:
        """From now on; Ctrl-C at the terminal, which reaches the process too, does nothing by itself."""
        signal.signal(signal.SIGINT, self._arrived)

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """The block that may be interrupted."""
        self._open = True
        try:
            yield
        finally:
            self._open = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No interruption in this block; one that was asked for by then comes at its end."""
        was_open, self._open = self._open, False
        try:
            yield
        finally:
            self._open = was_open
        if was_open and self._asked.is_set():
            raise KeyboardInterrupt

    def forget(self) -> None:
        """What was asked for does not concern what comes next."""
        self._asked.clear()

    def ask(self) -> None:
        """Interrupt at the next end of a held block; any thread may ask."""
        self._asked.set()

    def insist(self, wanted: Callable[[], bool]) -> None:
        """Interrupt anywhere, until it is no longer wanted; in a thread of its own."""
        while wanted():
            _thread.interrupt_main()
            time.sleep(PAUSE)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._open and self._asked.is_set() and not _is_indivisible(frame):
            raise KeyboardInterrupt


def _is_indivisible(frame: FrameType | None) -> bool:
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package in ("numba", "llvmlite") or frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
