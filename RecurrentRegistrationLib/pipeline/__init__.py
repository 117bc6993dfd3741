"""From two volumes to a transform: options, plan, run. `start` gives a `Run` to iterate over, `register` its end."""

from __future__ import annotations

from typing import Any

from RecurrentRegistrationLib.pipeline.guide import Guide
from RecurrentRegistrationLib.pipeline.images import Images
from RecurrentRegistrationLib.pipeline.options import Options
from RecurrentRegistrationLib.pipeline.recorder import Landmarks
from RecurrentRegistrationLib.pipeline.registration import Registration
from RecurrentRegistrationLib.pipeline.run import Run
from RecurrentRegistrationLib.volume import Volume

__all__ = ["Guide", "Options", "Registration", "Run", "register", "start"]


def start(
    fixed: Volume,
    moving: Volume,
    *,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    options: Options | None = None,
    landmarks: Landmarks | None = None,
    guide: Guide | None = None,
) -> Run:
    """Check everything that can be checked before the work, and return a `Run` to iterate over.

    Raises:
        InputError: an input or an option cannot be used.
        OutOfMemoryError: the coarsest useful working grid does not fit in memory.
    """
    return Run(Images(fixed, moving, fixed_mask, moving_mask), options or Options(), landmarks, guide)


def register(fixed: Volume, moving: Volume, **arguments: Any) -> Registration:
    """Register to the end; arguments as `start`."""
    run = start(fixed, moving, **arguments)
    for _ in run:
        pass
    return run.result()
