"""The worker process, driven by lines of JSON as the Slicer module drives it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Grid, Volume

ENDS = ("done", "cancelled", "error")
OPTIONS = {"linear": "none", "initial": "none", "steps": 12, "device": "cpu"}


class Client:
    """The other end of a worker's pipes."""

    def __init__(self, *line: str) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, *(line or ("-m", "RecurrentRegistrationLib", "worker"))]
        self.process = subprocess.Popen(command, encoding="utf-8", env=environment, **pipes)
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.errors: list[str] = []
        readers = (self._read, lambda: self.errors.extend(self.process.stderr))
        self._threads = [threading.Thread(target=reader, daemon=True) for reader in readers]
        for thread in self._threads:
            thread.start()
        self._number = 0

    def _read(self) -> None:
        for line in self.process.stdout:
            self._events.put(json.loads(line))  # a line that is no JSON fails the test by its silence

    def send(self, command: str, **fields: Any) -> int:
        """Send a request and return its id."""
        self._number += 1
        self.process.stdin.write(json.dumps({"id": self._number, "command": command, **fields}) + "\n")
        self.process.stdin.flush()
        return self._number

    def next(self, timeout: float = 120) -> dict[str, Any]:
        """The next event."""
        return self._events.get(timeout=timeout)

    def events(self, number: int) -> list[dict[str, Any]]:
        """Everything until the end of a request."""
        events = [self.next()]
        while not (events[-1]["id"] == number and events[-1]["event"] in ENDS):
            events.append(self.next())
        return events

    def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        """Send a request and return its end."""
        return self.events(self.send(command, **fields))[-1]

    def close(self) -> int:
        """Close the worker's standard input and return its exit status."""
        self.process.stdin.close()
        return self.end()

    def end(self) -> int:
        """Wait until the process has ended; its exit status."""
        status = self.process.wait(timeout=60)
        for thread in self._threads:
            thread.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()
        return status


@pytest.fixture(scope="module")
def worker() -> Iterator[Client]:
    """One process for all tests of this file: it stays usable whatever they do to it."""
    client = Client()
    yield client
    assert client.close() == 0
    assert "Traceback" not in "".join(client.errors)


@pytest.fixture
def pair(images: Path) -> dict[str, str]:
    """The two images of a request."""
    return {"fixed": str(images / "fixed2d.nrrd"), "moving": str(images / "moving2d.nrrd")}


