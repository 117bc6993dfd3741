"""Configurations: YAML files that may stand on others and fall into stages.

base: ../base.yaml            # or a list: what is not said here is as there; paths count from this file
stages:                       # each stage begins with the weights of the one before
  - name: affine
    model: {steps: 3, …}      # what differs from the rest of the file
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io import yamls
from RecurrentRegistrationLib.io.files import safe_name

Tree = dict[str, Any]


def read(path: Path) -> Tree:
    """A configuration with all that it stands on. Raises InputError for a file that is none."""
    return _read(path, ())


def _read(path: Path, above: tuple[Path, ...]) -> Tree:
    if path.resolve() in above:
        raise InputError(f"The configuration {path} stands on itself.")
    try:
        own = yamls.read(path)
    except OSError as error:
        raise InputError(f"There is no configuration {path}.") from error
    except ValueError as error:
        raise InputError(f"The configuration {path} is not YAML of settings: {error}") from error
    if not isinstance(own, dict):
        raise InputError(f"The configuration {path} holds no settings.")
    bases = own.pop("base", [])
    tree: Tree = {}
    for base in [bases] if isinstance(bases, str) else bases:
        tree = merged(tree, _read(path.parent / base, (*above, path.resolve())))
    return merged(tree, own)


def merged(under: Tree, over: Tree) -> Tree:
    """Two trees as one, where `over` decides; lists are replaced as a whole, and so is a class with its arguments."""
    result = dict(under)
    for key, value in over.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and _same_class(old, value):
            value = merged(old, value)
        result[key] = value
    return result


def _same_class(old: Tree, new: Tree) -> bool:
    return "class_path" not in new or new["class_path"] == old.get("class_path")


def stages(tree: Tree) -> list[tuple[str, Tree]]:
    """Name and settings of each stage; one without a name for a configuration without stages."""
    common = {key: value for key, value in tree.items() if key != "stages"}
    if "stages" not in tree:
        return [("", common)]
    listed = tree["stages"]
    if not isinstance(listed, list) or not all(isinstance(stage, dict) and "name" in stage for stage in listed):
        raise InputError("The stages of a configuration are a list, each with a name.")
    names = [safe_name(str(stage["name"])) for stage in listed]
    if len(set(names)) < len(names):
        raise InputError("Two stages of the configuration have one name: each needs its own.")
    return [
        (name, merged(common, {key: value for key, value in stage.items() if key != "name"}))
        for name, stage in zip(names, listed, strict=True)
    ]
