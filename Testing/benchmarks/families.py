"""Does the deformation help or harm? Real scans with some truth: as given, after the linear stage, after all.

    python Testing/benchmarks/families.py --data DIR --out FILE [--only ms,liver] [--at-most 4]

Every pair is registered once, with one thread. Distances are millimetres over the brain or at landmarks, overlaps are
mean Dice; `std_log_jacobian` is over what is not air in the fixed image. FILE gets one line of JSON a pair; pairs that
it holds are not registered again. The table gives the means of each family.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import numpy as np
import SimpleITK as sitk
import torch
import typer

from RecurrentRegistrationLib import pipeline
from RecurrentRegistrationLib.metrics.overlap import dice
from RecurrentRegistrationLib.points import read_points
from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Volume, resample

Measures = dict[str, float]
NOISE = 0.03  # of the 99th percentile, standard deviation
OASIS = ("1004-1005", "1006-1017", "1010-1036", "1019-1122")
IDENTICAL = {
    "brain": "brain_t1_2mm",
    "hippocampus": "hippocampus/images",
    "spinal_cord": "spinal_cord/t1.nii.gz",
    "flair": "brain_ms_longitudinal/patient01/study1_FLAIR.nii.gz",
    "lung": "lung_ct/3DCT_lung_baseline.mha",
    "prostate": "prostate_mr_us/fixed_images/case00.nii.gz",
}


@dataclass(frozen=True)
class Pair:
    """Two images, how a transform between them is judged, and their masks where they come with some."""

    family: str
    name: str
    images: Callable[[], tuple[Volume, Volume]]
    judge: Callable[[Transform], Measures]
    masks: Callable[[], dict[str, Volume]] = dict


# ---- the families


def ms(data: Path) -> Iterator[Pair]:
    """Multiple sclerosis: every two scans of a patient, with the linear map between them."""
    for patient in ("patient01", "patient03"):
        folder = data / "brain_ms_longitudinal" / patient
        scans = sorted(f.name[: -len(".nii.gz")] for f in folder.glob("study*.nii.gz"))
        for number, (one, other) in enumerate(itertools.combinations(scans, 2)):
            fixed, moving = (one, other) if number % 2 else (other, one)
            images = partial(_read, folder / f"{fixed}.nii.gz", folder / f"{moving}.nii.gz")
            yield Pair("ms", f"{patient}_{fixed}_{moving}", images, partial(_linear_error, folder, fixed, moving))


def _linear_error(folder: Path, fixed: str, moving: str, transform: Transform) -> Measures:
    to_fixed, to_moving = (_from_common(folder, scan) for scan in (fixed, moving))
    points = _brain(folder)
    error = transform.map_points(to_fixed.map_points(points)) - to_moving.map_points(points)
    return {"brain_mm": float(np.linalg.norm(error, axis=1).mean())}


def _from_common(folder: Path, scan: str) -> Transform:
    """From points of the patient's common space to those of a scan."""
    study = scan.split("_")[0]
    parts = Transform.read(folder / f"{study}_FLAIR_to_common_space.txt").parts
    if not scan.endswith("FLAIR"):
        parts = (*parts, *Transform.read(folder / f"{scan}_intrastudy_to_FLAIR.txt").parts)
    return Transform(parts)


