"""Which steps of a run stay at hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.pipeline.kept_steps import History
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.transform import DisplacementField
from RecurrentRegistrationLib.volume import Grid


def made(index: int, stage: str = "one") -> Step:
    """A step with nothing but its number."""
    grid = Grid.regular((1, 1))
    field = DisplacementField(torch.full((1, 2, 1, 1), float(index)), grid)
    return Step(index, "deform", stage, field, np.eye(3), grid, similarity=0.5)


def went_on(history: History, count: int) -> None:
    """Make some more steps."""
    history.expect(count)
    first = history.kept[-1].index + 1 if history.kept else 1
    for index in range(first, first + count):
        last = index == first + count - 1
        history.offer(made(index, f"refine {count}/{count}" if last else "one"))


@pytest.mark.parametrize("count", [1, 39, 40, 400, 100_000])
def test_a_run_keeps_about_forty_and_its_last(count: int) -> None:
    history = History()
    went_on(history, count)
    assert min(count, 20) <= len(history.kept) <= 41
    assert history.kept[-1].index == count


def test_whoever_goes_on_and_on_keeps_less_and_less() -> None:
    history, counts = History(), []
    for _ in range(60):
        went_on(history, 20)
        counts.append(len(history.kept))
    assert counts[0] == 20
    assert counts[-1] < 400  # of 1200 steps
    gains = [later - earlier for earlier, later in pairwise(counts)]
    assert gains[-1] < gains[0] / 3
    assert min(gains) >= 1


def test_what_was_not_kept_is_said() -> None:
    history = History()
    went_on(history, 80)
    assert history.step(80).field.values.tolist() == [[[[80.0]], [[80.0]]]]
    with pytest.raises(InputError, match="Step 3 is not at hand"):
        history.step(3)
