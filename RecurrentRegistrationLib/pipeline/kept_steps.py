"""The steps of a run that stay at hand: spread over the whole run, and few enough to be held in memory."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.transform import DisplacementField

STATES = 2**30  # bytes of recurrence that are held, besides the last step's


class History:
    """Kept steps, oldest first.

    Displacements are held in half precision (a thousandth of their length), the states that continue the recurrence as
    long as they fit in `STATES`, the newest ones first.

    Args:
        keep: about how many steps of a run are kept; when it goes on, half as many of the next, then a third, and so
            on.
    """

    def __init__(self, keep: int = 40) -> None:
        self.kept: list[Step] = []
        self._keep = keep
        self._every = 1

    def expect(self, count: int) -> None:
        """Spread what is kept over the next `count` steps: the fewer, the more there are already."""
        self._every = max(1, math.ceil(count * (1 + len(self.kept) / self._keep) / self._keep))

    def offer(self, step: Step) -> bool:
        """Keep a step, or not: every n-th is kept, and the last of each stage."""
        if step.index % self._every and not _ends_stage(step.stage) and step.phase not in ("correct", "conclude"):
            return False
        self.kept.append(dataclasses.replace(step, field=_as(step.field, torch.float16)))
        self._forget_states()
        return True

    def step(self, index: int) -> Step:
        """The kept step of an index. Raises InputError where it was not kept."""
        found = next((step for step in self.kept if step.index == index), None)
        if found is None:
            known = ", ".join(str(step.index) for step in self.kept)
            raise InputError(f"Step {index} is not at hand; these are: {known or 'none yet'}.")
        return dataclasses.replace(found, field=_as(found.field, torch.float32))

    def forget_after(self, index: int) -> None:
        """Drop the steps after an index."""
        self.kept = [step for step in self.kept if step.index <= index]

    def _forget_states(self) -> None:
        budget = STATES
        for n in reversed(range(len(self.kept))):
            budget -= _bytes(self.kept[n].state)
            if budget < 0:
                self.kept[n] = dataclasses.replace(self.kept[n], state=None)


def _as(field: DisplacementField, dtype: torch.dtype) -> DisplacementField:
    return DisplacementField(field.values.cpu().to(dtype), field.grid)


def _ends_stage(stage: str) -> bool:
    """Whether a stage such as "1/2 res 12/12" has come to its end."""
    number, _, count = stage.rpartition(" ")[2].partition("/")
    return number == count


def _bytes(state: Any) -> int:
    """Memory of the tensors in a state: tensors, containers and dataclasses of them."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    if dataclasses.is_dataclass(state):
        return sum(_bytes(getattr(state, field.name)) for field in dataclasses.fields(state))
    if isinstance(state, dict):
        return sum(map(_bytes, state.values()))
    return sum(map(_bytes, state)) if isinstance(state, (list, tuple)) else 0
