"""Lines of JSON that a thread of its own writes, so that nobody who sends one waits for a reader."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import IO, Any

from RecurrentRegistrationLib.io.documents import to_json


class Answers:
    """Sends events in order; where nobody reads, they wait here and the sender goes on.

    Args:
        stream: where lines go; flushed after each.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def send(self, request: Any, event: str, **fields: Any) -> None:
        """Send an event of a request."""
        self._lines.put(to_json({"id": request, "event": event, **fields}) + "\n")

    def close(self) -> None:
        """Wait until all is written."""
        self._lines.put(None)
        self._writer.join()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: standard input is about to close
            while (line := self._lines.get()) is not None:
                self._stream.write(line)
                self._stream.flush()
