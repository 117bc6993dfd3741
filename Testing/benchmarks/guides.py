"""What a guide brings: landmarks, labels and rigid regions given, judged by those that were not given.

    python Testing/benchmarks/guides.py --data DATA --out guides.jsonl [--only lung,liver] [--pairs 2] [--spacing 2]

Every pair is registered once as by default and once with the guide. Errors are millimetres, overlaps Dice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from scipy import ndimage

from RecurrentRegistrationLib import pipeline
from RecurrentRegistrationLib.layers.regions import rigid_map
from RecurrentRegistrationLib.metrics.overlap import dice
from RecurrentRegistrationLib.pipeline.guide import Guide, LandmarkPairs, label_pairs, labels_of
from RecurrentRegistrationLib.points import Points, read_points
from RecurrentRegistrationLib.transform import Affine, DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid, Volume

Row = dict[str, Any]
SUBCORTICAL = ("59", "60", "57", "58", "55", "56")  # thalamus, putamen and pallidum of both sides (Neuromorphometrics)
STRUCTURES = ("31", "32", "36", "37", "47", "48", "51", "52", "59", "60")  # amygdala to thalamus


def registered(fixed: Volume, moving: Volume, guide: Guide | None = None, **inputs: Any) -> tuple[Any, Row]:
    """The registration, and what every row tells of it."""
    options = pipeline.Options(**inputs.pop("options", {}))
    began = time.perf_counter()
    run = pipeline.start(fixed, moving, options=options, guide=guide, **inputs)
    for _ in run:
        pass
    result = run.result()
    row = {
        "seconds": time.perf_counter() - began,
        "folded": result.report["folded_voxels"],
        "least_jacobian": result.report["jacobian"]["min"],
    }
    told = run.agreement()
    if told.get("landmarks"):
        row["given_mm"] = float(np.mean([each["after_mm"] for each in told["landmarks"]]))
        row["given_worst_mm"] = max(each["after_mm"] for each in told["landmarks"])
    notes = [note for note in run.notes if "stays" in note or "swapped" in note]
    return result, row | ({"notes": notes} if notes else {})


def pairs_of(fixed: np.ndarray, moving: np.ndarray, chosen: list[int]) -> Guide:
    """Some of the landmarks as a guide."""
    names = tuple(str(n) for n in chosen)
    return Guide(LandmarkPairs.of(Points(fixed[chosen], names), Points(moving[chosen], names)))


def spread(points: np.ndarray, count: int) -> list[int]:
    """Some points far from each other: each the farthest from those before it."""
    chosen = [int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin())]
    while len(chosen) < count:
        away = np.linalg.norm(points[:, None] - points[chosen], axis=2).min(axis=1)
        chosen.append(int(away.argmax()))
    return chosen


def with_landmarks(name: str, here: np.ndarray, there: np.ndarray, volumes: Row, options: Row) -> Iterator[Row]:
    """Five landmarks given; the error of all others."""
    chosen = spread(here, 5)
    others = [n for n in range(len(here)) if n not in chosen]
    for kind, guide in (("default", None), ("guided", pairs_of(here, there, chosen))):
        found, row = registered(guide=guide, options=options, **volumes)
        errors = np.linalg.norm(found.transform.map_points(here) - there, axis=1)
        yield {
            "pair": name,
            "kind": kind,
            "others_mm": float(errors[others].mean()),
            "others_worst_mm": float(errors[others].max()),
            "given_mm": float(errors[chosen].mean()),
            "given_worst_mm": float(errors[chosen].max()),
            **row,
        }


def lung(data: Path, _: int, options: Row) -> Iterator[Row]:
    """The lung at two visits, ten landmarks."""
    folder = data / "lung_ct"
    volumes, points = {}, []
    for image, visit in (("fixed", "baseline"), ("moving", "followup")):
        volumes[image] = Volume.read(folder / f"3DCT_lung_{visit}.mha")
        volumes[f"{image}_mask"] = Volume.read_mask(folder / f"3DCT_lung_{visit}_mask.mha")
        points.append(read_points(folder / f"3DCT_lung_{visit}.txt", volumes[image].grid).positions)
    yield from with_landmarks("lung", *points, volumes, options)


def liver(data: Path, count: int, options: Row) -> Iterator[Row]:
    """Breathing people, landmarks in the liver."""
    for person, phase in (("23", "cyc_5_4"), ("19", "cyc_1_6"), ("19", "cyc_1_9"), ("23", "cyc_1_4"))[:count]:
        folder = data / "liver_4dmr" / person
        volumes = {"fixed": Volume.read(folder / "fixed.mha"), "moving": Volume.read(folder / f"{phase}.mha")}
        points = [read_points(folder / f"{name}_liver.vtk").positions for name in ("fixed", phase)]
        yield from with_landmarks(f"liver {person} {phase}", *points, volumes, options)


def lost(data: Path, count: int, options: Row) -> Iterator[Row]:
    """The same by refinement alone, from the header's position: too far for it."""
    far = {"method": "refine", "linear": "none", "initial": "none"}
    yield from lung_from_header(data, {**options, **far})
    yield from liver(data, count, {**options, **far})


