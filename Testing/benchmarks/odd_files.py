"""Damage files of every kind, and give them to every command that takes such a file.

    python Testing/benchmarks/odd_files.py [COUNT [SEED [PROCESSES]]]

COUNT files (default 300) are made: a whole file of one of the formats in turn, and what befalls it is drawn: it is cut,
bits flip, bytes or numbers of its header are replaced, lines are lost, rubbish is appended, a stretch is zero, its name
ends otherwise, nothing is left. Each goes through every command that takes such a file (of those that register, one),
in a fork of this process with bounded memory and time; the first PROCESSES (default 20) also in a process of their own.
A case is right where the command

* ends with status 0, or with 2 and one line `error: …` and nothing written (3 for want of memory);
* prints no traceback and nothing that a compiled reader says;
* does not take a file that was cut for a whole one of other content.
"""

from __future__ import annotations

import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import yaml

os.environ["ITK_GLOBAL_DEFAULT_THREADER"] = "Platform"  # a pool of threads does not outlive a fork

import RecurrentRegistrationLib.evaluation
import RecurrentRegistrationLib.pipeline.series
import RecurrentRegistrationLib.report.folder
import RecurrentRegistrationLib.report.series  # noqa: F401 -- these once, not in every fork
from RecurrentRegistrationLib.cli import run
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.transform import Transform
from RecurrentRegistrationLib.volume import Volume

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from dicom_made import enhanced_file, slice_file

QUICK = ["--linear", "none", "--initial", "none", "--steps", "1", "--device", "cpu", "-q"]
SECONDS = 300  # a command may take, on a file of some kilobytes and a busy machine
MEMORY = 12 << 30  # bytes of addresses
ODD_NUMBERS = ("0", "-1", "1e30", "nan", "inf", "99999", "4294967296", "many", "")
ODD_BYTES = (b"\0" * 4, b"\xff" * 4, b"\xff\x7f", b"\0\0\xc0\x7f", b"\0\0\x80\xff", b"\0\0\0\x80", b"\1\0")
ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha", ".vtk", ".gipl", ".tif", ".png", ".dcm", ".h5", ".tfm", ".csv", ".yaml")

SHIFT, OUT = "good/shift.tfm", "out/result"
IMAGE = [
    ["apply", "{}", SHIFT, "-r", "good/fixed.nrrd", "-o", OUT + ".nrrd"],
    ["apply", "good/moving.nrrd", SHIFT, "-r", "{}", "-o", OUT + ".nrrd"],
    ["evaluate", SHIFT, "--fixed", "{}", "--moving", "good/moving.nrrd"],
    ["evaluate", SHIFT, "--fixed", "good/fixed.nrrd", "--fixed-labels", "{}", "--moving-labels", "{}"],
    ["points", "good/index.txt", SHIFT, "-r", "{}", "-o", OUT + ".csv"],
    ["series", "{}", "-o", OUT, "--steps", "1", "-q"],
    ["register", "{}", "good/moving.nrrd", "-o", OUT, *QUICK],
    ["register", "good/fixed.nrrd", "{}", "-o", OUT, *QUICK],
    ["register", "good/fixed.nrrd", "good/moving.nrrd", "--fixed-mask", "{}", "-o", OUT, *QUICK],
    ["register", "good/fixed.nrrd", "good/moving.nrrd", "--moving-mask", "{}", "-o", OUT, *QUICK],
]
TRANSFORM = [
    ["apply", "good/moving.nrrd", "{}", "-r", "good/fixed.nrrd", "-o", OUT + ".nrrd"],
    ["apply", "good/moving.nrrd", "{}", "--invert", "-r", "good/fixed.nrrd", "-o", OUT + ".nrrd"],
    ["points", "good/points.csv", "{}", "-o", OUT + ".csv"],
    ["evaluate", "{}", "--fixed", "good/fixed.nrrd"],
    ["register", "good/fixed.nrrd", "good/moving.nrrd", "-o", OUT, *QUICK, "--initial", "{}"],
]
POINTS = [
    ["points", "{}", SHIFT, "-r", "good/fixed.nrrd", "-o", OUT + ".csv"],
    ["evaluate", SHIFT, "--fixed", "good/fixed.nrrd", "--fixed-points", "{}", "--moving-points", "good/points.csv"],
]
MANIFEST = [["benchmark", "{}", "-o", OUT]]
TRAINING = [["train", "{}", "-o", OUT]]


@dataclass(frozen=True)
class Sample:
    """A whole file: the part of it that is damaged, the path that commands are given, the lines that take it."""

    file: Path
    given: str
    lines: list[list[str]]
    text: bool = False
    read: Callable[[Path], object] | None = None

    @property
    def path(self) -> Path:
        """Of the whole file, for commands."""
        return self.file.parent / self.given


