"""Tiny data sets of every format, made for dry runs: a configuration is tried without its data and in a second."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.anatomy import Shapes
from RecurrentRegistrationLib.train.configuration import Tree
from RecurrentRegistrationLib.volume import Grid, Volume

SHAPES = {2: (16, 20), 3: (8, 12, 10)}
SUBJECTS = ("case_001", "case_002", "case_003")
SESSIONS = ("0000", "0001")


@contextlib.contextmanager
def data() -> Iterator[Path]:
    """A folder that lasts as long as the dry run."""
    with tempfile.TemporaryDirectory(prefix="dry-run-") as folder:
        yield Path(folder)


def replaced(tree: Tree, folder: Path) -> Tree:
    """The same configuration on tiny made data of the same format, on one device.

    Raises:
        InputError: it is not a configuration of a training, or its data are of a format that is not made here.
    """
    _check(tree)
    tree = copy.deepcopy(tree)
    dimension = tree.get("model", {}).get("dimension", 3)
    tree.setdefault("trainer", {}).update(devices=1, num_nodes=1, strategy="auto")
    tree["trainer"]["precision"] = "32-true"  # levels of one or two voxels have no bf16 gradients on a processor
    tree["model"].pop("initial", None)
    arguments = tree["data"].setdefault("init_args", {})
    arguments |= {"batch_size": 1, "workers": 0}
    if "regions" not in arguments:  # single images are no pairs
        arguments["validation_pairs"] = 1
    if "source" in arguments:
        arguments["source"] = _source(arguments["source"], dimension, folder)
        if "classes" not in arguments:  # subjects are read by the pairs themselves
            arguments["reader"] = _reader(arguments.get("reader", {}), dimension)
    arguments.pop("start", None)  # takes time, and keeps what it found
    if "shape" in arguments:
        arguments["shape"] = list(SHAPES[dimension])
    arguments.pop("cache", None)
    arguments.pop("cache_folder", None)
    return tree


def _check(tree: Tree) -> None:
    sections = {"trainer": {}, **tree}
    for name in ("model", "data", "trainer"):
        if not isinstance(sections.get(name), dict):
            raise InputError(
                f"This is not a configuration of a training, with no settings '{name}': see training/README.md."
            )


def _reader(reader: Tree, dimension: int) -> Tree:
    kept = {key: value for key, value in reader.items() if key in ("preset", "window", "percentiles", "centre")}
    return kept | {"shape": list(SHAPES[dimension])}


def _source(source: Tree | str, dimension: int, folder: Path) -> Tree:
    path, arguments = (
        (source, {}) if isinstance(source, str) else (source.get("class_path", ""), source.get("init_args"))
    )
    name = path.rpartition(".")[2]
    if name not in WRITERS:
        raise InputError(f"A dry run makes data of the sources {', '.join(WRITERS)}, not of '{path}'.")
    found = WRITERS[name](folder / f"{name}{dimension}d", dimension, arguments or {})
    return {"class_path": path, "init_args": found}


def _scan(number: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels, `[*S]`."""
    generator = torch.Generator().manual_seed(number)
    labels = Shapes(regions=3)(SHAPES[dimension], generator)[0, 0].numpy().astype(np.uint8)
    noise = torch.rand(labels.shape, generator=generator).numpy()
    return (60.0 * labels + 20.0 * noise).astype(np.float32), labels


def _write(path: Path, array: np.ndarray) -> None:
    if not path.exists():
        Volume(array[np.newaxis], Grid.regular(array.shape)).write(path)


def _keypoints(path: Path, dimension: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    places = np.random.default_rng(0).uniform(2, 6, (5, dimension))
    path.write_text("\n".join(",".join(f"{x:.2f}" for x in place) for place in places) + "\n", encoding="utf-8")


def _scans(dimension: int) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    for number, (subject, session) in enumerate(itertools.product(SUBJECTS, SESSIONS)):
        yield subject, session, *_scan(number, dimension)


def _folder(root: Path, dimension: int, arguments: Tree) -> Tree:
    for subject, session, image, labels in _scans(dimension):
        name = f"{subject}_{session}"
        _write(root / "images" / f"{name}.nii.gz", image)
        _write(root / "labels" / f"{name}.nii.gz", labels)
        _write(root / "masks" / f"{name}.nii.gz", (labels > 0).astype(np.uint8))
        _keypoints(root / "keypoints" / f"{name}.csv", dimension)
    kinds = [kind for kind in ("images", "labels", "keypoints", "masks") if arguments.get(kind)]
    return {kind: str(root / kind) for kind in kinds} | {"subject": r"(case_\d+)", "group": r"_(\d+)$"}


def _learn2reg(root: Path, dimension: int, arguments: Tree) -> Tree:
    _folder(root, dimension, {})
    for kind in ("images", "labels", "keypoints", "masks"):
        with contextlib.suppress(FileExistsError):
            (root / f"{kind}Tr").symlink_to(root / kind, target_is_directory=True)
    names = [f"{subject}_{session}" for subject in SUBJECTS for session in SESSIONS]
    entries = [
        {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz", "keypoints": f"./keypointsTr/{n}.csv"}
        for n in names
    ]
    paired = [{"fixed": a["image"], "moving": b["image"]} for a, b in zip(entries[::2], entries[1::2], strict=True)]
    content = {"training": entries, "training_paired_images": paired[:-1], "registration_val": paired[-1:]}
    (root / "made_dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return {**arguments, "root": str(root)}


def _pair_list(root: Path, dimension: int, arguments: Tree) -> Tree:
    _folder(root, dimension, {})
    lists = {"train": SUBJECTS[:2], "validation": SUBJECTS[2:]}
    for part, subjects in lists.items():
        lines = ["fixed,moving,fixed_labels,moving_labels,fixed_subject,moving_subject"]
        for subject in subjects:
            fixed, moving = (f"{subject}_{session}.nii.gz" for session in SESSIONS)
            lines.append(f"images/{fixed},images/{moving},labels/{fixed},labels/{moving},{subject},{subject}")
        (root / f"{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {part: str(root / f"{part}.csv") for part in lists}


def _bids(root: Path, dimension: int, arguments: Tree) -> Tree:
    for subject, session, image, labels in _scans(dimension):
        name = f"sub-{subject[-3:]}_ses-{session}"
        folder = root / f"sub-{subject[-3:]}" / f"ses-{session}" / "anat"
        _write(folder / f"{name}_{arguments.get('suffix', 'T1w')}.nii.gz", image)
        if arguments.get("labels"):
            _write(folder / f"{name}_{arguments['labels']}.nii.gz", labels)
    return {**arguments, "root": str(root)}


def _series(root: Path, dimension: int, arguments: Tree) -> Tree:
    for number, subject in enumerate(SUBJECTS):
        image, _ = _scan(number, 2)
        frames = [np.roll(image, shift, axis=0) * (1 + 0.1 * shift) for shift in (0, 1, 2, 1)]
        _write(root / f"{subject}.nii.gz", np.stack(frames))
    kept = {key: value for key, value in arguments.items() if key == "reference"}
    return {**kept, "root": str(root)}


WRITERS: dict[str, Callable[[Path, int, Any], Tree]] = {
    "Bids": _bids,
    "Folder": _folder,
    "Learn2Reg": _learn2reg,
    "PairList": _pair_list,
    "Series": _series,
}