def lung_from_header(data: Path, options: Row) -> Iterator[Row]:
    """The lung without masks, 35 mm from where its header puts it."""
    volumes, points = {}, []
    for image, visit in (("fixed", "baseline"), ("moving", "followup")):
        volumes[image] = Volume.read(data / "lung_ct" / f"3DCT_lung_{visit}.mha")
        points.append(read_points(data / "lung_ct" / f"3DCT_lung_{visit}.txt", volumes[image].grid).positions)
    yield from with_landmarks("lung, header", *points, volumes, options)


def brains(data: Path, count: int) -> Iterator[tuple[str, Row, tuple[Volume, Volume]]]:
    """Pairs of labelled brains."""
    names = sorted(file.name.partition(".")[0] for file in (data / "brain_labelled_oasis").glob("????.nii.gz"))
    for a, b in zip(names[: 2 * count : 2], names[1 : 2 * count : 2], strict=True):
        images = {
            "fixed": Volume.read(data / "brain_labelled_oasis" / f"{a}.nii.gz"),
            "moving": Volume.read(data / "brain_labelled_oasis" / f"{b}.nii.gz"),
        }
        maps = [Volume.read(data / "brain_labelled_oasis" / f"{n}_labels.nii.gz") for n in (a, b)]
        yield f"{a} {b}", images, (maps[0], maps[1])


def overlaps(found: pipeline.Registration, maps: tuple[Volume, Volume], given: tuple[str, ...]) -> Row:
    """Dice of the given labels and of the others."""
    warped = found.warped(maps[1], interpolation="nearest", background=0).array[0]
    fixed = maps[0] if maps[0].grid.almost_equal(found.grid) else maps[0].resampled(found.grid, interpolation="nearest")
    each = dice(fixed.array[0], warped)
    inside = [value for label, value in each.items() if str(label) in given]
    others = [value for label, value in each.items() if str(label) not in given]
    row = {"given_dice": float(np.mean(inside)), "given_worst_dice": min(inside)}
    return row | ({"others_dice": float(np.mean(others))} if others else {})


def with_labels(
    name: str, images: Row, maps: tuple[Volume, Volume], given: tuple[str, ...], options: Row
) -> Iterator[Row]:
    """Some labels given; Dice of these and of all others."""
    guide = Guide(labels=label_pairs(*map(labels_of, maps), given))
    for kind, known in (("default", None), ("guided", guide)):
        found, row = registered(guide=known, options=options, **images)
        yield {"pair": name, "kind": kind, **overlaps(found, maps, given), **row}


def brain_landmarks(data: Path, count: int, options: Row) -> Iterator[Row]:
    """Centres of six structures given; Dice of all others."""
    for name, images, maps in brains(data, count):
        here, there = (np.array([centre(volume, int(v)) for v in SUBCORTICAL]) for volume in maps)
        for kind, guide in (("default", None), ("guided", pairs_of(here, there, list(range(len(here)))))):
            found, row = registered(guide=guide, options=options, **images)
            yield {"pair": name, "kind": kind, **overlaps(found, maps, SUBCORTICAL), **row}


def brain_labels(data: Path, count: int, options: Row) -> Iterator[Row]:
    """Ten of the 138 labels given."""
    for name, images, maps in brains(data, count):
        yield from with_labels(name, images, maps, STRUCTURES, options)


