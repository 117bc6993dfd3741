"""What to register and with what, read from YAML; the paths of images are relative to the data folder.

```yaml
name: lung_ct
modality: ct            # mr (default), ct, multi (different contrasts): told to the peers
initial: geometry       # what the peers start from: header, geometry (default), moments
accuracy: tre_mm        # the measure that methods are ranked by; default the first of TRE, distance, Dice that is known
against: ours           # every other method is tested against this one; default the first of ours
repeats: 1              # runs of each method on each pair; ours get another seed each time
threads: 1              # of every method
timeout: 3600           # seconds after which a run has failed
uncertainty: []         # of ours: steps, samples, inverse; compared with the error where the mapping is known
motion: false           # histograms of how differently near voxels move (RAN, Fig. 7); needs labels
operations: false       # count the multiply-accumulate operations of networks (one more forward pass)
methods:                # a list of NAME[:option=value…], NAME a method's, ours or a peer's; or by label:
  ours: {method: refine, refine: 50}                 # options of `pipeline.Options`
  no hidden state: {method: riir, method_options: {memory: [false, false]}, weights: riir_00.safetensors}
  greedy: greedy                                     # an adapter of the folder of peers, and its options
  my tool: {command: "tool {fixed} {moving} {output}/transform.h5"}   # or {output}/displacement.nrrd
pairs:
  - name: followup
    fixed: lung_ct/baseline.mha
    moving: lung_ct/followup.mha
    fixed_mask: …       # with moving_mask: given to every method
    fixed_labels: …     # with moving_labels: overlap and surface distances
    structures: {liver: 5, aorta: [23, 7]}   # name: value, or [fixed value, moving value]; default every value
    fixed_points: …     # with moving_points: target registration error
    reference: [{file: a.txt, inverse: true}, {file: b.txt}]   # ITK transforms, the first acts first on fixed points
    reference_field: …  # or a displacement image, LPS mm
    region: {file: brain.nii.gz, through: […]}   # where errors and deformation are averaged; through maps fixed points
    settings: {greedy: {pad: 4}}   # options of a peer that its user would choose for such images
neighbours: {images: hippocampus/images, labels: hippocampus/labels, count: 20}   # instead of pairs: i ← i + 1
base: ../hippocampus.yaml   # another manifest, whose entries hold where this one has none
```

A key of a pair that stands beside `pairs` holds for all of them.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from RecurrentRegistrationLib import methods as library
from RecurrentRegistrationLib.benchmark.measures import MEASURES
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io import yamls

OURS = "ours"
SETTINGS: dict[str, type] = {
    "accuracy": str,
    "against": str,
    "repeats": int,
    "threads": int,
    "timeout": float,
    "operations": bool,
    "uncertainty": list,
    "motion": bool,
}
PLAIN = ("name", "modality", "initial", "settings")  # entries of a pair that are not files


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
class Contender:
    """A method with its options.

    Attributes:
        label: what it is called in tables.
        program: "ours", the name of a peer's adapter, or empty for a command line of one's own.
        options: of `pipeline.Options` for ours, of the adapter for a peer.
        command: with `{fixed}`, `{moving}`, `{fixed_mask}`, `{moving_mask}`, `{output}` and `{threads}` to fill in.
    """

    label: str
    program: str
    options: dict[str, Any] = field(default_factory=dict)
    command: str = ""


@dataclass(frozen=True)
class Manifest:
    """Pairs and methods; see the module's text.

    Attributes:
        contenders: what registers the pairs.
        labels: of the file's own methods, which may be others than the contenders.
    """

    name: str
    pairs: tuple[Pair, ...]
    contenders: tuple[Contender, ...] = ()
    labels: tuple[str, ...] = ()
    accuracy: str = ""
    against: str = ""
    repeats: int = 1
    threads: int = 1
    timeout: float | None = None
    operations: bool = False
    uncertainty: tuple[str, ...] = ()
    motion: bool = False


def read(
    path: str | Path,
    data: str | Path,
    *,
    methods: list[str] | None = None,
    pairs: str | Path | None = None,
    check: bool = True,
) -> Manifest:
    """Read a manifest.

    Args:
        path: the YAML file.
        data: the folder that its paths start from.
        methods: these contenders instead of the manifest's, as `NAME[:option=value…]`; NAME is a label of the manifest,
            whose options are changed by those given, or else what it may be in a manifest's list.
        pairs: another manifest, whose pairs are taken instead.
        check: whether every image must exist.

    Raises:
        InputError: it cannot be read, an entry is unknown, or a file is missing.
    """
    path = Path(path)
    content = _content(path)
    if pairs is not None:
        content = {key: content[key] for key in ("name", "methods", *SETTINGS) if key in content}
        content = {**_content(Path(pairs)), **content}
    try:
        return _understood(content, path, Path(data), methods, check)
    except InputError:
        raise
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise InputError(f"{path} holds an entry of another kind than is needed there: {error}.") from error


def _understood(content: dict[str, Any], path: Path, data: Path, methods: list[str] | None, check: bool) -> Manifest:
    """The manifest of a file's content."""
    name, entries = content.pop("name"), content.pop("pairs", None) or []
    if "neighbours" in content:
        entries = [*entries, *_neighbours(data, **content.pop("neighbours"))]
    settings = {key: _setting(key, content.pop(key), path) for key in SETTINGS if key in content}
    own = _contenders(content.pop("methods", []), path)
    contenders = own if methods is None else _distinct([_named(text, own) for text in methods], path)
    pairs = tuple(_pair({**content, **entry}, data, path, check) for entry in entries)
    _unique([pair.name for pair in pairs], path, "pair")
    manifest = Manifest(name, pairs, contenders, tuple(each.label for each in own), **settings)
    if manifest.accuracy and manifest.accuracy not in MEASURES:
        raise InputError(f"{path}: accuracy '{manifest.accuracy}' is none of {', '.join(MEASURES)}.")
    return manifest


