"""Each landmark measured by a registration that did not see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.pipeline.guide import Guide
from RecurrentRegistrationLib.pipeline.run import Run


def check_left_out(guide: Guide) -> None:
    """Refuse a guide with fewer than two landmarks."""
    if guide.landmarks is None or len(guide.landmarks) < 2:
        raise InputError("Leaving out a landmark at a time needs two landmarks at least: give their files.")


def left_out(guide: Guide, begin: Callable[[Guide], Run]) -> Iterator[float]:
    """The error of each landmark, millimetres: one whole registration for each.

    Args:
        guide: what the user knows.
        begin: a run with another guide.
    """
    pairs = guide.landmarks
    assert pairs is not None
    for number in range(len(pairs)):
        run = begin(guide.without_landmark(number))
        for _ in run:
            pass
        mapped = run.result().transform.map_points(pairs.fixed[number : number + 1])
        yield float(np.linalg.norm(mapped - pairs.moving[number]))
