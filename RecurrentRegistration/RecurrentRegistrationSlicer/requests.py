"""What is asked of the worker, who takes its answers, and the temporary files of both."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer

from RecurrentRegistrationSlicer.errors import RegistrationError
from RecurrentRegistrationSlicer.process import ENDS, WorkerProcess
from RecurrentRegistrationSlicer.rendering import paused
from RecurrentRegistrationSlicer.runs import Run

Event = dict[str, Any]
STOPPED = "The registration was stopped before its end."
PREFIX = "RecurrentRegistration-"  # of folders with temporary files
OLD = 86_400  # seconds after which a folder of temporary files belongs to nobody any more
PAUSE = 0.01  # seconds between two looks at the worker while a script waits
LONGEST_PUMP = 0.15  # seconds that steps may be taken over at a stretch, so that the GUI stays alive
LATE = 0.3  # seconds after which a step that waits to be shown is passed over for a later one


class Requests:
    """The worker process, and the requests that it has yet to answer.

    Attributes:
        listeners: functions that are told every event, a dictionary with "event" and, where it belongs to one, "run".
        run: the current run; None before the first and after it was taken back.
        devices, methods, presets: what the worker offers; empty until it is ready.

    Args:
        worker: the process that calculates; None for one of its own.
    """

    def __init__(self, worker: WorkerProcess | None = None) -> None:
        self.listeners: list[Callable[[Event], None]] = []
        self.run: Run | None = None
        self.devices: list[dict[str, Any]] = []
        self.methods: list[dict[str, Any]] = []
        self.presets: dict[str, str] = {}
        self._worker = worker or WorkerProcess()
        self._served: dict[int, _Served] = {}  # requests, and who takes their events
        self._held: Run | None = None  # whose images and steps the worker has
        self._waiting: list[Event] = []  # events that the last pump left
        self._newest: int | None = None  # a step that is about to be shown
        self._began = 0.0
        self._folder: Path | None = None
        self._count = 0
        self._stopped = False  # whether a sequence is to register no more frames

    @property
    def busy(self) -> bool:
        """Whether the worker works for a run, or estimates one."""
        return any(served.command != "forget" for served in self._open())

    def startWorker(self) -> None:
        """Start the process in advance: it takes seconds to be ready. Raises RegistrationError if it cannot start."""
        if not self._worker.isRunning:
            self.pump()
            self._worker.start()
            self._lose()
            self._worker.send("methods")
            self._tell("worker", state="starting", text="")

    def pump(self) -> int:
        """Take what the worker has told, up to the next step that can be shown, and draw once; the number of events.

        Where the picture falls behind the worker by more than `LATE`, steps are passed over for the newest.
        """
        self._waiting += self._worker.poll()
        count = self._takeWaiting() if self._waiting else 0
        if self.run is not None and self.run.isRunning:
            self.run.elapsed = time.monotonic() - self._began
        return count

    def wait(self, timeout: float | None = None) -> None:
        """Let Slicer live until the worker has nothing left to do.

        Raises:
            RegistrationError: it took longer than `timeout` seconds.
        """
        began = time.monotonic()
        while self.busy or self._waiting:
            if self.pump() == 0:
                time.sleep(PAUSE)
            slicer.app.processEvents()
            if timeout is not None and time.monotonic() - began > timeout:
                raise RegistrationError(f"The registration took longer than {timeout:g} s.")

    def _showNewest(self) -> None:
        """Show the newest step that was taken; nothing where there is no scene to show it in."""
        self._newest = None

    @paused()
    def _takeWaiting(self) -> int:
        began, count = time.monotonic(), 0
        while self._waiting and time.monotonic() - began < LONGEST_PUMP:
            self._take(self._waiting.pop(0))
            count += 1
            late = bool(self._waiting) and began - self._waiting[0].get("heard", began) > LATE
            if self._newest is not None and not late:
                break
        self._showNewest()
        return count

    def _take(self, event: Event) -> None:
        kind, command = event["event"], event.get("command")
        if kind == "ended":
            served, self._served = self._served, {}
            for each in served.values():
                each.take(event)
            self._lose()
            self._tell("worker", state="ended", text=event["text"])
        elif command in ("hello", "methods") and kind == "cancelled":  # with whatever it waited for
            self._worker.send(command)
        elif command in ("hello", "methods") and kind == "done":
            if command == "hello":
                self.devices = event["devices"]
            else:
                self.methods, self.presets = event["methods"], event["presets"]
            if self.devices and self.methods:
                self._tell("worker", state="ready", text="")
        elif kind == "log" and event.get("id") not in self._served:
            self._tell("log", text=event["text"])
        else:
            served = self._served.get(event.get("id"))
            if command is not None:
                self._served.pop(event.get("id"), None)
            if served is not None:
                served.take(event)

    def _request(self, take: Callable[[Event], None], command: str, run: Run | None = None, **fields: Any) -> None:
        self.startWorker()
        self._served[self._worker.send(command, **fields)] = _Served(take, run, command)

    def _ask(self, command: str, **fields: Any) -> Event:
        """Send a request and wait for its end. Raises RegistrationError where it fails."""
        if self._stopped:
            raise RegistrationError(STOPPED)
        ends: list[Event] = []
        self._request(
            lambda event: ends.append(event) if event["event"] in (*ENDS, "ended") else None, command, None, **fields
        )
        self.wait()
        if not ends or ends[-1]["event"] != "done":
            text = ends[-1].get("text") if ends else None
            raise RegistrationError(text or STOPPED)
        return ends[-1]

    def _open(self) -> list[_Served]:
        """Requests that have not ended, or whose end was told and waits to be taken."""
        pending = self._worker.pending
        return [served for number, served in self._served.items() if self._waiting or number in pending]

    def _isAsked(self, run: Run, *commands: str) -> bool:
        """Whether the worker has yet to answer a request for a run."""
        return any(each.run is run and (not commands or each.command in commands) for each in self._open())

    def _hear(self) -> None:
        """Learn that the worker has died, where nobody has pumped since."""
        if not self._worker.isRunning:
            self.pump()

    def _checkIdle(self) -> None:
        self._hear()
        if self.busy:
            raise RegistrationError("A registration is under way: stop it first.")

    def _lose(self) -> None:
        """The process has gone that held a run."""
        if self._held is not None:
            self._held.canContinue = False
        self._held = None

    def _tell(self, event: str, **fields: Any) -> None:
        for listener in list(self.listeners):
            listener({"event": event, **fields})

    def _newFolder(self) -> Path:
        if self._folder is None:
            temporary = getattr(slicer.app, "temporaryPath", None) or tempfile.gettempdir()
            _sweep(Path(temporary))
            self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=temporary))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)  # also without a shutdown
        self._count += 1
        folder = self._folder / f"run-{self._count}"
        folder.mkdir(parents=True)  # somebody may have tidied up
        return folder


@dataclass(frozen=True)
class _Served:
    """Who takes the events of a request, and the run that it is for."""

    take: Callable[[Event], None]
    run: Run | None
    command: str


def _sweep(temporary: Path) -> None:
    """Delete what earlier sessions left: Windows deletes no file that is mapped into memory when Slicer closes."""
    for folder in temporary.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > OLD:
                shutil.rmtree(folder, ignore_errors=True)
