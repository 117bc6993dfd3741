"""Requests to stop: Ctrl-C, and SIGTERM and SIGHUP, by which a scheduler or a closed terminal asks for the same."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

ASKED = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def listen() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, once; what is ignored (nohup) stays ignored."""
    terminals = [stream.fileno() for stream in (sys.stdout, sys.stderr) if stream is not None and stream.isatty()]

    def cancel(number: int, _: FrameType | None) -> None:
        for each in ASKED:  # a session that ends sends both: the second must not stop the writing
            signal.signal(each, signal.SIG_IGN)
        if number != signal.SIGTERM:
            _silence(terminals)
        raise KeyboardInterrupt

    for each in ASKED:
        if signal.getsignal(each) == signal.SIG_DFL:
            signal.signal(each, cancel)


def ignore() -> None:
    """Ask for nothing any more: the process is about to end."""
    for each in (signal.SIGINT, *ASKED):
        signal.signal(each, signal.SIG_IGN)


@contextlib.contextmanager
def once_held() -> Iterator[Callable[[], None]]:
    """Give a function after which the first request to stop is passed over, and the next one obeyed.

    What is complete but for its files is written then. In a thread that hears no signals the function does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before: dict[int, Any] = {each: signal.getsignal(each) for each in (signal.SIGINT, *ASKED)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hold() -> None:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, lambda *_: restore())

    try:
        yield hold
    finally:
        restore()


def is_interruption(error: BaseException | None) -> bool:
    """Whether an error stems from a request to stop, which some libraries wrap in errors of their own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _silence(descriptors: list[int]) -> None:
    """A closed terminal takes no messages: each would be an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for each in descriptors:
        os.dup2(nowhere, each)
