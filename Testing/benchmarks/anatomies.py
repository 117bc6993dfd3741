"""Scans of several anatomies against themselves, deformed in a known way: errors in millimetres, peers beside us.

    python Testing/benchmarks/anatomies.py --data DIR --out DIR --peers-python .venv-peers/bin/python

Each scan is deformed three times: by 4 mm; by 8 mm, turned by 8° and shifted by 12 mm; by 14 mm, turned by 15° and
shifted by 30 mm. The deformed copy has noise of 2 % and, for MR, a bias field. The error is averaged over what both
show of the body.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import SimpleITK as sitk
import typer
import yaml
from scipy.ndimage import gaussian_filter

from RecurrentRegistrationLib.benchmark import manifest, page, table
from RecurrentRegistrationLib.benchmark.programs import Programs
from RecurrentRegistrationLib.benchmark.runner import Benchmark

HERE = Path(__file__).parent
SCANS = {
    "abdomen_ct": "abdomen_ct_mr/example_ct.nii.gz",
    "abdomen_mr": "abdomen_ct_mr/example_mr_sm.nii.gz",
    "brain_b0": "brain_b0_oblique_ixi/IXI002-Guys-0828-DTI-00.nii.gz",
    "brain_epi": "head_multimodal_oblique/fmri_pitch.nii.gz",
    "head_mr": "head_rotated_decubitus/HFP_t1.nii.gz",
    "lung_ct": "lung_ct/3DCT_lung_baseline.mha",
}
MOTIONS = ((4, 0, 0), (8, 8, 12), (14, 15, 30))  # millimetres of deformation, degrees, millimetres of shift
SMOOTH = 22.0  # millimetres, of the deformation's Gaussian
NOISE, BIAS = 0.02, 0.15


def motion(
    scan: sitk.Image, length: float, degrees: float, shift: float, random: np.random.Generator
) -> sitk.Transform:
    """A smooth deformation whose 95th percentile is `length` millimetres, then a turn about any axis and a shift."""
    spread = SMOOTH / np.array(scan.GetSpacing())[::-1]
    vectors = np.stack([gaussian_filter(random.normal(size=scan.GetSize()[::-1]), spread) for _ in range(3)], axis=-1)
    vectors *= length / np.percentile(np.linalg.norm(vectors, axis=-1), 95)
    field = sitk.GetImageFromArray(vectors, isVector=True)
    field.CopyInformation(scan)
    turn = sitk.Euler3DTransform()
    turn.SetCenter(scan.TransformContinuousIndexToPhysicalPoint([n / 2 for n in scan.GetSize()]))
    axis, way = (v / np.linalg.norm(v) for v in random.normal(size=(2, 3)))
    turn.SetRotation(*(np.deg2rad(degrees) * axis).tolist())
    turn.SetTranslation((shift * way).tolist())
    return sitk.CompositeTransform([turn, sitk.DisplacementFieldTransform(field)])  # ITK applies the last one first


def worn(image: sitk.Image, contrast: float, mr: bool, random: np.random.Generator) -> sitk.Image:
    """The image with noise and, for MR, a bias field."""
    array = sitk.GetArrayFromImage(image)
    if mr:
        bias = gaussian_filter(random.normal(size=array.shape), 2 * SMOOTH / np.array(image.GetSpacing())[::-1])
        array *= np.exp(BIAS * bias / bias.std())
    found = sitk.GetImageFromArray(array + random.normal(size=array.shape).astype(np.float32) * NOISE * contrast)
    found.CopyInformation(image)
    return sitk.Cast(found, sitk.sitkFloat32)


def made(name: str, file: Path, out: Path) -> list[dict]:
    """Write the pairs of a scan; their entries in a manifest."""
    scan = sitk.ReadImage(str(file), sitk.sitkFloat32)
    scan = scan[..., 0] if scan.GetDimension() == 4 else scan
    array = sitk.GetArrayViewFromImage(scan)
    air, low, high = np.percentile(array, (5, 1, 99))
    pairs = []
    for number, (length, degrees, shift) in enumerate(MOTIONS, start=1):
        random = np.random.default_rng([number, *name.encode()])
        transform = motion(scan, length, degrees, shift, random)
        fixed = sitk.Resample(scan, scan, transform, sitk.sitkLinear, float(array.min()))
        seen = sitk.Resample(scan * 0 + 1, scan, transform, sitk.sitkNearestNeighbor, 0.0)
        body = sitk.Cast((fixed > float(air + 0.15 * (high - air))) & (seen > 0.5), sitk.sitkUInt8)
        grid = scan.GetSize(), scan.GetOrigin(), scan.GetSpacing(), scan.GetDirection()
        field = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat32, *grid)
        written = {"fixed": worn(fixed, high - low, "ct" not in name, random), "moving": scan, "region": body}
        written["reference_field"] = field
        pair = {"name": f"{name}_{number}"}
        for part, image in written.items():
            pair[part] = f"{pair['name']}_{part}.nrrd"
            sitk.WriteImage(image, str(out / pair[part]))
        pairs.append(pair)
    return pairs


def main(
    data: Annotated[Path, typer.Option(help="Folder with the scans")],
    out: Annotated[Path, typer.Option(help="Folder for the pairs and the results")],
    peers_python: Annotated[Path, typer.Option(help="Python with the packages of the peers")],
    methods: Annotated[str, typer.Option(help="Peers and methods, comma-separated")] = "affine,greedy,ants_syn,refine",
) -> None:
    """Make the pairs, register them with every method, and print the errors."""
    out.mkdir(parents=True, exist_ok=True)
    pairs = [pair for name, file in SCANS.items() for pair in made(name, data / file, out)]
    file = out / "anatomies.yaml"
    content = {"name": "anatomies", "threads": 1, "methods": methods.split(","), "pairs": pairs}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    programs = Programs((HERE / "peers").absolute(), peers_python.absolute())
    benchmark = Benchmark(manifest.read(file, out.absolute()), programs, out.absolute() / "anatomies")
    for row in benchmark.run():
        print(row["pair"], row["method"], row["status"], flush=True)
    errors = table.per_pair(table.load(benchmark), "distance_mm")
    print(errors.round(2).to_string(), errors.mean().round(2).to_string(), page.write(benchmark), sep="\n\n")


if __name__ == "__main__":
    typer.run(main)
