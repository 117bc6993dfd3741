"""Large motion: known slides of real scans, and breathing people with landmarks; errors in mm, peers beside us.

    python Testing/benchmarks/large_motion.py --data DIR --out DIR --peers-python .venv-peers/bin/python

Part of each of three scans is pushed along one axis by 20, 30 and 40 mm: a tube around an organ that slides along its
wall, compressed ahead and stretched behind, its surroundings still. The deformed copy has noise of 2 % and, for MR, a
bias field. Beside them are two people breathing, with landmarks in the liver and outside it, and a lung at two visits.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import SimpleITK as sitk
import typer
import yaml
from anatomies import worn
from scipy.ndimage import binary_closing

from RecurrentRegistrationLib.benchmark import manifest, page, table
from RecurrentRegistrationLib.benchmark.programs import Programs
from RecurrentRegistrationLib.benchmark.runner import Benchmark

HERE = Path(__file__).parent
LENGTHS = (20, 30, 40)  # millimetres
STEEPEST = 0.75  # of the motion along the axis, so that nothing folds


@dataclass(frozen=True)
class Slide:
    """A scan, the axis (of its array: k, j, i) along which the organ moves, and where that organ is.

    Attributes:
        scan: file.
        axis: of the array.
        organ: file of a label map, and the organ's label; None for an ellipse within the body.
    """

    scan: str
    axis: int
    organ: tuple[str, int] | None = None


SLIDES = {
    "abdomen_ct": Slide("abdomen_ct_mr/example_ct.nii.gz", 0, ("abdomen_ct_mr/example_seg.nii.gz", 5)),
    "lung_ct": Slide("lung_ct/3DCT_lung_baseline.mha", 0, ("lung_ct/3DCT_lung_baseline_mask.mha", 1)),
    "liver_mr": Slide("liver_4dmr/23/fixed.mha", 1),
}
BREATHING = {"19": ("cyc_1_6", "cyc_1_9"), "23": ("cyc_1_4", "cyc_5_4")}


def tube(slide: Slide, scan: sitk.Image, data: Path) -> np.ndarray:
    """What moves: the organ's outline as seen along the axis, the same on every slice."""
    array = sitk.GetArrayFromImage(scan)
    if slide.organ is not None:
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(data / slide.organ[0])))
        outline = binary_closing((labels == slide.organ[1]).any(axis=slide.axis), iterations=3)
    else:
        body = (array > 0.15 * np.percentile(array, 99)).mean(axis=slide.axis) > 0.4
        middle = [np.average(np.arange(n), weights=body.sum(axis=1 - a)) for a, n in enumerate(body.shape)]
        reach = [0.3 * np.ptp(np.nonzero(body.any(axis=1 - a))[0]) for a in range(2)]
        away = [((np.arange(n) - c) / r) ** 2 for n, c, r in zip(body.shape, middle, reach, strict=True)]
        outline = away[0][:, None] + away[1] < 1
    return np.broadcast_to(np.expand_dims(outline, slide.axis), array.shape)


def push(scan: sitk.Image, moving: np.ndarray, axis: int, length: float) -> sitk.Transform:
    """The slide: up to `length` millimetres along the axis within the tube, fading to its ends, nothing outside."""
    spacing, count = scan.GetSpacing()[::-1][axis], scan.GetSize()[::-1][axis]
    half = max(count * spacing / 2.2, np.pi * length / 2 / STEEPEST)
    steps = np.clip((np.arange(count) - (count - 1) / 2) * spacing / half, -1, 1)
    profile = length * np.cos(np.pi / 2 * steps) ** 2
    view = [-1 if a == axis else 1 for a in range(3)]
    vectors = np.zeros((*moving.shape, 3))
    direction = np.array(scan.GetDirection()).reshape(3, 3)[:, 2 - axis]
    vectors[:] = (profile.reshape(view) * moving)[..., None] * direction
    field = sitk.GetImageFromArray(vectors, isVector=True)
    field.CopyInformation(scan)
    return sitk.DisplacementFieldTransform(field)


