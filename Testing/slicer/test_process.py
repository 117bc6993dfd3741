"""The worker's client, mostly against a few lines of Python in the worker's place."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("slicer", reason="3D Slicer's core is not installed: pip install slicer-core")

from RecurrentRegistrationSlicer import process
from RecurrentRegistrationSlicer.process import WorkerProcess, libraryFolder

FAKE = """
import json, os, sys, threading, time
def tell(number, event, **fields):
    print(json.dumps({"id": number, "event": event, **fields}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    number, command = request["id"], request["command"]
    if command == "hello":
        tell(number, "done", process=os.getpid())
    elif command == "work":
        tell(number, "step", index=1)
        tell(number, "done")
    elif command == "crash":
        print("Traceback: out of ideas", file=sys.stderr, flush=True)
        os._exit(3)
    elif command == "lack":
        print("ModuleNotFoundError: No module named 'torch'", file=sys.stderr, flush=True)
        os._exit(1)
    elif command == "babble":
        print("this is no JSON", flush=True)
        print("[1]", flush=True)
        tell(number, "done")
    elif command == "hang":
        time.sleep(60)
"""


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    """A process that understands a few commands and cannot be cancelled."""
    worker = WorkerProcess([sys.executable, "-c", textwrap.dedent(FAKE)])
    yield worker
    worker.close()


def until(worker: WorkerProcess, name: str, timeout: float = 30) -> list[dict[str, Any]]:
    """All events up to one that is the end of a command, or is named so."""
    events: list[dict[str, Any]] = []
    began = time.monotonic()
    while not any(name in (event["event"], event.get("command")) for event in events):
        events += worker.poll()
        time.sleep(0.005)
        assert time.monotonic() - began < timeout, events
    return events


def exists(number: int) -> bool:
    """Whether a process is there."""
    try:
        os.kill(number, 0)
    except OSError:
        return False
    return True


def test_events_come_with_the_command_that_they_end(worker):
    number = worker.send("work")
    assert worker.isRunning
    assert list(worker.pending.values()) == ["hello", "work"]
    events = until(worker, "work")
    assert [(event["event"], event["id"]) for event in events[1:]] == [("step", number), ("done", number)]
    assert worker.pending == {}


def test_what_is_no_json_is_passed_over(worker):
    worker.send("babble")
    assert until(worker, "babble")[-1]["event"] == "done"


def test_a_crash_is_told_and_the_next_request_starts_another_process(worker):
    worker.send("crash")
    text = until(worker, "ended")[-1]["text"]
    assert "out of ideas" in text
    assert "finished steps are kept" in text
    assert not worker.isRunning
    assert worker.pending == {}
    worker.send("work")
    assert until(worker, "work")[-1]["event"] == "done"


def test_a_missing_package_is_named(worker):
    worker.send("lack")
    assert "No module named 'torch'" in until(worker, "ended")[-1]["text"]


def test_a_process_killed_from_outside_is_told(worker):
    worker.send("work")
    number = until(worker, "hello")[0]["process"]
    os.kill(number, 9)
    assert "ended from outside" in until(worker, "ended")[-1]["text"]


def test_what_does_not_obey_is_killed(worker, monkeypatch):
    monkeypatch.setattr(process, "PATIENCE", 0.2)
    number = until_greeted(worker)
    worker.send("hang")
    worker.cancel()
    assert "did not answer" in until(worker, "ended")[-1]["text"]
    assert not exists(number)


def test_closing_ends_even_what_hangs(worker, monkeypatch):
    monkeypatch.setattr(process, "PATIENCE", 0.2)
    number = until_greeted(worker)
    worker.send("hang")
    time.sleep(0.1)
    worker.close()
    assert not exists(number)
    assert worker.poll() == []


def until_greeted(worker: WorkerProcess) -> int:
    """Start it; its number."""
    worker.start()
    return until(worker, "hello")[0]["process"]


def test_a_program_that_is_not_there_is_one_sentence():
    with pytest.raises(process.RegistrationError, match="cannot be started"):
        WorkerProcess(["/no/such/program"]).start()


def test_the_library_is_found_beside_the_module():
    assert (libraryFolder() / "RecurrentRegistrationLib" / "__init__.py").exists()
