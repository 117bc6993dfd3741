"""Ctrl-C at any moment: exit status 130, and the folder of results is complete or not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from RecurrentRegistrationLib.cli import run
from RecurrentRegistrationLib.transform import Transform

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends Ctrl-C the way Unix does")

COMPLETE = {"displacement.nrrd", "jacobian.nrrd", "report.json", "report.png", "transform.h5", "warped.nrrd"}


def started(images: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    """A registration that takes long, in a process of its own."""
    line = [sys.executable, "-m", "RecurrentRegistrationLib", "register"]
    line += [str(images / "fixed2d.nrrd"), str(images / "moving2d.nrrd"), "-o", str(output / "out"), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    # Whoever started the tests in the background may have had these signals ignored, which children inherit.
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    heard = {each: signal.signal(each, handler) for each, handler in usual.items()}
    try:
        return subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=environment)
    finally:
        for each, handler in heard.items():
            signal.signal(each, handler)


def wait_for(process: subprocess.Popen[str], phase: str) -> None:
    """Read what the process says until it is in a phase."""
    assert process.stderr is not None
    for said in process.stderr:
        if said.startswith(phase):
            return
    pytest.fail(f"the process ended before '{phase}'")


def interrupted(process: subprocess.Popen[str], by: int = signal.SIGINT) -> tuple[int, str, float]:
    """Press Ctrl-C: exit status, what was said, and seconds until the end."""
    began = time.perf_counter()
    process.send_signal(by)
    _, said = process.communicate(timeout=120)
    return process.returncode, said, time.perf_counter() - began


@pytest.mark.parametrize("seconds", [0.3, 1.5])
def test_while_it_starts(seconds, images, tmp_path):
    process = started(images, tmp_path, "--linear", "none", "--steps", "100000")
    time.sleep(seconds)
    status, said, _ = interrupted(process)
    if seconds > 0.5 or status != -signal.SIGINT:  # Python itself may not have begun yet
        assert status == 130, said
    assert "Traceback" not in said or status == -signal.SIGINT
    assert {file.name for file in tmp_path.glob("out/*")} in (set(), COMPLETE)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
def test_in_the_deformation_the_finished_steps_are_kept(by, images, tmp_path):
    process = started(images, tmp_path, "--linear", "none", "--initial", "none", "--steps", "100000")
    wait_for(process, "deform")
    time.sleep(0.5)
    status, said, _ = interrupted(process, by)
    assert status == 130, said
    assert "the last finished step is written" in said
    assert {file.name for file in (tmp_path / "out").iterdir()} == COMPLETE
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert 0 < len(report["steps"]) < 100000
    assert Transform.read(tmp_path / "out" / "transform.h5").dimension == 2
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_while_it_writes_all_of_it_is_written(images, tmp_path):
    process = started(images, tmp_path, "--linear", "none", "--initial", "none", "--steps", "2")
    wait_for(process, "write")
    status, said, _ = interrupted(process, signal.SIGTERM)
    assert status in (0, 130), said  # the second where all was written already
    assert {file.name for file in (tmp_path / "out").iterdir()} == COMPLETE
    assert not list(tmp_path.glob(".*"))


def test_asked_twice_while_it_writes_it_ends(images, tmp_path):
    process = started(images, tmp_path, "--linear", "none", "--initial", "none", "--steps", "2")
    wait_for(process, "write")
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    status, said, _ = interrupted(process)
    assert status in (0, 130), said
    assert {file.name for file in tmp_path.glob("out/*")} in (set(), COMPLETE)
    assert not list(tmp_path.glob(".*"))


def test_what_a_killed_run_left_is_cleared_by_the_next(images, tmp_path):
    process = started(images, tmp_path, "--linear", "none", "--initial", "none", "--steps", "100000")
    wait_for(process, "deform")
    process.kill()
    process.communicate()
    assert [file.name.startswith(".out.") for file in tmp_path.iterdir()] == [True]
    (tmp_path / ".output.0123abcd").mkdir()  # of another
    line = ["register", *(str(images / f"{name}2d.nrrd") for name in ("fixed", "moving")), "-o", str(tmp_path / "out")]
    assert run([*line, "--linear", "none", "--initial", "none", "--steps", "2", "-q"]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"out", ".output.0123abcd"}