def slid(name: str, slide: Slide, data: Path, out: Path) -> list[dict]:
    """Write the pairs of a scan; their entries in a manifest."""
    scan = sitk.ReadImage(str(data / slide.scan), sitk.sitkFloat32)
    array = sitk.GetArrayViewFromImage(scan)
    air, low, high = np.percentile(array, (5, 1, 99))
    moving = tube(slide, scan, data)
    pairs = []
    for length in LENGTHS:
        random = np.random.default_rng([length, *name.encode()])
        transform = push(scan, moving, slide.axis, length)
        fixed = sitk.Resample(scan, scan, transform, sitk.sitkLinear, float(array.min()))
        seen = sitk.Resample(scan * 0 + 1, scan, transform, sitk.sitkNearestNeighbor, 0.0)
        body = sitk.Cast((fixed > float(air + 0.15 * (high - air))) & (seen > 0.5), sitk.sitkUInt8)
        grid = scan.GetSize(), scan.GetOrigin(), scan.GetSpacing(), scan.GetDirection()
        field = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat32, *grid)
        written = {"fixed": worn(fixed, high - low, "ct" not in name, random), "moving": scan, "region": body}
        written["reference_field"] = field
        pair = {"name": f"{name}_{length}", "modality": "ct" if "ct" in name else "mr", "initial": "header"}
        for part, image in written.items():
            pair[part] = f"{pair['name']}_{part}.nrrd"
            sitk.WriteImage(image, str(out / pair[part]))
        pairs.append(pair)
    return pairs


def breathing(data: Path) -> list[dict]:
    """The breathing people, once for the landmarks in the liver and once for those outside it."""
    pairs = []
    for person, phases in BREATHING.items():
        folder = data / "liver_4dmr" / person
        for phase in phases:
            for place in ("liver", "outside"):
                pair = {"name": f"{person}_{phase}_{place}", "initial": "header"}
                pair.update(fixed=str(folder / "fixed.mha"), moving=str(folder / f"{phase}.mha"))
                pair.update(fixed_points=str(folder / f"fixed_{place}.vtk"))
                pair.update(moving_points=str(folder / f"{phase}_{place}.vtk"))
                pairs.append(pair)
    return pairs


def lung(data: Path) -> dict:
    """The lung at two visits, 35 mm apart by their headers."""
    folder = data / "lung_ct"
    pair = {"name": "lung_followup", "modality": "ct", "initial": "geometry"}
    for image, visit in (("fixed", "baseline"), ("moving", "followup")):
        pair[image] = str(folder / f"3DCT_lung_{visit}.mha")
        pair[f"{image}_mask"] = str(folder / f"3DCT_lung_{visit}_mask.mha")
        pair[f"{image}_points"] = str(folder / f"3DCT_lung_{visit}.txt")
    return pair


def main(
    data: Annotated[Path, typer.Option(help="Folder with the scans")],
    out: Annotated[Path, typer.Option(help="Folder for the pairs and the results")],
    peers_python: Annotated[Path, typer.Option(help="Python with the packages of the peers")],
    methods: Annotated[str, typer.Option(help="Peers and methods, comma-separated")] = "none,convexadam,convex,refine",
) -> None:
    """Make the pairs, register them with every method, and print the errors."""
    out.mkdir(parents=True, exist_ok=True)
    data = data.absolute()
    pairs = [pair for name, slide in SLIDES.items() for pair in slid(name, slide, data, out)]
    for name, chosen in {"slides": pairs, "breathing": [*breathing(data), lung(data)]}.items():
        file = out / f"{name}.yaml"
        content = {"name": name, "threads": 1, "methods": methods.split(","), "pairs": chosen}
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        programs = Programs((HERE / "peers").absolute(), peers_python.absolute())
        benchmark = Benchmark(manifest.read(file, out.absolute()), programs, out.absolute() / name)
        for row in benchmark.run():
            print(row["pair"], row["method"], row["status"], flush=True)
        measure = "distance_mm" if name == "slides" else "tre_mm"
        errors = table.per_pair(table.load(benchmark), measure)
        print(errors.round(2).to_string(), errors.mean().round(2).to_string(), page.write(benchmark), sep="\n\n")


if __name__ == "__main__":
    typer.run(main)