def samples(folder: Path) -> list[Sample]:
    """A file of each format, in a folder of its own below one."""
    good = folder / "good"
    good.mkdir()
    random_values = np.random.default_rng(0).integers(0, 900, (7, 9, 8))
    image = sitk.GetImageFromArray(random_values.astype(np.int16))
    image.SetSpacing((1.5, 2.0, 2.5))
    sitk.WriteImage(image, str(good / "fixed.nrrd"))
    sitk.WriteImage(image + 5, str(good / "moving.nrrd"))
    sitk.WriteImage(image[:, :, 3], str(good / "flat.nrrd"))
    shift = sitk.AffineTransform(3)
    shift.SetTranslation((1.0, 0.5, 0.25))
    sitk.WriteTransform(shift, str(good / "shift.tfm"))
    (good / "points.csv").write_text("1,2,3\n4,5,6\n")
    (good / "index.txt").write_text("index\n2\n1 2 3\n4 5 6\n")
    return [*_images(folder, image), *_transforms(folder, image, shift), *_landmarks(folder), *_configurations(folder)]


def _place(folder: Path, name: str) -> Path:
    place = folder / "whole" / name.replace(".", "_")
    place.mkdir(parents=True)
    return place / name


def _images(folder: Path, image: sitk.Image) -> Iterator[Sample]:
    names = ("a.nii", "a.nii.gz", "a.nrrd", "z.nrrd", "a.mha", "z.mha", "a.vtk", "a.gipl", "a.tif", "z.tif")
    for name in names:
        file = _place(folder, name)
        sitk.WriteImage(image, str(file), useCompression=name[0] == "z")
        yield Sample(file, name, IMAGE, read=_volume)
    for name, other in (("a.hdr", "a.img"), ("b.img", "b.hdr"), ("a.mhd", "a.raw"), ("b.raw", "b.mhd")):
        file = _place(folder, name)
        sitk.WriteImage(image, str(file.with_name(other if name == "b.raw" else name)))
        yield Sample(file, other if name == "b.raw" else name, IMAGE, read=_volume)
    file = _place(folder, "a.nhdr")
    sitk.WriteImage(image, str(file))
    yield Sample(file, file.name, IMAGE, read=_volume)
    for name in ("a.png", "a.jpg", "a.bmp"):
        file = _place(folder, name)
        sitk.WriteImage(sitk.Cast(image[:, :, 3], sitk.sitkUInt8), str(file))
        yield Sample(file, name, IMAGE, read=_volume)
    for name in ("cine.nii.gz", "cine.nrrd", "cine.mha"):
        file = _place(folder, name)
        sitk.WriteImage(sitk.JoinSeries([image, image + 3, image + 9], 0.0, 1.0), str(file))
        yield Sample(file, name, IMAGE, read=_sequence)
    values = sitk.GetArrayFromImage(image)
    places = [(0.0, 0.0, 2.5 * k) for k in range(len(values))]
    file = _place(folder, "multi.dcm")
    enhanced_file(file, values, places)
    yield Sample(file, file.name, IMAGE, read=_volume)
    file = _place(folder, "3.dcm")
    for k, place in enumerate(places):
        slice_file(file.with_name(f"{k}.dcm"), values[k], place, number=k + 1)
    yield Sample(file, "", IMAGE, read=_volume)
    file = _place(folder, "layers.seg.nrrd")
    layers = sitk.Compose(sitk.Cast(image > 450, sitk.sitkUInt8), sitk.Cast(image < 300, sitk.sitkUInt8))
    layers.SetMetaData("Segment0_ID", "one")
    sitk.WriteImage(layers, str(file))
    yield Sample(file, file.name, IMAGE, read=_mask)


def _transforms(folder: Path, image: sitk.Image, shift: sitk.Transform) -> Iterator[Sample]:
    values = np.random.default_rng(1).random((*image.GetSize()[::-1], 3))
    field = sitk.GetImageFromArray(values, isVector=True)
    field.CopyInformation(image)
    spline = sitk.BSplineTransformInitializer(image, [2, 2, 2])
    chain = sitk.CompositeTransform([shift, sitk.DisplacementFieldTransform(sitk.Image(field))])
    made = {"t.h5": shift, "t.tfm": shift, "t.txt": spline, "t.mat": shift, "t.xfm": shift, "chain.h5": chain}
    for name, transform in made.items():
        file = _place(folder, name)
        sitk.WriteTransform(transform, str(file))
        yield Sample(file, name, TRANSFORM, text=name in ("t.tfm", "t.txt", "t.xfm"), read=_map)
    for name in ("u.nrrd", "u.nii.gz", "u.mha"):
        file = _place(folder, name)
        sitk.WriteImage(sitk.Cast(field, sitk.sitkVectorFloat32), str(file))
        yield Sample(file, name, TRANSFORM, read=_map)


