"""`train`: from a configuration to weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from RecurrentRegistrationLib.errors import InputError


def train(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="YAML file: see training/README.md.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder (default: runs/ and the file's name).")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run stopped.")] = False,
    fast_dev_run: Annotated[
        bool, typer.Option("--fast-dev-run", help="One step of each stage on tiny made data; nothing is kept.")
    ] = False,
    save_every: Annotated[int, typer.Option(min=1, help="Training steps between checkpoints.")] = 500,
) -> None:
    """Train a method as CONFIG says; further options override its settings, as in --trainer.max_steps=1000.

    Writes checkpoints, logs and model.safetensors with model.json. Stopped at any moment, it goes on with --resume.
    """
    try:
        from lightning.pytorch.utilities import rank_zero_only

        from RecurrentRegistrationLib.train.run import Work
        from RecurrentRegistrationLib.train.run import train as run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("RecurrentRegistrationLib"):
            raise
        raise InputError("Training needs more packages: pip install 'RecurrentRegistrationLib[train]'.") from error
    folder = output or Path("runs") / config.parent.name / config.stem
    weights = run(Work(config, folder, tuple(context.args), fast_dev_run, resume, save_every))
    rank_zero_only(print)(weights or f"{config} can be trained.")
