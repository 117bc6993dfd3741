"""Does the brain of the EPI lie on the brain of the T1? Overlap and mutual information within the brain.

    recurrent-registration benchmark … Testing/benchmarks/manifests/head_multimodal_oblique.yaml \\
        --only epi_to_t1 --methods sitk_bspline,ours -o RESULTS
    python Testing/benchmarks/brain.py RESULTS --data ../shared/data

An EPI shows the brain and hardly any skull, so the foregrounds of the whole images overlap best where the brain is
pulled over the skull. Here the T1's brain is that of a labelled subject, brought over by registering the two T1 scans;
the EPI's is what Otsu's threshold leaves. Both count where the EPI was scanned.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from RecurrentRegistrationLib import pipeline
from RecurrentRegistrationLib.metrics.intensity import mutual_information
from RecurrentRegistrationLib.pipeline.options import Options
from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Volume, resample


def brain_of(head: Volume, subject: Volume, labels: Volume) -> np.ndarray:
    """Where the labels of a subject lie in another head, `[*S]` of bool in NumPy order."""
    found = pipeline.register(head, subject, options=Options(spacing=2.0))
    warped = resample(labels.to_sitk(), head.grid, found.transform.to_sitk(), interpolation="nearest")
    return sitk.GetArrayFromImage(warped) > 0


def row(name: str, transform: Transform, head: sitk.Image, epi: sitk.Image, brain: np.ndarray) -> str:
    """A line of the table for one method's transform."""
    mapping, outside = transform.to_sitk(), -1.0
    warped = sitk.GetArrayFromImage(sitk.Resample(epi, head, mapping, sitk.sitkLinear, outside))
    bright = sitk.Resample(sitk.OtsuThreshold(epi, 0, 1), head, mapping, sitk.sitkNearestNeighbor)
    seen = warped != outside
    inside, foreground = brain & seen, (sitk.GetArrayFromImage(bright) > 0) & seen
    overlap = 2 * (inside & foreground).sum() / (inside.sum() + foreground.sum())
    alike = mutual_information(sitk.GetArrayFromImage(head)[inside], warped[inside])
    return f"| {name} | {overlap:.3f} | {alike:.4f} | {100 * inside.sum() / brain.sum():.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="the benchmark's output folder")
    parser.add_argument("--data", type=Path, required=True, help="the folder of data sets")
    arguments = parser.parse_args()
    runs = sorted((arguments.results / "head_multimodal_oblique" / "runs" / "epi_to_t1").glob("*/displacement.nrrd"))
    if not runs:
        parser.error(f"{arguments.results} holds no displacement of epi_to_t1: run the benchmark first.")
    heads, labelled = arguments.data / "head_multimodal_oblique", arguments.data / "brain_labelled_aomic"
    head = Volume.read(heads / "chris_t1.nii.gz")
    subject, labels = (Volume.read(labelled / f"sub-0001_{kind}.nii.gz") for kind in ("T1", "aseg"))
    brain = brain_of(head, subject, labels)
    epi = sitk.ReadImage(str(heads / "fmri_pitch.nii.gz"), sitk.sitkFloat32)
    print(
        "| method | Dice of the brain | normalised mutual information in the brain | brain seen % |\n|---|---|---|---|"
    )
    for run in runs:
        print(row(run.parent.name, Transform.read(run), head.to_sitk(), epi, brain), flush=True)


if __name__ == "__main__":
    main()