def hippocampus(data: Path, count: int, options: Row) -> Iterator[Row]:
    """Both labels given."""
    files = sorted((data / "hippocampus" / "images").iterdir())[: 2 * count]
    for a, b in zip(files[::2], files[1::2], strict=True):
        images = {"fixed": Volume.read(a), "moving": Volume.read(b)}
        maps = [Volume.read(data / "hippocampus" / "labels" / file.name) for file in (a, b)]
        yield from with_labels(f"{a.name} {b.name}", images, (maps[0], maps[1]), ("1", "2"), options)


def prostate(data: Path, count: int, options: Row) -> Iterator[Row]:
    """The gland given in ultrasound and MR; how far the other marked places are apart."""
    folder = data / "prostate_mr_us"
    names = sorted(file.name for file in (folder / "fixed_images").iterdir())[:count]
    for name in names:
        images = {
            "fixed": Volume.read(folder / "fixed_images" / name),
            "moving": Volume.read(folder / "moving_images" / name),
        }
        here, there = (Volume.read_sequence(folder / f"{side}_labels" / name) for side in ("fixed", "moving"))
        guide = Guide(labels=label_pairs({"gland": labels_of(here[0])["1"]}, {"gland": labels_of(there[0])["1"]}))
        for kind, known in (("default", None), ("guided", guide)):
            found, row = registered(guide=known, options=options, **images)
            warped = found.warped(there[0], interpolation="nearest", background=0).array
            apart = []
            for a, b in zip(here[1:], there[1:], strict=False):
                if a.array.any() and b.array.any():
                    mapped = found.transform.map_points(centre(a, 1)[None])[0]
                    apart.append(float(np.linalg.norm(mapped - centre(b, 1))))
            gland = dice(here[0].array, warped)[1]
            yield {"pair": name, "kind": kind, "given_dice": gland, "others_mm": float(np.mean(apart)), **row}


def centre(labels: Volume, value: int) -> np.ndarray:
    """Physical point in the middle of a label."""
    return labels.grid.physical(np.argwhere(labels.array[0] == value).mean(axis=0)[::-1])


def rigid(data: Path, _: int, options: Row) -> Iterator[Row]:
    """A bone that turns by 12 degrees in a bent surround: its residual to rigid, and how the rest is found."""
    del data
    grid = Grid.regular((72, 72, 72), 2.0)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")) * 2.0
    random = np.random.default_rng(0)
    tissue = ndimage.gaussian_filter(random.normal(size=grid.shape), 2.5)
    tissue = 0.5 + 0.12 * tissue / tissue.std()
    body = ((index - 71) ** 2).sum(axis=0) < 62**2
    bone = (np.abs(index - np.array([71, 65, 71]).reshape(3, 1, 1, 1)) < np.array([9, 12, 20]).reshape(3, 1, 1, 1)).all(
        0
    )
    moving = Volume(np.where(bone, 1.0, tissue * body)[None].astype(np.float32), grid)
    inner = Volume(bone[None].astype(np.uint8), grid)
    truth = bent(grid, bone)
    pulled = [Transform((truth,)).displacement_on(grid)]
    fixed = Volume(torch_warp(moving, pulled[0]), grid)
    mask = Volume((torch_warp(inner, pulled[0]) > 0.5).astype(np.uint8), grid)
    points = grid.physical(np.argwhere(mask.array[0])[:, ::-1])
    around = ndimage.binary_dilation(mask.array[0], iterations=6) & ~ndimage.binary_dilation(
        mask.array[0], iterations=1
    )
    near = grid.physical(np.argwhere(around)[:, ::-1])
    expected = Transform((truth,)).map_points(near)
    for kind, guide in (("default", None), ("guided", Guide(rigid=mask))):
        found, row = registered(fixed, moving, guide, options={"initial": "none", "linear": "none", "method": "refine"})
        mapped = found.transform.map_points(points)
        away = np.linalg.norm(Affine(rigid_map(points, mapped)).map_points(points) - mapped, axis=1)
        near_error = np.linalg.norm(found.transform.map_points(near) - expected, axis=1)
        before = np.linalg.norm(near - expected, axis=1)
        yield {
            "pair": "bone",
            "kind": kind,
            "bone_bends_mm": float(away.max()),
            "neighbours_before_mm": float(before.mean()),
            "others_mm": float(near_error.mean()),
            **row,
        }


