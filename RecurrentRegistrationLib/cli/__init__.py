"""The commands, one file each.

A command imports the library inside its function, so that `--help` and a mistyped option answer at once. Results go to
standard output, progress and messages to standard error. Exit status: 0 done, 1 a registration of a benchmark
failed, 2 bad input or configuration (one line `error: …`, nothing written), 3 not enough memory, 130 cancelled.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from RecurrentRegistrationLib import __version__
from RecurrentRegistrationLib.cli.apply import apply
from RecurrentRegistrationLib.cli.benchmark import benchmark
from RecurrentRegistrationLib.cli.evaluate import evaluate
from RecurrentRegistrationLib.cli.interruption import is_interruption
from RecurrentRegistrationLib.cli.methods import methods
from RecurrentRegistrationLib.cli.points import points
from RecurrentRegistrationLib.cli.register import register
from RecurrentRegistrationLib.cli.series import series
from RecurrentRegistrationLib.cli.train import train
from RecurrentRegistrationLib.cli.worker import worker
from RecurrentRegistrationLib.errors import InputError, InputWarning, OutOfMemoryError, is_out_of_memory

__all__ = ["app", "run"]

UsageError: Any = typer.BadParameter.__base__  # of Typer's own click, or of the package click in older versions

app = typer.Typer(
    name="recurrent-registration",
    help="Deformable registration of medical images, step by step.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (register, apply, points, evaluate, methods, series, benchmark, worker):
    app.command()(command)
# What a configuration may hold is known to the training alone, so its options pass through.
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(train)


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version and stop.")
) -> None:
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return its exit status."""
    command = typer.main.get_command(app)
    try:
        with _warnings_as_lines():
            return int(command.main(arguments, prog_name="recurrent-registration", standalone_mode=False) or 0)
    except UsageError as error:
        return _fail(2, error.format_message())
    except InputError as error:
        return _fail(2, str(error))
    except (KeyboardInterrupt, typer.Abort):
        return _cancelled()
    except (OutOfMemoryError, MemoryError, RuntimeError) as error:
        if is_interruption(error):
            return _cancelled()
        if not is_out_of_memory(error):
            raise
        return _fail(
            3, str(error) if isinstance(error, OutOfMemoryError) else "There is not enough memory for this job."
        )


def _cancelled() -> int:
    print("cancelled", file=sys.stderr)
    return 130


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print what was assumed about inputs at the end, once each; where the command fails, its error alone."""
    told: dict[str, None] = {}
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, InputWarning):
                told[str(message)] = None
            else:
                shown(message, category, *where, **more)

        warnings.showwarning = show
        warnings.simplefilter("always", InputWarning)
        yield
    for sentence in told:
        print(f"warning: {sentence}", file=sys.stderr)


def _fail(status: int, message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status
