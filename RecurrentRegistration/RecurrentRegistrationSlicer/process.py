"""The worker process: requests go in as lines of JSON, events come out through a queue that the main thread empties.

Only the two reading threads live beside the main thread; they touch nothing but the queue. The process ends itself when
its input closes, also when Slicer has crashed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from pathlib import Path
from typing import Any

from RecurrentRegistrationSlicer.errors import RegistrationError

ENDS = ("done", "cancelled", "error")
SERVE = "import sys; sys.path.insert(0, sys.argv[1]); from RecurrentRegistrationLib.worker import serve; serve()"
PATIENCE = 3.0  # seconds for a cancel to be confirmed, and for a closed process to end; then it is killed
STARTING = 60.0  # seconds for the same while the process still imports PyTorch

Event = dict[str, Any]


def libraryFolder() -> Path:
    """The folder that holds RecurrentRegistrationLib: beside the module once installed, above it in the sources."""
    for folder in Path(__file__).resolve().parents[1:4]:
        if (folder / "RecurrentRegistrationLib" / "__init__.py").exists():
            return folder
    found = importlib.util.find_spec("RecurrentRegistrationLib")
    if found is None or found.origin is None:
        raise RegistrationError("The folder RecurrentRegistrationLib is missing: install the extension again.")
    return Path(found.origin).parents[1]


def python() -> str:
    """The interpreter: PythonSlicer inside Slicer, where sys.executable is Slicer itself."""
    return shutil.which("PythonSlicer") or sys.executable


class WorkerProcess:
    """A worker, started when it is first needed and again after it has ended.

    Args:
        command: program and arguments; None for the worker of this extension.
    """

    def __init__(self, command: list[str] | None = None) -> None:
        self._command = command
        self._process: subprocess.Popen | None = None
        self._events: queue.Queue[Event] = queue.Queue()
        self._errors: deque[str] = deque(maxlen=50)
        self._number = 0
        self._pending: dict[int, str] = {}  # requests that have not ended
        self._served: int | None = None  # number of the process that calculates, a child of PythonSlicer
        self._ending: set[int] = set()  # requests that are to be cancelled …
        self._deadline = 0.0  # … until then
        self._disobeyed = False

    @property
    def isRunning(self) -> bool:
        """Whether there is a process, and it has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pending(self) -> dict[int, str]:
        """Numbers and commands of the requests that have not ended."""
        return self._pending

    def start(self) -> None:
        """Start the process and ask it who it is; nothing happens where it runs."""
        if self.isRunning:
            return
        self._forget()
        command = self._command or [python(), "-c", SERVE, str(libraryFolder())]
        hidden = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows only
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                creationflags=hidden,
            )
        except OSError as error:
            raise RegistrationError(f"The worker cannot be started ({error}): install the extension again.") from error
        self._process, self._errors = process, deque(maxlen=50)
        weakref.finalize(self, _abandon, process).atexit = False  # then it ends itself
        threads = (
            threading.Thread(target=_readErrors, args=[process.stderr, self._errors], daemon=True),
            threading.Thread(target=_readEvents, args=[process.stdout, self._events], daemon=True),
        )
        for thread in threads:
            thread.start()
        self.send("hello")

    def send(self, command: str, **fields: Any) -> int:
        """Send a request, starting the process where there is none; the number under which its events come."""
        self.start()
        assert self._process is not None
        self._number += 1
        self._pending[self._number] = command
        with contextlib.suppress(OSError):  # it has ended: poll() tells
            self._process.stdin.write(json.dumps({"id": self._number, "command": command, **fields}) + "\n")
            self._process.stdin.flush()
        return self._number

    def cancel(self) -> None:
        """End whatever is served, within a second; a process that does not obey is killed."""
        if self._pending and self.isRunning:
            patience = STARTING if "hello" in self._pending.values() else PATIENCE
            self._ending, self._deadline = set(self._pending), time.monotonic() + patience
            self.send("cancel")

    def poll(self) -> list[Event]:
        """What has come since the last call; `{"event": "ended", "text": …}` when the process has ended by itself.

        "heard" of an event is when it came, as `time.monotonic()` counts.
        """
        events = []
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                break
            events.append(self._noted(event))
        if self._ending & set(self._pending) and time.monotonic() > self._deadline:
            self._disobeyed = True
            self._kill()
        return events

    def close(self) -> None:
        """End the process: it is asked first, and killed when it does not go."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._kill()
        self._forget()

    def _noted(self, event: Event) -> Event:
        if event["event"] in ENDS:
            command = self._pending.pop(event.get("id"), None)
            event["command"] = command
            if command == "hello":
                self._served = event.get("process")
        if event["event"] == "ended":
            event["text"] = self._farewell()
            self._forget()
        return event

    def _farewell(self) -> str:
        """Why the process may have ended, in one sentence."""
        if self._disobeyed:
            return "The worker did not answer and was ended: finished steps are kept."
        assert self._process is not None
        try:
            status = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._kill()
            status = None
        missing = next((line for line in reversed(self._errors) if "ModuleNotFoundError" in line), None)
        if missing:
            return f"The worker lacks a package ({missing.split(':', 1)[1].strip()}): install it in the Setup section."
        if status in (-signal.SIGTERM, -getattr(signal, "SIGKILL", 9), 137):
            return "The worker was ended from outside (perhaps for want of memory): finished steps are kept."
        last = next((line.strip() for line in reversed(self._errors) if line.strip()), "no message")
        return f"The worker ended unexpectedly (status {status}: {last[:200]}): finished steps are kept."

    def _kill(self) -> None:
        """The last resort; PythonSlicer is only a launcher, so the process that it started goes first."""
        if self._served is not None and self._process is not None and self._served != self._process.pid:
            with contextlib.suppress(OSError):
                os.kill(self._served, signal.SIGTERM)
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _forget(self) -> None:
        """Nothing of the process is left, nor what it may still have to say."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process, self._events = None, queue.Queue()
        self._pending, self._ending, self._served, self._disobeyed = {}, set(), None, False


def _abandon(process: subprocess.Popen) -> None:
    """End a process that nobody can ask anything any more."""
    with contextlib.suppress(OSError):
        process.stdin.close()
    threading.Thread(target=process.wait, daemon=True).start()


def _readEvents(pipe: Any, events: queue.Queue[Event]) -> None:
    with pipe:
        for line in pipe:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and "event" in event:
                    events.put({**event, "heard": time.monotonic()})
    events.put({"id": None, "event": "ended"})


def _readErrors(pipe: Any, lines: deque[str]) -> None:
    with pipe:
        lines.extend(pipe)
