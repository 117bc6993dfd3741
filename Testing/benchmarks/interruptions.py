"""Interrupt `register`, `series`, `benchmark` and `train` at random moments: what is left, what a later run repairs.

    python Testing/benchmarks/interruptions.py [COUNT [SEED]]

Every command runs once undisturbed on small made images, which tells how long it takes and what it leaves. Then it is
interrupted COUNT times (default 40) by SIGINT, SIGTERM, SIGHUP and SIGKILL in turn, at a moment drawn evenly from that
time, and run again without interruption. A row is right where nothing half-written lies under a final name, nothing but
SIGKILL leaves temporary files, no process goes on, and the later run ends well and leaves what an undisturbed one does.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import yaml

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
ENDED = (0, 130)


def made(folder: Path) -> dict[str, list[str]]:
    """Images and configurations in a folder, and each command's line without its output."""
    noise = sitk.GetImageFromArray(np.random.default_rng(0).standard_normal((40, 44)))
    fixed = sitk.Cast(sitk.SmoothingRecursiveGaussian(noise, 3.0) * 100 + 100, sitk.sitkFloat32)
    frames = [sitk.Resample(fixed, fixed, sitk.TranslationTransform(2, (s, 0.5 * s))) for s in (0.0, 0.6, 1.2, 1.8)]
    sitk.WriteImage(frames[0], str(folder / "fixed.nrrd"))
    sitk.WriteImage(frames[2], str(folder / "moving.nrrd"))
    sitk.WriteImage(sitk.JoinSeries(frames, 0.0, 1.0), str(folder / "cine.nrrd"))
    sitk.WriteImage(
        frames[3], str(folder / "other.nrrd")
    )  # two pairs that differ have figures, whatever the clock says
    pairs = [{"name": name, "fixed": "fixed.nrrd", "moving": f"{name}.nrrd"} for name in ("moving", "other")]
    methods = {"demons": {"method": "demons", "steps": 20}}
    (folder / "manifest.yaml").write_text(yaml.safe_dump({"name": "set", "methods": methods, "pairs": pairs}))
    model = {"method": "voxelmorph", "dimension": 2, "losses": [{"term": "mse"}]}
    data = {"class_path": "SyntheticPairs", "init_args": {"shape": [32, 32], "workers": 0}}
    training = {"model": model, "data": data, "trainer": {"max_steps": 30, "accelerator": "cpu"}}
    (folder / "training.yaml").write_text(yaml.safe_dump(training))
    return {
        "register": ["register", "fixed.nrrd", "moving.nrrd", "--steps", "40"],
        "series": ["series", "cine.nrrd", "--slices", "--steps", "20"],
        "benchmark": ["benchmark", "manifest.yaml"],
        "train": ["train", "training.yaml", "--save-every", "5"],
    }


def begun(line: list[str], output: str, folder: Path) -> subprocess.Popen[str]:
    """A command in a process of its own that hears every signal."""
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "RecurrentRegistrationLib", *line, "-o", output],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, heard)


def files(folder: Path) -> set[str]:
    """Names below a folder, but for those of logs, which hold the time."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if "logs" not in file.parts}


def temporary(names: set[str]) -> set[str]:
    """Names that are not results."""
    return {name for name in names if any(part.startswith(".") and part != ".lock" for part in Path(name).parts)}


def orphans(folder: Path) -> int:
    """Processes that still work in a folder."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found += str(folder) in (process / "cmdline").read_text() or (process / "cwd").resolve() == folder
        except OSError:
            continue
    return found


def interruptions(folder: Path, count: int, seed: int) -> Iterator[tuple[list[str], bool]]:
    """A row of text for each interruption, and whether it is right."""
    draw, lines, usual = random.Random(seed), made(folder), {}
    for name, line in lines.items():
        began = time.perf_counter()
        process = begun(line, f"whole_{name}", folder)
        _, said = process.communicate()
        if process.returncode:
            raise SystemExit(f"{name} fails undisturbed: {said}")
        usual[name] = time.perf_counter() - began, files(folder / f"whole_{name}")
    for number in range(count):
        name, by = list(lines)[number % 4], SIGNALS[number // 4 % 4]
        output, (seconds, whole) = f"{name}_{number}", usual[name]
        moment = draw.uniform(0.05, 0.95) * seconds
        process = begun(lines[name], output, folder)
        time.sleep(moment)
        process.send_signal(by)
        _, said = process.communicate()
        time.sleep(0.5)
        alive = orphans(folder)
        left = files(folder / output) | {file.name for file in folder.glob(f".{output}.*")}
        strange = left - whole
        more = ["--resume"] if name == "train" else []
        again = begun([*lines[name], *more], output, folder)
        _, complaint = again.communicate()
        missing = whole ^ (files(folder / output) | {file.name for file in folder.glob(f".{output}.*")})
        right = not alive and not again.returncode and not missing and "Traceback" not in said
        right &= by == signal.SIGKILL or (process.returncode in (*ENDED, -by) and not temporary(strange))
        row = [name, by.name, f"{moment:.1f} of {seconds:.1f} s", str(process.returncode)]
        row += [f"{len(left & whole)}/{len(whole)}", f"{len(temporary(strange))}", str(alive), str(again.returncode)]
        wrong = " ".join(sorted(missing)[:3]) or complaint.strip()[-80:] if missing or again.returncode else ""
        yield [*row, wrong or ("right" if right else said.strip()[-100:])], right


def main() -> int:
    """Print a table; 1 where a row is wrong."""
    count, seed = [*map(int, sys.argv[1:]), 40, 0][:2] if len(sys.argv) != 2 else (int(sys.argv[1]), 0)
    wrong = 0
    head = ("command", "signal", "moment", "status", "results", "temporary", "alive", "run again", "")
    print("|", " | ".join(head), "|\n|" + "---|" * len(head), flush=True)
    with tempfile.TemporaryDirectory() as place:
        for row, right in interruptions(Path(place), count, seed):
            wrong += not right
            print("|", " | ".join(" ".join(cell.replace("|", "/").split()) for cell in row), "|", flush=True)
    print(f"\n{count - wrong} of {count} right")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
