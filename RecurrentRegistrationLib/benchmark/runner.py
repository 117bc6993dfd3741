"""Runs what a manifest asks for and has not got yet: one process for each registration, one row for each result."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

import RecurrentRegistrationLib
from RecurrentRegistrationLib.benchmark.ledger import Ledger
from RecurrentRegistrationLib.benchmark.manifest import Contender, Manifest, Pair
from RecurrentRegistrationLib.benchmark.measures import MEASURES
from RecurrentRegistrationLib.benchmark.programs import Programs
from RecurrentRegistrationLib.benchmark.scoring import Judge, read_result
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io.documents import to_json
from RecurrentRegistrationLib.io.files import safe_name

NOT_FOR_THIS_PAIR = 77  # exit status of an adapter that declines
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
MEASURER = Path(__file__).with_name("measure.py")
MOTION = "motion.npy"
UNFINISHED = ".unfinished-"  # how folders of runs begin that were not finished


@dataclass(frozen=True)
class Job:
    """One registration to make.

    Attributes:
        pair: what is registered.
        contender: by which method.
        repeat: counts from 0.
        key: changes with anything that could change the result.
    """

    pair: Pair
    contender: Contender
    repeat: int
    key: str

    @property
    def folder(self) -> Path:
        """Where its files go, below the manifest's results."""
        suffix = f"#{self.repeat + 1}" if self.repeat else ""
        return Path("runs", safe_name(self.pair.name), safe_name(self.contender.label) + suffix)


@dataclass(frozen=True)
class Benchmark:
    """A manifest, where its programs are and where its results go.

    Attributes:
        manifest: pairs and methods.
        programs: how the methods are called.
        folder: of the results; holds `rows.csv` and `runs/PAIR/METHOD`.
        discard: whether displacement fields are deleted once they are judged.
    """

    manifest: Manifest
    programs: Programs
    folder: Path
    discard: bool = False

    @property
    def ledger(self) -> Ledger:
        """The rows."""
        return Ledger(self.folder / "rows.csv")

    def jobs(self) -> Iterator[Job]:
        """All registrations of the manifest, pair by pair."""
        for contender in self.manifest.contenders:
            self.programs.check(contender, self.manifest.labels)
        for pair in self.manifest.pairs:
            for contender in self.manifest.contenders:
                for repeat in range(self.manifest.repeats):
                    yield Job(pair, contender, repeat, self._key(pair, contender, repeat))

    def _key(self, pair: Pair, contender: Contender, repeat: int) -> str:
        defined = [dataclasses.asdict(pair), contender.program, contender.command, contender.options]
        settings = [self.manifest.threads, self.manifest.operations, self.manifest.uncertainty, repeat]
        settings += ["motion"] if self.manifest.motion else []
        text = json.dumps([*defined, *settings], default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def plan(self) -> tuple[int, int]:
        """How many registrations there are, and how many of them are still to be made."""
        done = self.ledger.done()
        keys = [job.key for job in self.jobs()]
        return len(keys), sum(key not in done for key in keys)

    def run(self) -> Iterator[dict[str, Any]]:
        """Make what is missing, and yield each row once it is written.

        Raises:
            InputError: another process works on the same folder, or a method cannot be run at all.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            for left in (self.folder / "runs").glob(f"*/{UNFINISHED}*"):
                shutil.rmtree(left, ignore_errors=True)
            ledger = self.ledger
            done = ledger.done()
            for job in self.jobs():
                if job.key not in done:
                    row = self._made(job)
                    ledger.append(row)
                    done.add(job.key)
                    yield row

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"Another benchmark works in {self.folder}: wait for it or choose another folder."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _made(self, job: Job) -> dict[str, Any]:
        """Register and judge in a folder that takes its name only when it is complete."""
        final = self.folder / job.folder
        folder = final.with_name(f"{UNFINISHED}{secrets.token_hex(4)}")
        folder.mkdir(parents=True)
        try:
            result = {"pair": job.pair.name, "method": job.contender.label, "repeat": job.repeat}
            result |= self._registered(job, folder)
            if result["status"] == "done":
                result |= self._judged(job.pair, folder)
            (folder / "result.json").write_text(to_json(result, indent=1), encoding="utf-8")
            shutil.rmtree(final, ignore_errors=True)
            folder.rename(final)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return {"key": job.key, **{n: v for n, v in result.items() if n not in ("structures", "landmarks_mm")}}

    def _registered(self, job: Job, folder: Path) -> dict[str, Any]:
        """What one registration cost, and how it ended."""
        manifest = self.manifest
        command = self.programs.command(
            job.contender, job.pair, folder.absolute(), manifest=manifest, repeat=job.repeat
        )
        try:
            status = run_measured(command, folder, threads=manifest.threads, timeout=manifest.timeout)
        except subprocess.TimeoutExpired:
            return {"status": "failed", "message": f"not finished after {manifest.timeout:g} s"}
        log = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip()
        cost = read_numbers(folder / "cost.json") | read_numbers(folder / "marked.json")
        if status == NOT_FOR_THIS_PAIR:
            return {"status": "declined", "message": log}
        if status:
            return {
                "status": "failed",
                "message": f"exit status {status}: {log.splitlines()[-1] if log else 'no output'}",
            }
        report = read_numbers(folder / "report.json")
        return {"status": "done", **cost, **report, **_steps(folder)}

    def _judged(self, pair: Pair, folder: Path) -> dict[str, Any]:
        transform = read_result(folder)
        if transform is None:
            return {"status": "failed", "message": "the method left neither displacement.nrrd nor transform.h5"}
        judge = Judge(pair)
        scores = judge.score(transform)
        if self.manifest.motion and judge.labels is not None:
            np.save(folder / MOTION, judge.motion(transform).density.astype(np.float32))
        if self.discard:
            for name in ("displacement.nrrd", "transform.h5"):
                (folder / name).unlink(missing_ok=True)
        return scores


def run_measured(command: list[str], folder: Path, *, threads: int, timeout: float | None) -> int:
    """Run a command under `measure.py`, its output in `log.txt`; return its exit status.

    Raises:
        subprocess.TimeoutExpired: it took too long and was ended, with all that it had started.
    """
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    root = str(Path(RecurrentRegistrationLib.__file__).parents[1])  # runs from a checkout that is not installed
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    line = [sys.executable, str(MEASURER), str(folder / "cost.json"), *command]
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            line, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            return process.wait(timeout)
        finally:
            if process.poll() is None:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_numbers(path: Path) -> dict[str, float]:
    """The measures among the entries of a JSON file; none where there is no such file."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: value for name, value in content.items() if name in MEASURES and isinstance(value, (int, float))}


def _steps(folder: Path) -> dict[str, int]:
    report = folder / "report.json"
    return {"steps": len(json.loads(report.read_text(encoding="utf-8"))["steps"])} if report.exists() else {}
