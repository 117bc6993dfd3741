"""Two versions of this library side by side: accuracy, processor seconds and memory of `register`, pair by pair.

    python Testing/benchmarks/versions.py OLD NEW --data ../shared/data -o rows.csv

OLD and NEW are checkouts. Each pair is registered by one and then the other, each in a process of its own with one
thread and the defaults; this version judges both.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from RecurrentRegistrationLib.metrics.overlap import dice
from RecurrentRegistrationLib.points import read_points
from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Volume


@dataclass(frozen=True)
class Case:
    """A pair, and what judges it: labels, or files of points."""

    name: str
    fixed: Path
    moving: Path
    labels: tuple[Path, Path] | None = None
    points: tuple[Path, Path] | None = None


def cases(data: Path, hippocampi: int) -> Iterator[Case]:
    """The lung, neighbours among the hippocampi, two brains."""
    lung = data / "lung_ct"
    marks = lung / "3DCT_lung_baseline.txt", lung / "3DCT_lung_followup.txt"
    yield Case("lung_ct", lung / "3DCT_lung_baseline.mha", lung / "3DCT_lung_followup.mha", points=marks)
    files = sorted((data / "hippocampus" / "images").glob("*.nii.gz"))
    labels = data / "hippocampus" / "labels"
    for number in range(hippocampi):
        fixed, moving = files[2 * number], files[2 * number + 1]
        yield Case(f"hippocampus {number + 1}", fixed, moving, labels=(labels / fixed.name, labels / moving.name))
    brains = data / "brain_labelled_aomic"
    pair, maps = ([brains / f"sub-000{n}_{kind}.nii.gz" for n in (1, 2)] for kind in ("brain", "aseg"))
    yield Case("brain_labelled_aomic", *pair, labels=(maps[0], maps[1]))


def registered(version: Path, case: Case, folder: Path) -> tuple[float, float]:
    """Register by a version: processor seconds and MiB at most."""
    line = [sys.executable, "-m", "RecurrentRegistrationLib", "register", case.fixed, case.moving, "-o", folder, "-q"]
    environment = os.environ | {"PYTHONPATH": str(version), "OMP_NUM_THREADS": "1"}
    process = os.spawnve(os.P_NOWAIT, sys.executable, list(map(str, line)), environment)
    _, status, used = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{case.name}: {version} ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def accuracy(case: Case, transform: Transform) -> float:
    """Mean distance of the points in millimetres, or mean Dice of the labels that both maps hold."""
    if case.points is not None:
        fixed, moving = (Volume.read(file) for file in (case.fixed, case.moving))
        there, here = (
            read_points(file, volume.grid).positions for file, volume in zip(case.points, (fixed, moving), strict=True)
        )
        return float(np.linalg.norm(transform.map_points(there) - here, axis=1).mean())
    assert case.labels is not None
    fixed_labels, moving_labels = (Volume.read(file) for file in case.labels)
    pulled = sitk.Resample(
        moving_labels.to_sitk(), fixed_labels.to_sitk(), transform.to_sitk(), sitk.sitkNearestNeighbor
    )
    found, truth = sitk.GetArrayFromImage(pulled), fixed_labels.array[0]
    return float(np.mean(list(dice(found, truth).values())))


def main() -> None:
    """Register, judge, and add a row for each pair and version as soon as there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--hippocampi", type=int, default=20)
    given = parser.parse_args()
    with given.output.open("w", newline="", encoding="utf-8") as file, tempfile.TemporaryDirectory() as folder:
        rows = csv.writer(file)
        rows.writerow(["pair", "version", "accuracy", "processor seconds", "MiB"])
        for case in cases(given.data, given.hippocampi):
            for name, version in (("old", given.old), ("new", given.new)):
                out = Path(folder) / f"{case.name} {name}"
                seconds, memory = registered(version.resolve(), case, out)
                found = accuracy(case, Transform.read(out / "transform.h5"))
                rows.writerow([case.name, name, f"{found:.4f}", f"{seconds:.1f}", f"{memory:.0f}"])
                file.flush()


if __name__ == "__main__":
    main()
