"""Pairs to register and what is known about them, read from YAML; every path is relative to the data root.

```yaml
name: lung_ct
modality: ct            # mr (default), ct, multi (different contrasts)
initial: geometry       # what peers start from: header, geometry (default), moments
pairs:
  - name: followup
    fixed: lung_ct/baseline.mha
    moving: lung_ct/followup.mha
    fixed_mask: …       # with moving_mask: given to every method
    fixed_labels: …     # with moving_labels: Dice
    structures: {liver: 5, aorta: [23, 7]}   # name: value, or [fixed value, moving value]; default every common value
    fixed_points: …     # with moving_points: target registration error; elastix index or point files
    reference: [{file: a.txt, inverse: true}, {file: b.txt}]   # ITK transforms, the first acts first on fixed points
    reference_field: …  # or a displacement image, LPS mm
    region: {file: brain.nii.gz, through: […]}   # where errors and deformation are averaged; through maps fixed points
    settings: {greedy: {pad: 4}}   # options of a peer that its user would choose for such images
neighbours: {images: hippocampus/images, labels: hippocampus/labels, count: 20}   # instead of pairs: i ← i + 1
```

A key beside `pairs` holds for all of them.
"""

from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Link:
    """One ITK transform of a chain."""

    file: Path
    inverse: bool = False


@dataclass(frozen=True)
class Region:
    """A mask, and the chain that takes fixed points into its space."""

    file: Path
    through: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Pair:
    """One registration and its ground truth; see the module's text for each entry."""

    name: str
    fixed: Path
    moving: Path
    modality: str = "mr"
    initial: str = "geometry"
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    structures: dict[str, tuple[int, int]] | None = None
    fixed_points: Path | None = None
    moving_points: Path | None = None
    reference: tuple[Link, ...] = ()
    reference_field: Path | None = None
    region: Region | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """A named list of pairs."""

    name: str
    pairs: tuple[Pair, ...]


def read(path: Path, data: Path) -> Manifest:
    """Read a manifest; raises ValueError for an unknown entry and FileNotFoundError for a missing file."""
    content = yaml.safe_load(path.read_text())
    name, entries = content.pop("name"), content.pop("pairs", [])
    if "neighbours" in content:
        entries = entries + _neighbours(data, **content.pop("neighbours"))
    return Manifest(name, tuple(_pair({**content, **entry}, data) for entry in entries))


def _neighbours(data: Path, images: str, labels: str, count: int) -> list[dict[str, Any]]:
    names = sorted(path.name for path in (data / images).iterdir())
    return [
        {
            "name": f"{fixed.split('.')[0]}_from_{moving.split('.')[0]}",
            "fixed": f"{images}/{fixed}",
            "moving": f"{images}/{moving}",
            "fixed_labels": f"{labels}/{fixed}",
            "moving_labels": f"{labels}/{moving}",
        }
        for fixed, moving in pairwise(names[: count + 1])
    ]


def _pair(entry: dict[str, Any], data: Path) -> Pair:
    unknown = set(entry) - {known.name for known in fields(Pair)}
    if unknown:
        raise ValueError(f"unknown entries in the manifest: {', '.join(sorted(unknown))}")

    def located(file: str) -> Path:
        path = data / file
        if not path.exists():
            raise FileNotFoundError(f"{path} is named in the manifest but does not exist")
        return path

    def chain(links: list[dict[str, Any]]) -> tuple[Link, ...]:
        return tuple(Link(located(link["file"]), link.get("inverse", False)) for link in links)

    values: dict[str, Any] = dict(entry)
    for key, value in entry.items():
        if key == "reference":
            values[key] = chain(value)
        elif key == "region":
            values[key] = Region(located(value["file"]), chain(value.get("through", [])))
        elif key == "structures":
            values[key] = {k: tuple(v) if isinstance(v, list) else (v, v) for k, v in value.items()}
        elif key not in ("name", "modality", "initial", "settings"):
            values[key] = located(value)
    return Pair(**values)
