"""The command line by which a contender registers a pair: one of ours, a peer's adapter, or any program."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from RecurrentRegistrationLib import methods
from RecurrentRegistrationLib.benchmark.manifest import OURS, Contender, Manifest, Pair
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.pipeline.options import Options

HELPERS = ("common", "linear")  # files of the folder of peers that are not adapters


@dataclass(frozen=True)
class Programs:
    """Where programs are found.

    Attributes:
        peers: the folder of the adapters, one file each.
        python: the interpreter that runs them.
        weights: the folder that the relative paths of weights start from.
    """

    peers: Path | None = None
    python: Path = Path(sys.executable)
    weights: Path = Path()

    def check(self, contender: Contender, labels: Sequence[str] = ()) -> None:
        """Raise InputError where a contender cannot be run at all; `labels` could have been named instead."""
        if contender.program == OURS:
            known = {field.name for field in dataclasses.fields(Options)}
            if unknown := set(contender.options) - known:
                raise InputError(
                    f"'{contender.label}': there is no option '{sorted(unknown)[0]}'; there are "
                    f"{', '.join(sorted(known))}."
                )
        elif contender.command:
            if contender.options:
                raise InputError(f"'{contender.label}' is a command, which takes no options: write them into it.")
        elif contender.program not in self._adapters():
            others = [label for label in labels if label != contender.program]
            known = ", ".join(dict.fromkeys([*others, OURS, *methods.names(), *self._adapters()]))
            peer = "; for a peer give the folder of the peers' adapters: --peers" if self.peers is None else ""
            raise InputError(f"There is no method '{contender.program}': there are {known}{peer}.")

    def _adapters(self) -> dict[str, Path]:
        """The peers' files, by name."""
        files = [] if self.peers is None else sorted(self.peers.glob("*.py"))
        return {file.stem: file for file in files if file.stem not in HELPERS}

    def command(self, contender: Contender, pair: Pair, folder: Path, *, manifest: Manifest, repeat: int) -> list[str]:
        """The command line that registers a pair into an existing folder."""
        if contender.program == OURS:
            task = self._task(contender, pair, folder, manifest, repeat)
            return [sys.executable, "-m", "RecurrentRegistrationLib.benchmark.ours", str(task)]
        if contender.command:
            files = {key: str(getattr(pair, key) or "") for key in ("fixed", "moving", "fixed_mask", "moving_mask")}
            return [
                word.format(output=folder, threads=manifest.threads, **files) for word in shlex.split(contender.command)
            ]
        masks = [(f"--{side}-mask", getattr(pair, f"{side}_mask")) for side in ("fixed", "moving")]
        chosen = pair.settings.get(contender.program, {}) | contender.options
        return [
            str(self.python),
            str(self._adapters()[contender.program]),
            str(pair.fixed),
            str(pair.moving),
            *("-o", str(folder), "--modality", pair.modality, "--initial", pair.initial),
            *(text for name, path in masks if path is not None for text in (name, str(path))),
            *(text for key, value in chosen.items() for text in ("--option", f"{key}={value}")),
        ]

    def _task(self, contender: Contender, pair: Pair, folder: Path, manifest: Manifest, repeat: int) -> Path:
        options = dict(contender.options)
        options["seed"] = options.get("seed", 0) + repeat
        if (file := self.weights / str(options.get("weights", ""))).is_file():  # otherwise the name of a model
            options["weights"] = str(file.absolute())
        settings = {name: getattr(manifest, name) for name in ("threads", "operations", "uncertainty")}
        task = {"pair": dataclasses.asdict(pair), "options": options, **settings}
        file = folder / "task.json"
        file.write_text(json.dumps(task, default=str, indent=1), encoding="utf-8")
        return file
