"""Lists of pairs, as the OAI knees and many other studies give them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.cases import PARTS, Case, Collection, Names
from RecurrentRegistrationLib.train.sources.base import Source, stem

KINDS = ("labels", "keypoints", "mask", "subject")  # of a column, after the name of the image
COLUMNS = ("moving", "fixed", "moving_labels", "fixed_labels")  # of a list without a header


class PairList(Source):
    """A text file for each part of a split, one pair a line.

    With a header line the columns are named: `fixed`, `moving` and, as far as there are any, `fixed_labels`,
    `moving_labels`, `fixed_keypoints`, `moving_keypoints`, `fixed_mask`, `moving_mask`, `fixed_subject`,
    `moving_subject`. Without one they are moving, fixed, moving labels, fixed labels. Commas, tabs or blanks part them;
    paths count from the list's folder.

    Args:
        train: the list of training pairs.
        validation: likewise.
        test: likewise.
    """

    def __init__(self, train: Path, validation: Path | None = None, test: Path | None = None) -> None:
        self.lists = {part: path for part, path in zip(PARTS, (train, validation, test), strict=True) if path}

    def collect(self) -> Collection:
        """The cases of all lists; a case's part is that of its list."""
        cases: dict[str, Case] = {}
        pairs: dict[str, tuple[Names, ...]] = {}
        for part, path in self.lists.items():
            listed = []
            for row in _rows(Path(path)):
                pair = [_case(row, side, Path(path).parent, part) for side in ("fixed", "moving")]
                for case in pair:
                    other = cases.setdefault(case.name, case)
                    if other.image != case.image:
                        raise InputError(f"{other.image} and {case.image} have the same name: rename one of them.")
                    if other.part != part:
                        raise InputError(f"{case.name} is in the list for {other.part} and in that for {part}.")
                listed.append((pair[0].name, pair[1].name))
            pairs[part] = tuple(listed)
        return Collection(tuple(cases.values()), pairs)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"There is no list {path}: write it as training/README.md says.") from error
    separator = next((s for s in ",\t" if lines and s in lines[0]), " ")
    table = list(csv.reader(lines, delimiter=separator, skipinitialspace=True))
    named = bool(table) and "fixed" in table[0] and "moving" in table[0]
    header = [word.strip() for word in table.pop(0)] if named else list(COLUMNS)
    sided = [word for word in header if word.startswith(("fixed_", "moving_"))]
    strange = [word for word in sided if word.partition("_")[2] not in KINDS]
    if strange:
        raise InputError(f"{path} has a column '{strange[0]}'; of an image there are {', '.join(KINDS)}.")
    if not table:
        raise InputError(f"{path} lists no pair.")
    for number, row in enumerate(table, start=1 + named):
        if len(row) < 2 or len(row) > len(header):
            raise InputError(f"Line {number} of {path} has {len(row)} columns; 2 to {len(header)} are needed.")
    return [dict(zip(header, row, strict=False)) for row in table]


def _case(row: Mapping[str, str], side: str, folder: Path, part: str) -> Case:
    def file(kind: str) -> str | None:
        value = row.get(f"{side}_{kind}", "")
        return str(folder / value) if value else None

    image = folder / row[side]
    return Case(
        name=stem(image),
        subject=row.get(f"{side}_subject") or stem(image),
        image=str(image),
        labels=file("labels"),
        keypoints=file("keypoints"),
        mask=file("mask"),
        part=part,
    )