@cache
def _brain(folder: Path) -> np.ndarray:
    """Points of the brain in a patient's common space: its own mask, or the other patient's brought over."""
    masked = folder.parent / "patient01"
    mask = Volume.read(masked / "common_brainmask.nii.gz")
    index = np.argwhere(mask.array[0] > 0)[:: max(1, int((mask.array > 0).sum()) // 5000), ::-1]
    points = mask.grid.physical(index)
    if folder.name == "patient01":
        return points
    scan = "study1_FLAIR"
    images = _read(masked / f"{scan}.nii.gz", folder / f"{scan}.nii.gz")
    across = pipeline.register(*images, options=pipeline.Options(method="none")).transform
    there = across.map_points(_from_common(masked, scan).map_points(points))
    return _from_common(folder, scan).inverse().map_points(there)


def liver(data: Path) -> Iterator[Pair]:
    """Breathing: landmarks in the liver and outside it."""
    for person in sorted((data / "liver_4dmr").iterdir()):
        for file in sorted(person.glob("cyc_*.mha")):
            images = partial(_read, person / "fixed.mha", file)
            yield Pair("liver", f"{person.name}_{file.stem}", images, partial(_breathing_error, person, file.stem))


def _breathing_error(person: Path, phase: str, transform: Transform) -> Measures:
    parts = {part: [_vtk_points(person / f"{n}_{part}.vtk") for n in ("fixed", phase)] for part in ("liver", "outside")}
    return {f"{part}_mm": _distance(transform, *points) for part, points in parts.items()}


def _vtk_points(file: Path) -> np.ndarray:
    words = file.read_text(encoding="utf-8").split()
    first = words.index("POINTS")
    return np.array(words[first + 3 : first + 3 + 3 * int(words[first + 1])], float).reshape(-1, 3)


def lung(data: Path) -> Iterator[Pair]:
    """Two visits of a lung, with masks: ten landmarks."""
    stems = [str(data / "lung_ct" / f"3DCT_lung_{visit}") for visit in ("baseline", "followup")]
    images = partial(_read, *(Path(f"{stem}.mha") for stem in stems))

    def judge(transform: Transform) -> Measures:
        grids = [image.grid for image in images()]
        points = [read_points(f"{s}.txt", g).positions for s, g in zip(stems, grids, strict=True)]
        return {"landmarks_mm": _distance(transform, *points)}

    def masks() -> dict[str, Volume]:
        return {
            f"{name}_mask": Volume.read(f"{s}_mask.mha") for name, s in zip(("fixed", "moving"), stems, strict=True)
        }

    yield Pair("lung", "with_masks", images, judge, masks)
    yield Pair("lung", "without_masks", images, judge)


def hippocampus(data: Path) -> Iterator[Pair]:
    """Hippocampi of different people, cropped: head and tail."""
    files = sorted((data / "hippocampus" / "images").glob("*.nii.gz"))
    random = np.random.default_rng(7)
    for fixed, moving in (random.choice(len(files), 2, replace=False) for _ in range(20)):
        yield _labelled("hippocampus", files[fixed], files[moving], data / "hippocampus" / "labels")


def _labelled(family: str, fixed: Path, moving: Path, labels: Path, ending: str = "") -> Pair:
    maps = [labels / file.name.replace(".nii.gz", f"{ending}.nii.gz") for file in (fixed, moving)]
    name = "_".join(file.name.removesuffix(".nii.gz") for file in (fixed, moving))
    return Pair(family, name, partial(_read, fixed, moving), partial(_overlap, *maps))


def oasis(data: Path) -> Iterator[Pair]:
    """Brains of different people: 138 labels."""
    folder = data / "brain_labelled_oasis"
    for name in OASIS:
        fixed, moving = (folder / f"{part}.nii.gz" for part in name.split("-"))
        yield _labelled("oasis", fixed, moving, folder, "_labels")


def prostate(data: Path) -> Iterator[Pair]:
    """Ultrasound and MR of the prostate: the gland, and the centres of two landmark regions."""
    folder = data / "prostate_mr_us"
    for file in sorted((folder / "fixed_images").glob("*.nii.gz")):
        images = partial(_read, file, folder / "moving_images" / file.name)
        labels = [folder / f"{side}_labels" / file.name for side in ("fixed", "moving")]
        yield Pair("prostate", file.name[:6], images, partial(_gland_and_sites, *labels))


def _gland_and_sites(fixed: Path, moving: Path, transform: Transform) -> Measures:
    theirs, ours = (Volume.read_sequence(file) for file in (moving, fixed))
    distances = []
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        if not ((one.array > 0.5).any() and (other.array > 0.5).any()):
            continue
        centres = [v.grid.physical(np.argwhere(v.array[0] > 0.5).mean(axis=0)[::-1]) for v in (one, other)]
        distances.append(_distance(transform, *(c[None] for c in centres)))
    found = {"gland_dice": _overlap_of(ours[0], theirs[0], transform)}
    return {**found, "sites_mm": float(np.mean(distances))} if distances else found


def cord(data: Path) -> Iterator[Pair]:
    """T1 and T2 of one cord, lying on each other: the motion found is the error."""
    files = [data / "spinal_cord" / f"t{n}.nii.gz" for n in (1, 2)]
    fixed, _ = _read(*files)
    yield Pair("cord", "t2_to_t1", partial(_read, *files), partial(_motion, fixed))


def identical(data: Path) -> Iterator[Pair]:
    """A scan with itself, and with itself under other noise: the motion found is the error."""
    for name, path in IDENTICAL.items():
        file = data / path
        file = min(file.glob("*.nii.gz")) if file.is_dir() else file
        scan = Volume.read(file)
        yield Pair("identical", name, partial(_read, file, file), partial(_motion, scan))
        yield Pair("noise", name, partial(_noisy, scan), partial(_motion, scan))


def _noisy(scan: Volume) -> tuple[Volume, Volume]:
    array = scan.array.astype(np.float32)
    deviation = NOISE * (np.percentile(array, 99) - np.percentile(array, 1))
    random = np.random.default_rng(0)
    noise = [random.normal(0, deviation, array.shape).astype(np.float32) for _ in range(2)]
    return replace(scan, array=array + noise[0]), replace(scan, array=array + noise[1])


FAMILIES = {f.__name__: f for f in (ms, liver, lung, hippocampus, oasis, prostate, cord, identical)}


# ---- measures


def _read(*files: Path) -> tuple[Volume, ...]:
    return tuple(Volume.read(file) for file in files)


def _distance(transform: Transform, fixed: np.ndarray, moving: np.ndarray) -> float:
    return float(np.linalg.norm(transform.map_points(fixed) - moving, axis=1).mean())


def _overlap(fixed: Path, moving: Path, transform: Transform) -> Measures:
    return {"dice": _overlap_of(Volume.read(fixed), Volume.read(moving), transform)}


def _overlap_of(fixed: Volume, moving: Volume, transform: Transform) -> float:
    """Mean Dice over the labels that both hold."""
    warped = resample(moving.to_sitk(), fixed.grid, transform.to_sitk(), interpolation="nearest")
    labels = (set(np.unique(fixed.array)) & set(np.unique(moving.array))) - {0}
    found = dice(fixed.array[0].astype(int), sitk.GetArrayFromImage(warped).astype(int), [int(n) for n in labels])
    return float(np.mean(list(found.values())))


def _motion(fixed: Volume, transform: Transform) -> Measures:
    """How far what is not air is moved, in voxels of the fixed image."""
    length = transform.displacement_on(fixed.grid).values[0].square().sum(dim=0).sqrt().numpy()
    body = _body(fixed)
    return {"mean_voxels": float(length[body].mean()), "max_voxels": float(length[body].max())}


def _body(volume: Volume) -> np.ndarray:
    low, high = np.percentile(volume.array, (1, 99))
    return volume.array[0] > low + 0.1 * (high - low)


def _regularity(fixed: Volume, transform: Transform) -> Measures:
    determinant = transform.jacobian_determinant(fixed.grid).numpy().reshape(fixed.array.shape[1:])[_body(fixed)]
    logarithm = np.log(np.clip(determinant, 1e-9, 1e9))
    extremes = {"jacobian_min": float(determinant.min()), "jacobian_max": float(determinant.max())}
    return {"std_log_jacobian": float(logarithm.std()), **extremes}


# ---- one run


def measured(pair: Pair, options: pipeline.Options) -> dict:
    """The pair's measures before, after the linear stage and at the end, and the CPU seconds it took."""
    images = pair.images()
    began = time.process_time()
    run = pipeline.start(*images, **pair.masks(), options=options)
    seconds = 0.0
    for _ in run:
        if run.phase == "align":
            seconds = time.process_time() - began
    last = run.result()
    total = time.process_time() - began
    row: dict = {"family": pair.family, "pair": pair.name, "linear_seconds": seconds, "seconds": total}
    row["before"] = pair.judge(Transform(()))
    row["linear"] = pair.judge(Transform(last.transform.parts[-1:]))
    row["default"] = {**pair.judge(last.transform), **_regularity(images[0], last.transform)}
    row["notes"] = last.report["notes"]
    return row


def table(rows: list[dict]) -> str:
    """Means of each family's measures before, after the linear stage and after all."""
    lines = ["| family | pairs | measure | before | linear | default |", "|---|---|---|---|---|---|"]
    for family in dict.fromkeys(row["family"] for row in rows):
        own = [row for row in rows if row["family"] == family]
        for measure in own[0]["default"]:
            stages = [
                [r[stage][measure] for r in own if measure in r[stage]] for stage in ("before", "linear", "default")
            ]
            means = [f"{np.mean(values):.3f}" if values else "" for values in stages]
            lines.append(f"| {family} | {len(own)} | {measure} | {' | '.join(means)} |")
        seconds = [f"{np.mean([r[s] for r in own]):.1f}" for s in ("linear_seconds", "seconds")]
        lines.append(f"| {family} | {len(own)} | CPU seconds | | {' | '.join(seconds)} |")
    return "\n".join(lines)


def main(
    data: Annotated[Path, typer.Option(help="Folder with the scans")],
    out: Annotated[Path, typer.Option(help="File of results, one line a pair; what it holds is not made again")],
    only: Annotated[str, typer.Option(help=f"Families: {', '.join(FAMILIES)}")] = "",
    at_most: Annotated[int, typer.Option(help="Pairs of each family")] = 1000,
    linear_only: Annotated[bool, typer.Option(help="Leave the deformation out")] = False,
) -> None:
    """Register the pairs that are missing from the results and print the table."""
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []
    done = {(row["family"], row["pair"]) for row in rows}
    options = pipeline.Options(method="none" if linear_only else "auto")
    for family in only.split(",") if only else FAMILIES:
        for pair in itertools.islice(FAMILIES[family](data), at_most):
            if (pair.family, pair.name) in done:
                continue
            rows.append(measured(pair, options))
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(pair.family, pair.name, rows[-1]["linear"], rows[-1]["default"], flush=True)
    print(table(rows))


if __name__ == "__main__":
    typer.run(main)
