"""Learn2Reg: a folder with a `*_dataset.json`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.cases import TEST, TRAIN, VALIDATION, Case, Collection, Names
from RecurrentRegistrationLib.train.sources.base import Source, stem

LISTS = {TRAIN: "training_paired_images", VALIDATION: "registration_val", TEST: "registration_test"}


class Learn2Reg(Source):
    """A task of the Learn2Reg challenge (OASIS, NLST, AbdomenCTCT, LungCT …).

    The pairs that the file lists for validation and test stay theirs; all other images are for training.

    Args:
        root: folder with the JSON file.
        modality: which of an image's files, for tasks that give several; "0" for the first.
    """

    def __init__(self, root: Path, modality: str = "0") -> None:
        self.root, self.modality = root, modality

    def collect(self) -> Collection:
        """One case for each image of the file."""
        root = Path(self.root)
        files = sorted(root.glob("*_dataset.json")) or sorted(root.glob("dataset.json"))
        if not files:
            raise InputError(
                f"There is no *_dataset.json in {root}: get the task's data from learn2reg.grand-challenge.org."
            )
        try:
            content = json.loads(files[0].read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{files[0]} is not a JSON file: it is damaged.") from error
        entries = [*content.get("training", []), *content.get("test", [])]
        cases = {case.name: case for case in (self._case(entry) for entry in entries)}
        pairs: dict[str, tuple[Names, ...]] = {}
        for part, key in LISTS.items():
            listed = [tuple(self._file(pair[side]) for side in ("fixed", "moving")) for pair in content.get(key, [])]
            for path in (path for pair in listed for path in pair):
                cases.setdefault(stem(path), self._case({"image": str(path)}))
            if listed:
                pairs[part] = tuple((stem(fixed), stem(moving)) for fixed, moving in listed)
        if not cases:
            raise InputError(f"{files[0]} lists no images.")
        return Collection(tuple(cases.values()), pairs)

    def _file(self, entry: Any) -> Path:
        if isinstance(entry, dict):
            entry = entry.get(self.modality, next(iter(entry.values())))
        return Path(self.root) / (entry[int(self.modality)] if isinstance(entry, list) else entry)

    def _case(self, entry: Any) -> Case:
        entry = entry if isinstance(entry, dict) else {"image": entry}
        image = self._file(entry["image"])
        # Validation pairs are listed by their images alone: annotations lie in the sister folders.
        kinds = {"labels": ("label", "labels", ".nii.gz"), "keypoints": ("keypoints", "keypoints", ".csv")}
        kinds["mask"] = ("mask", "masks", ".nii.gz")
        found: dict[str, Any] = {}
        for field, (key, folder, ending) in kinds.items():
            sister = image.parent.parent / image.parent.name.replace("images", folder) / (stem(image) + ending)
            path = self._file(entry[key]) if key in entry else sister
            found[field] = str(path) if key in entry or path.exists() else None
        name = stem(image)
        return Case(name=name, subject=re.sub(r"_\d{4}$", "", name), image=str(image), **found)
