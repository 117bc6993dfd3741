"""Where a result comes from, for the report in the scene: inputs, options, weights, versions, and a command line."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from RecurrentRegistrationSlicer import setup
from RecurrentRegistrationSlicer.runs import GIVEN, Run, Settings

MASKS = {"fixedMask": "fixed-mask", "movingMask": "moving-mask", "initialTransform": "initial"}


def rows(run: Run, report: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values of what has to be known to do a run again; what is unknown is left out."""
    options = chosen(run)
    found = [("Fixed volume", described(run, report, "fixed")), ("Moving volume", described(run, report, "moving"))]
    found += [(f"Given: {role}", run.referred(role).GetName()) for role in GIVEN if run.referred(role) is not None]
    found += [(f"Option: {name}", str(value)) for name, value in options.items()]
    if options.get("weights"):
        found.append(("Weights (SHA-256)", checksum(str(options["weights"]))))
    found += [(f"Version: {name}", text) for name, text in report.get("versions", {}).items()]
    return [*found, ("Command line", command(run))]


def chosen(run: Run) -> dict[str, Any]:
    """The options of a run that are not the default."""
    default = Settings().options()
    return {name: value for name, value in run.kept("settings", {}).items() if value != default.get(name)}


def described(run: Run, report: dict[str, Any], image: str) -> str:
    """Name, size and checksum of an input, as the worker saw it."""
    node = run.referred(image)
    size = "×".join(str(n) for n in node.GetImageData().GetDimensions())
    sha256 = report.get("inputs", {}).get(image, {}).get("sha256")
    return f"{node.GetName()}, {size}" + (f", SHA-256 {sha256}" if sha256 else "")


def checksum(weights: str) -> str:
    """Of weights that are named, or of a file of them; "unknown" where they are gone."""
    named = [each for each in setup.weights() if weights in (each.name, str(each.folder / setup.WEIGHTS))]
    return named[0].sha256 if named else setup.fileChecksum(Path(weights))


def command(run: Run) -> str:
    """A command line for the volumes as files: those they were read from, or else names to save them under.

    A file knows of no transform above its volume: the result is the same where there was none.
    """
    words = ["recurrent-registration", "register", fileName(run.fixedNode), fileName(run.movingNode)]
    words += ["--output", "registered"]
    given = {flag: run.referred(role) for role, flag in MASKS.items()}
    flags = {name: value for name, value in chosen(run).items() if value is not None}
    flags |= {flag: fileName(node) for flag, node in given.items() if node is not None}
    for name in dataclasses.asdict(Settings()):  # in a fixed order
        flag = MASKS.get(name, name)
        if flag in flags:
            words += [f"--{flag}", str(flags.pop(flag))]
    return shlex.join(words)


def fileName(node: Any) -> str:
    """The file that a node was read from, or a name for it."""
    storage = node.GetStorageNode()
    suffix = ".tfm" if node.IsA("vtkMRMLTransformNode") else ".nrrd"
    return (storage.GetFileName() if storage is not None else None) or f"{node.GetName()}{suffix}"