def _setting(key: str, value: Any, path: Path) -> Any:
    """A setting, once its kind is right."""
    kind = SETTINGS[key]
    counts = kind in (int, float)
    right = isinstance(value, (int, float) if kind is float else kind) and not (counts and isinstance(value, bool))
    if not right or (counts and value <= 0):
        needed = {
            int: "a whole number above 0",
            float: "a number above 0",
            bool: "true or false",
            str: "a name",
            list: "a list",
        }
        raise InputError(f"{path}: '{key}' is {needed[kind]}, not {value!r}.")
    return value


def _content(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The entries of a file, over those of its base."""
    if path.resolve() in above:
        raise InputError(f"The manifest {path} is its own base.")
    try:
        content = yamls.read(path)
        base = content.pop("base", None)
        if not isinstance(content["name"], (str, int, float)):
            raise KeyError("name")
        content["name"] = str(content["name"])
        found = None if base is None else path.parent / base
    except FileNotFoundError as error:
        raise InputError(f"There is no manifest {path}.") from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        why = f" ({error})" if type(error) is ValueError else ""
        raise InputError(f"{path} is not a manifest: it needs a name and pairs, as YAML{why}.") from error
    return content if found is None else {**_content(found, (*above, path.resolve())), **content}


def contender(text: str) -> Contender:
    """`bspline:refine=50`, `ours:weights=a.safetensors` or `greedy:metric=NCC`; values are read as YAML."""
    name, options = _parted(text)
    if name in library.names():
        return Contender(text, OURS, {"method": name, **options})
    return Contender(text, name, options)


def _parted(text: str) -> tuple[str, dict[str, Any]]:
    name, *options = re.split(r":(?! )", text)
    try:
        given = dict(option.split("=", 1) for option in options)
    except ValueError as error:
        raise InputError(f"'{text}' is not a method: write NAME:option=value.") from error
    return name, {key: yaml.safe_load(value) for key, value in given.items()}


def _named(text: str, own: tuple[Contender, ...]) -> Contender:
    """A contender by its label, with some options changed; or as `contender` reads it."""
    labelled = {each.label: each for each in own}
    if text in labelled:
        return labelled[text]
    name, options = _parted(text)
    if name not in labelled:
        return contender(text)
    return dataclasses.replace(labelled[name], label=text, options=labelled[name].options | options)


def _contenders(entries: list[str] | dict[str, Any], path: Path) -> tuple[Contender, ...]:
    if isinstance(entries, dict):
        return _distinct([_labelled(str(label), entry) for label, entry in entries.items()], path)
    return _distinct([contender(text) for text in entries], path)


def _distinct(found: list[Contender], path: Path) -> tuple[Contender, ...]:
    _unique([each.label for each in found], path, "method")
    return tuple(found)


def _labelled(label: str, entry: str | dict[str, Any]) -> Contender:
    if isinstance(entry, str):
        return dataclasses.replace(contender(entry), label=label)
    options = dict(entry)
    command = options.pop("command", "")
    return Contender(label, "" if command else options.pop("program", OURS), options, command)


def _unique(names: list[str], path: Path, what: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path} names the {what} '{twice[0]}' twice.")


def _neighbours(data: Path, images: str, count: int, labels: str | None = None) -> list[dict[str, Any]]:
    folder = data / images
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}: give the folder of the data.")
    names = sorted(path.name for path in folder.iterdir())
    return [
        {
            "name": f"{fixed.split('.')[0]}_from_{moving.split('.')[0]}",
            "fixed": f"{images}/{fixed}",
            "moving": f"{images}/{moving}",
            **({"fixed_labels": f"{labels}/{fixed}", "moving_labels": f"{labels}/{moving}"} if labels else {}),
        }
        for fixed, moving in pairwise(names[: count + 1])
    ]


def _pair(entry: dict[str, Any], data: Path, manifest: Path, check: bool) -> Pair:
    unknown = set(entry) - {known.name for known in dataclasses.fields(Pair)}
    if unknown:
        raise InputError(f"{manifest} holds unknown entries: {', '.join(sorted(unknown))}.")
    missing = {"name", "fixed", "moving"} - set(entry)
    if missing:
        raise InputError(f"A pair of {manifest} lacks {', '.join(sorted(missing))}.")

    def located(file: str) -> Path:
        path = data / file
        if check and not Path(str(path).rpartition("#")[0] or path).exists():
            raise InputError(f"{path} is named in {manifest} but does not exist: give the folder of the data.")
        return path

    def chain(links: list[dict[str, Any]]) -> tuple[Link, ...]:
        return tuple(Link(located(link["file"]), link.get("inverse", False)) for link in links)

    def understood(key: str, value: Any) -> Any:
        if key == "reference":
            return chain(value)
        if key == "region":
            region: dict[str, Any] = {"file": value} if isinstance(value, str) else value
            return Region(located(region["file"]), chain(region.get("through", [])))
        if key == "structures":
            return {k: tuple(v) if isinstance(v, list) else (v, v) for k, v in value.items()}
        return value if key in PLAIN else located(value)

    if not isinstance(entry["name"], (str, int, float)):
        raise InputError(f"{manifest}: the name of a pair is a text, not {type(entry['name']).__name__}.")
    entry = {**entry, "name": str(entry["name"])}
    values = {}
    for key, value in entry.items():
        try:
            values[key] = understood(key, value)
        except (TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{manifest}: '{key}' of the pair '{entry['name']}' is not understood: {value}."
            ) from error
    return Pair(**values)
