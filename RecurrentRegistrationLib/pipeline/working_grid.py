"""The working grid, and the way back from it to the fixed image."""

from __future__ import annotations

import math
from collections.abc import Callable

from RecurrentRegistrationLib.pipeline.preparation import Prepared, foreground_box
from RecurrentRegistrationLib.pipeline.presets import VOXELS
from RecurrentRegistrationLib.volume import Grid

MARGIN = 8.0  # millimetres around what is not air in an image of 250 mm, in proportion elsewhere
FEWEST = 16  # voxels along the longest side that still register anything


def working_grid(
    fixed: Prepared, spacing: float | None, fits: Callable[[float], bool], most: int = VOXELS
) -> tuple[Grid | None, float]:
    """A box around the fixed anatomy, along the fixed axes, and the spacing it would have with memory for anything.

    Without a `spacing` it is the image's finest, but not finer than a third of the thickest slice, where there is
    nothing to see but the interpolation, nor than `most` voxels allow. It grows until `fits(voxels)`; None where that
    leaves too little to register.
    """
    box = fixed.grid.cropped(*foreground_box(fixed, MARGIN * max(1.0, max(fixed.grid.extent) / 250)))
    thick = [(n, s) for n, s in zip(box.size, box.spacing, strict=True) if n > 1]
    useful = max(min(box.spacing), max(s for _, s in thick) / 3)
    finest = spacing or max(useful, (math.prod(box.extent) / most) ** (1 / box.dimension))
    fitting = finest
    while not fits(math.prod(max(1.0, e / fitting) for e in box.extent)):
        fitting *= 1.1
        if max(box.extent) / fitting < FEWEST:
            return None, finest
    return box.resampled([s if n == 1 else fitting for n, s in zip(box.size, box.spacing, strict=True)]), finest