def _landmarks(folder: Path) -> Iterator[Sample]:
    point = '{{"id": "1", "label": "a", "position": [{}, 2.5, 3.5], "positionStatus": "defined"}}'
    markups = '{{"markups": [{{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": [{}]}}]}}'
    texts = {
        "p.csv": "label,l,p,s\na,1.5,2.5,3.5\nb,4.5,5.5,6.5\n",
        "p.fcsv": "# Markups fiducial file version = 4.10\n# CoordinateSystem = 0\n# columns = id,x,y,z,label\n"
        "1,1.5,2.5,3.5,a\n2,4.5,5.5,6.5,b\n",
        "p.mrk.json": markups.format(", ".join([point.format(1.5), point.format(4.5)])),
        "p.txt": "point\n2\n1.5 2.5 3.5\n4.5 5.5 6.5\n",
        "p.vtk": "# vtk DataFile Version 3.0\np\nASCII\nDATASET POLYDATA\nPOINTS 2 float\n1.5 2.5 3.5\n4.5 5.5 6.5\n",
    }
    for name, text in texts.items():
        file = _place(folder, name)
        file.write_text(text)
        yield Sample(file, name, POINTS, text=True)


def _configurations(folder: Path) -> Iterator[Sample]:
    good = str(folder / "good")
    pairs = [{"name": "p", "fixed": f"{good}/flat.nrrd", "moving": f"{good}/flat.nrrd"}]
    methods = {"demons": {"method": "demons", "steps": 1}}
    model = {"method": "voxelmorph", "dimension": 2, "losses": [{"term": "mse"}]}
    data = {"class_path": "SyntheticPairs", "init_args": {"shape": [16, 16], "workers": 0}}
    training = {"model": model, "data": data, "trainer": {"max_steps": 1, "accelerator": "cpu"}}
    for name, content, lines in (
        ("manifest.yaml", {"name": "set", "methods": methods, "pairs": pairs}, MANIFEST),
        ("training.yaml", training, TRAINING),
    ):
        file = _place(folder, name)
        file.write_text(yaml.safe_dump(content))
        yield Sample(file, name, lines, text=True)


def _volume(path: Path) -> object:
    return Volume.read(path).array


def _mask(path: Path) -> object:
    return Volume.read_mask(path).array


def _sequence(path: Path) -> object:
    return np.stack([volume.array for volume in Volume.read_sequence(path)])


def _map(path: Path) -> object:
    return Transform.read(path).map_points(np.random.default_rng(2).uniform(1, 9, (40, 3)))


# ---- what befalls a file


def cut(data: bytes, draw: random.Random) -> bytes:
    """Its beginning."""
    return data[: draw.randrange(len(data))]


def flipped(data: bytes, draw: random.Random) -> bytes:
    """Some bits are others."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 4, 40))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def head_flipped(data: bytes, draw: random.Random) -> bytes:
    """Some bits of the first 400 bytes are others."""
    return flipped(data[:400], draw) + data[400:]


def head_replaced(data: bytes, draw: random.Random) -> bytes:
    """A number of a binary header is an odd one."""
    odd = draw.choice(ODD_BYTES)
    at = 2 * draw.randrange(min(len(data), 400) // 2)
    return data[:at] + odd + data[at + len(odd) :]


def number_replaced(data: bytes, draw: random.Random) -> bytes:
    """A number of a header in text is an odd one."""
    head = data[:600].split(b" ")
    at = draw.randrange(len(head))
    end = b"\n" if head[at].endswith(b"\n") else b""
    head[at] = draw.choice(ODD_NUMBERS).encode() + end
    return b" ".join(head) + data[600:]


def line_lost(data: bytes, draw: random.Random) -> bytes:
    """A line of the header is missing, or there twice."""
    lines = data.split(b"\n")
    at = draw.randrange(min(len(lines), 12))
    return b"\n".join(lines[:at] + (lines[at : at + 1] * draw.choice((0, 2))) + lines[at + 1 :])


def longer(data: bytes, draw: random.Random) -> bytes:
    """Rubbish at its end."""
    return data + draw.randbytes(draw.choice((1, 100, 5000)))


def blank(data: bytes, draw: random.Random) -> bytes:
    """A stretch of zeros."""
    at, length = draw.randrange(len(data)), draw.choice((8, 100, 2000))
    return (data[:at] + bytes(length) + data[at + length :])[: len(data)]


def empty(data: bytes, draw: random.Random) -> bytes:
    """Nothing."""
    return b""


def whole(data: bytes, draw: random.Random) -> bytes:
    """As it was; under another ending."""
    return data


FATES = (cut, cut, flipped, head_flipped, head_replaced, number_replaced, line_lost, longer, blank, empty, whole)


@dataclass(frozen=True)
class Case:
    """A damaged copy of a sample, what befell it, and the path for commands."""

    sample: Sample
    fate: str
    path: Path


def cases(known: list[Sample], folder: Path, count: int, draw: random.Random) -> Iterator[Case]:
    """Samples in turn, each with a fate that is drawn."""
    for number in range(count):
        sample, fate = known[number % len(known)], draw.choice(FATES)
        place = folder / f"odd{number}"
        shutil.copytree(sample.file.parent, place)
        file = place / sample.file.name
        file.write_bytes(fate(file.read_bytes(), draw))
        given = place / sample.given
        if fate is whole and sample.given == sample.file.name:
            given = given.rename(given.with_name("renamed" + draw.choice(ENDINGS)))
        yield Case(sample, fate.__name__, given)


# ---- what a command makes of it


def forked(line: list[str], folder: Path) -> tuple[int, str, str]:
    """Status, standard output and standard error of a command line in a fork of this process."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
        process = os.fork()
        if not process:
            _child(line, folder, out.fileno(), said.fileno())
        end = time.monotonic() + SECONDS
        while (found := os.waitpid(process, os.WNOHANG))[0] == 0:
            if time.monotonic() > end:
                os.kill(process, signal.SIGKILL)
            time.sleep(0.005)
        texts = []
        for stream in (out, said):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
        return os.waitstatus_to_exitcode(found[1]), texts[0], texts[1]