def bent(grid: Grid, bone: np.ndarray) -> DisplacementField:
    """A smooth displacement that turns the bone's surroundings by 12 degrees and waves elsewhere, in voxels."""
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in grid.shape], indexing="ij"))
    middle = np.argwhere(bone).mean(axis=0).reshape(3, 1, 1, 1)
    angle, away = np.radians(12), index - middle
    turned = np.stack(
        [away[0], np.cos(angle) * away[1] - np.sin(angle) * away[2], np.sin(angle) * away[1] + np.cos(angle) * away[2]]
    )
    share = np.clip(1 - (np.linalg.norm(away, axis=0) - 13) / 18, 0, 1)
    share = share * share * (3 - 2 * share)
    wave = 1.2 * np.stack([np.sin(index[(a + 1) % 3] / 8 + a) for a in range(3)])
    values = share * (turned - away) + (1 - share) * wave
    return DisplacementField(torch.from_numpy(values.astype(np.float32))[None], grid)


def torch_warp(volume: Volume, field: DisplacementField) -> np.ndarray:
    """The volume's array pulled through a field on its grid."""
    from RecurrentRegistrationLib import spatial

    return spatial.warp(volume.tensor()[None] if volume.tensor().ndim == 4 else volume.tensor(), field.values)[
        0
    ].numpy()


def correcting(data: Path, _: int, options: Row) -> Iterator[Row]:
    """Corrections of a brain at 128 x 128 x 128, one landmark after the other: seconds, and what else changed."""
    (name, images, maps), *_ = brains(data, 1)
    cubes = []
    for image in images.values():
        spacing = max(n * s for n, s in zip(image.grid.size, image.grid.spacing, strict=True)) / 128
        cubes.append(
            image.resampled(
                image.grid.resampled(spacing).padded([0] * 3, [128 - n for n in image.grid.resampled(spacing).size])
            )
        )
    run = pipeline.start(*cubes, options=pipeline.Options(steps=30))
    for _step in run:
        pass
    random, fixed, moving = np.random.default_rng(0), [], []
    centres = [centre(maps[0], int(v)) for v in (*SUBCORTICAL, *STRUCTURES[:8])] * 2
    for number in range(20):
        point = centres[number] + random.normal(0, 6, 3)
        fixed.append(point)
        moving.append(run.last.transform.map_points(point[None])[0] + random.normal(0, 2.0, 3))
        before = run.last.transform.displacement_on(cubes[0].grid).values
        run.guide(pairs_of(np.array(fixed), np.array(moving), list(range(number + 1))))
        began, spent = time.perf_counter(), time.process_time()
        list(run.correct())
        seconds, busy = time.perf_counter() - began, time.process_time() - spent
        after = run.last.transform.displacement_on(cubes[0].grid).values
        told = [row["after_mm"] for row in run.agreement()["landmarks"]]
        yield {
            "pair": f"{name} {number + 1}",
            "kind": "correct",
            "seconds": seconds,
            "cpu_seconds": busy,
            "changed_percent": float(100 * (before != after).any(dim=1).double().mean()),
            "given_mm": float(np.mean(told)),
            "given_worst_mm": max(told),
            "folded": run.last.volume_change["folded_voxels"],
        }


CASES: dict[str, Callable[[Path, int, Row], Iterator[Row]]] = {
    "rigid": rigid,
    "lung": lung,
    "liver": liver,
    "lost": lost,
    "hippocampus": hippocampus,
    "prostate": prostate,
    "brain_landmarks": brain_landmarks,
    "brain_labels": brain_labels,
    "correcting": correcting,
}


def main(
    data: Annotated[Path, typer.Option(help="Folder with the scans")],
    out: Annotated[Path, typer.Option(help="JSON lines; results are added")],
    only: Annotated[str, typer.Option(help=f"Of {', '.join(CASES)}, comma-separated")] = ",".join(CASES),
    pairs: Annotated[int, typer.Option(help="Of each case")] = 2,
    spacing: Annotated[float | None, typer.Option(help="Working spacing, millimetres; none for the default")] = None,
    threads: Annotated[int, typer.Option(help="Of PyTorch")] = 2,
) -> None:
    """Register every pair with and without its guide."""
    torch.set_num_threads(threads)
    options = {} if spacing is None else {"spacing": spacing}
    for case in only.split(","):
        for row in CASES[case](data, pairs, options):
            told = {"case": case, "spacing": spacing, **row}
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(told) + "\n")
            print(" ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in told.items()), flush=True)


if __name__ == "__main__":
    typer.run(main)