def steps(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The step events."""
    return [event for event in events if event["event"] == "step"]


def test_hello_and_methods(worker):
    hello = worker.ask("hello")
    assert hello["protocol"] == 1
    assert hello["devices"][0]["name"] == "cpu"
    methods = worker.ask("methods")
    assert "refine" in [card["name"] for card in methods["methods"]]
    assert "ct" in methods["presets"]


def test_memory_is_estimated(worker, pair):
    assert worker.ask("memory", **pair, options=OPTIONS)["bytes"] > 1e8


def test_every_step_is_told(worker, pair, tmp_path):
    events = worker.events(worker.send("register", **pair, options=OPTIONS, display={"folder": str(tmp_path)}))
    assert events[-1] == {"id": events[-1]["id"], "event": "done", "steps": 12}
    assert [event["name"] for event in events if event["event"] == "phase"] == ["read", "prepare", "deform"]
    told = steps(events)
    assert [step["index"] for step in told] == list(range(1, 13))
    assert all(step["planned"] == 12 and step["kept"] for step in told)
    assert all(step["similarity"] > 0 and step["mean_update_mm"] > 0 and step["seconds"] >= 0 for step in told)
    assert [step["folding"] for step in told] == [0] * 12


def test_displays_are_the_whole_map_in_millimetres(worker, pair, tmp_path):
    display = {"folder": str(tmp_path / "display"), "longest": 12, "type": "float32"}
    told = steps(worker.events(worker.send("register", **pair, options=OPTIONS, display=display)))
    worker.ask("result", folder=str(tmp_path / "out"), step=7)
    transform = Transform.read(tmp_path / "out" / "transform.h5")
    shown = told[6]["display"]
    grid = Grid(*(tuple(shown[name]) for name in ("size", "spacing", "origin", "direction")))
    fixed = Volume.read(pair["fixed"]).grid
    assert np.allclose(sorted(map(tuple, grid.corners())), sorted(map(tuple, fixed.corners())))
    array = np.load(shown["path"])
    assert array.dtype == np.float32
    assert array.shape == (1, *grid.shape, 3)  # a flat image is one slice
    points = grid.physical(np.argwhere(np.ones(grid.size)))
    found = array[0].transpose(1, 0, 2).reshape(-1, 3)
    assert np.allclose(found[:, :2], transform.map_points(points) - points, atol=0.02)  # kept in half precision
    assert (found[:, 2] == 0).all()


def test_continue_refine_accept_and_result(worker, pair, tmp_path):
    worker.ask("register", **pair, options=OPTIONS)
    more = worker.events(worker.send("continue", count=3))
    assert [(step["index"], step["planned"]) for step in steps(more)] == [(13, 15), (14, 15), (15, 15)]
    refined = worker.events(worker.send("refine", count=2))
    assert [step["index"] for step in steps(refined)] == [16, 17]
    assert worker.ask("accept", step=10)["steps"] == 10
    assert "not at hand" in worker.ask("result", folder=str(tmp_path / "late"), step=16)["text"]
    again = worker.events(worker.send("continue", count=1))
    assert [step["index"] for step in steps(again)] == [11]
    result = worker.ask("result", folder=str(tmp_path / "out"), save_steps=True)
    assert sorted(Path(file).name for file in result["files"]) == sorted(os.listdir(tmp_path / "out"))
    assert "steps.seq.nrrd" in os.listdir(tmp_path / "out")
    assert len(result["report"]["steps"]) == 11
    assert not (tmp_path / "late").exists()


def test_a_guide_comes_between_two_steps_and_is_corrected_at_once(worker, pair, tmp_path):
    told = steps(worker.events(worker.send("register", **pair, options=OPTIONS)))
    assert "landmark_worst_mm" not in told[-1]
    fixed = [2.0, -3.0]
    (proposed,) = worker.ask("map", points=[fixed])["points"]
    wanted = [proposed[0] + 2, proposed[1]]
    guide = {"landmarks": [{"name": "vein", "fixed": fixed, "moving": wanted}]}
    (now,) = worker.ask("guide", guide=guide)["agreement"]["landmarks"]
    assert now["name"] == "vein"
    assert now["after_mm"] == pytest.approx(2, abs=0.01)
    (step,) = steps(worker.events(worker.send("correct", display={"folder": str(tmp_path)})))
    assert (step["index"], step["phase"], step["kept"]) == (13, "correct", True)
    assert step["landmarks_mm"]["vein"] == step["landmark_worst_mm"] < 0.4
    assert step["display"]["path"]
    further = steps(worker.events(worker.send("continue", count=2)))
    assert further[-1]["landmark_worst_mm"] < 1
    worker.ask("accept", step=12)
    assert worker.ask("map", points=[fixed])["points"][0] == pytest.approx(proposed, abs=0.01)
    wrong = worker.ask("guide", guide={"landmarks": [{"fixed": [500, 0], "moving": [0, 0]}]})
    assert (wrong["event"], wrong["kind"]) == ("error", "input")
    assert "outside the fixed image" in wrong["text"]
    assert worker.ask("guide", guide={"landmark": []})["text"].startswith("A guide has no 'landmark'")
    assert worker.ask("guide")["agreement"] == {}
    assert worker.ask("correct")["kind"] == "input"


def test_segments_of_one_name_become_a_pair(worker, pair, images, tmp_path):
    labels = Volume.read(images / "labels2d.nrrd")
    for side, value in (("fixed", 1), ("moving", 2)):
        image = Volume((labels.array > 0).astype(np.uint8) * value, labels.grid).to_sitk()
        for key, text in (("ID", "Segment_1"), ("Name", "Liver"), ("LabelValue", str(value)), ("Layer", "0")):
            image.SetMetaData(f"Segment0_{key}", text)
        sitk.WriteImage(image, str(tmp_path / f"{side}.seg.nrrd"))
    guide = {f"{side}_labels": str(tmp_path / f"{side}.seg.nrrd") for side in ("fixed", "moving")}
    told = steps(worker.events(worker.send("register", **pair, options=OPTIONS, guide=guide)))
    assert list(told[-1]["labels_dice"]) == ["Liver"]
    assert told[-1]["label_overlap"] > 0.9


def test_the_inverse_goes_back(worker, pair, tmp_path):
    worker.ask("register", **pair, options=OPTIONS)
    worker.ask("result", folder=str(tmp_path / "out"), inverse=True)
    there, back = (Transform.read(tmp_path / "out" / name) for name in ("transform.h5", "inverse.h5"))
    points = Volume.read(pair["fixed"]).grid.physical(np.argwhere(np.ones((10, 8))) + 8)
    assert np.abs(there.map_points(points) - points).max() > 1
    assert np.allclose(back.map_points(there.map_points(points)), points, atol=0.15)  # a tenth of a voxel


def test_continuing_is_the_same_as_not_having_stopped(worker, pair, tmp_path):
    whole = worker.ask("register", **pair, options=OPTIONS)
    worker.ask("result", folder=str(tmp_path / "whole"))
    cancelled = worker.ask("register", **pair, options=OPTIONS)
    worker.ask("accept", step=9)
    worker.ask("continue", count=3)
    worker.ask("result", folder=str(tmp_path / "parts"))
    assert whole["steps"] == cancelled["steps"] == 12
    first, second = (Volume.read(tmp_path / name / "warped.nrrd").array for name in ("whole", "parts"))
    assert np.allclose(first, second, atol=1e-4)


def test_cancel_is_prompt_and_keeps_the_steps(worker, pair, tmp_path):
    number = worker.send("register", **pair, options=OPTIONS | {"steps": 100_000})
    waiting = worker.send("hello")
    while worker.next()["event"] != "step":
        pass
    began = time.perf_counter()
    worker.send("cancel")
    ends = {}
    while len(ends) < 3:
        event = worker.next()
        if event["event"] in ENDS:
            ends[event["id"]] = event["event"]
    assert time.perf_counter() - began < 1
    assert ends == {number: "cancelled", waiting: "cancelled", waiting + 1: "done"}
    made = len(worker.ask("result", folder=str(tmp_path / "out"))["report"]["steps"])
    assert worker.ask("continue", count=2)["steps"] == made + 2


@pytest.mark.parametrize("place", ["kept_steps.History.offer", "recorder.Recorder.made"])
def test_a_step_that_was_not_told_does_not_count(place, pair, tmp_path):
    code = f"""
from RecurrentRegistrationLib.pipeline import kept_steps, recorder
from RecurrentRegistrationLib.worker import process
whole, left = {place}, [4]
def interrupted(*given, **named):
    made = whole(*given, **named)
    left[0] -= 1
    if left[0] == 0:
        raise KeyboardInterrupt
    return made
{place} = interrupted
process.serve()
"""
    client = Client("-c", code)
    events = client.events(client.send("register", **pair, options=OPTIONS))
    assert events[-1]["event"] == "cancelled"
    assert [step["index"] for step in steps(events)] == [1, 2, 3]
    assert len(client.ask("result", folder=str(tmp_path / "out"))["report"]["steps"]) == 3
    assert [step["index"] for step in steps(client.events(client.send("continue", count=2)))] == [4, 5]
    assert client.close() == 0


def test_cancel_during_the_alignment(worker, images):
    pair = {"fixed": str(images / "fixed.nrrd"), "moving": str(images / "moving.nrrd")}
    number = worker.send("register", **pair, options={"device": "cpu"})
    while worker.next() != {"id": number, "event": "phase", "name": "prepare"}:
        pass
    began = time.perf_counter()
    worker.send("cancel")
    assert worker.events(number)[-1]["event"] == "cancelled"
    assert time.perf_counter() - began < 1


def test_cancel_of_nothing_is_done(worker):
    assert worker.ask("cancel")["event"] == "done"


def test_what_is_wrong_is_said_and_the_process_lives_on(worker, pair, tmp_path):
    worker.process.stdin.write("this is no JSON\n[1]\n")
    worker.process.stdin.flush()
    assert [worker.next()["event"] for _ in range(2)] == ["error", "error"]
    for command, fields, words in (
        ("dance", {}, "There is no command"),
        ("register", {"fixed": pair["fixed"]}, "missing a required argument: 'moving'"),
        ("register", {**pair, "speed": 3}, "unexpected"),
        ("register", {**pair, "options": {"colour": "red"}}, "There is no option 'colour'"),
        ("register", {**pair, "options": {"method": "magic"}}, "There is no method 'magic'"),
        ("register", {**pair, "moving": str(tmp_path / "absent.nrrd")}, "no file"),
        ("register", {**pair, "options": OPTIONS, "display": {}}, "display needs a folder"),
        ("accept", {"step": 3}, "not at hand"),
        ("result", {"folder": str(tmp_path / "out"), "step": 3}, "not at hand"),
    ):
        end = worker.ask(command, **fields)
        assert (end["event"], end["kind"]) == ("error", "input"), end
        assert words in end["text"]
    worker.ask("forget")
    for command, fields in (("continue", {"count": 1}), ("refine", {"count": 1}), ("result", {"folder": "out"})):
        assert "register first" in worker.ask(command, **fields)["text"]
    assert worker.ask("hello")["event"] == "done"
    assert not list(tmp_path.iterdir())


def test_the_same_image_twice_is_noted(worker, pair):
    events = worker.events(worker.send("register", fixed=pair["fixed"], moving=pair["fixed"], options=OPTIONS))
    assert any(event["event"] == "note" and "are the same" in event["text"] for event in events)


@pytest.mark.skipif(sys.platform == "win32", reason="calls the C library's sleep")
def test_a_call_that_cannot_be_interrupted():
    code = """
import ctypes
from RecurrentRegistrationLib.worker import session, process
def native(self):
    print("a library prints")
    ctypes.CDLL(None).sleep(3)
    return {}
session.COMMANDS["native"] = native
process.serve()
"""
    client = Client("-c", code)
    client.ask("hello")
    number = client.send("native")
    time.sleep(0.2)
    began = time.perf_counter()
    client.send("cancel")
    assert client.events(number)[-1] == {"id": number, "event": "cancelled", "busy": True}
    assert time.perf_counter() - began < 1
    assert client.next() == {"id": number, "event": "idle"}
    assert client.ask("hello")["event"] == "done"
    client.send("native")
    time.sleep(0.2)
    began = time.perf_counter()
    assert client.close() == 0
    assert time.perf_counter() - began < 2.9
    assert "a library prints\n" in client.errors


@pytest.mark.parametrize("last", ["", '{"command": "cancel"}\n'])
def test_it_ends_although_nobody_reads(last, pair):
    """More steps than a pipe holds; whoever started the process is stuck, or has forgotten it."""
    line = [sys.executable, "-m", "RecurrentRegistrationLib", "worker"]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as process:
        register = {"id": 1, "command": "register", **pair, "options": OPTIONS | {"steps": 100_000}}
        process.stdin.write(json.dumps(register) + "\n" + "[]\n" * 2000)  # each of these is answered
        process.stdin.flush()
        process.stdout.readline()  # it has begun
        time.sleep(0.5)
        began = time.perf_counter()
        process.stdin.write(last)
        process.stdin.close()
        try:
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
        assert time.perf_counter() - began < 4


def test_a_kernel_is_compiled_to_its_end():
    """Interrupted in the middle, numba prints tracebacks and may stay half-made; cancel waits for it."""
    pytest.importorskip("numba")
    code = """
import time
import numba
from numba.core import event
from RecurrentRegistrationLib.worker import session, process

@numba.njit
def kernel(x):
    return x + 1

class Slow(event.Listener):
    def on_start(self, event):
        if not told:
            told.append(True)
            tell("log", text="compiling")
            for _ in range(30):
                time.sleep(0.01)

    def on_end(self, event):
        pass

def compiled(self):
    global tell
    tell = self._tell
    with event.install_listener("numba:compile", Slow()):
        kernel(1)
    while True:
        time.sleep(0.01)

told = []
session.COMMANDS["compile"] = compiled
session.COMMANDS["ask"] = lambda self: {"signatures": len(kernel.signatures)}
process.serve()
"""
    client = Client("-c", code)
    number = client.send("compile")
    assert client.next() == {"id": number, "event": "log", "text": "compiling"}
    client.send("cancel")
    assert client.events(number)[-1]["event"] == "cancelled"
    assert client.ask("ask")["signatures"] == 1
    assert client.close() == 0
    assert "Traceback" not in "".join(client.errors)


def test_a_crash_is_one_sentence():
    code = """
from RecurrentRegistrationLib.worker import session, process
def broken(self):
    raise KeyError("some\\nthing")
session.COMMANDS["broken"] = broken
process.serve()
"""
    client = Client("-c", code)
    end = client.ask("broken")
    assert (end["kind"], "\n" in end["text"], "KeyError" in end["text"]) == ("internal", False, True)
    assert client.ask("hello")["event"] == "done"
    client.send("shutdown")
    assert client.end() == 0
    assert any("Traceback" in line for line in client.errors)