def _child(line: list[str], folder: Path, out: int, said: int) -> None:
    status = 70
    try:
        os.dup2(out, 1)
        os.dup2(said, 2)
        sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(n, "wb", 0), "utf-8", write_through=True) for n in (1, 2))
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        status = run(line)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def separate(line: list[str], folder: Path) -> tuple[int, str, str]:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "RecurrentRegistrationLib", *line],
        cwd=folder, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=SECONDS,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def fault(status: int, out: str, said: str, written: list[str]) -> str | None:
    """What is wrong with how a command ended; None for nothing."""
    lines = said.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if status == 0:
        others = [line for line in lines if not line.startswith(("warning: ", "note: "))]
        return f"says {others[0][:150]!r}" if others else None
    if status not in (2, 3):
        return f"ends with status {status}: {' / '.join(lines[-2:])[-200:]}"
    if len(lines) != 1 or len(errors) != 1 or out:
        return f"does not say one line: {said[:300]!r} {out[:100]!r}"
    if written:
        return f"leaves {written[:3]}"
    return None


def misread(case: Case) -> str | None:
    """A cut file that is taken for a whole one of other content."""
    if case.fate != "cut" or case.sample.text or case.sample.read is None:
        return None
    truth = case.sample.read(case.sample.path)
    try:
        found = case.sample.read(case.path)
    except InputError:
        return None
    return None if np.array_equal(np.asarray(found), np.asarray(truth)) else "a part of it is read as the whole"


def tried(case: Case, line: list[str], folder: Path, by: Callable = forked) -> str | None:
    """What is wrong with a command on a damaged file."""
    (folder / "out").mkdir()
    status, out, said = by([word.replace("{}", str(case.path)) for word in line], folder)
    written = sorted(str(file.relative_to(folder)) for file in (folder / "out").rglob("*"))
    shutil.rmtree(folder / "out")
    return fault(status, out, said, written)


def lines(case: Case, number: int) -> Iterator[list[str]]:
    """Every command that takes a case, but of those that register one in turn."""
    slow = [line for line in case.sample.lines if line[0] == "register"]
    for line in case.sample.lines:
        if line[0] != "register" or line is slow[number // 2 % len(slow)]:
            yield line


def faults(folder: Path, count: int, seed: int, processes: int) -> Iterator[tuple[Case, str, str | None]]:
    """Every case with a command, and what is wrong."""
    known = samples(folder)
    for number, case in enumerate(cases(known, folder, count, random.Random(seed))):
        for line in lines(case, number):
            yield case, line[0], tried(case, line, folder)
        if number < processes:
            line = case.sample.lines[number % len(case.sample.lines)]
            yield case, f"{line[0]}, alone", tried(case, line, folder, separate)
        yield case, "reading", misread(case)


def main() -> int:
    """Print what is wrong, and how many of each format were tried; 1 where anything is wrong."""
    count, seed, processes = [*map(int, sys.argv[1:]), *(300, 0, 20)[len(sys.argv) - 1 :]]
    warnings.simplefilter("ignore")
    tries, wrong = Counter[str](), 0
    with tempfile.TemporaryDirectory() as place:
        for case, command, said in faults(Path(place), count, seed, processes):
            tries[case.sample.file.name] += command != "reading"
            if said:
                wrong += 1
                print(f"{case.path.name}, {case.fate}, {command}: {said}", flush=True)
    print("; ".join(f"{name} {number}" for name, number in tries.items()))
    print(f"{count} files, {sum(tries.values())} commands, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
