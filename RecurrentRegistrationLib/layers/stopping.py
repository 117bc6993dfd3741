"""When a recurrence has done its work: a sign that stays low."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Patience:
    """Stops an item of a batch once its sign has been below `threshold` for `steps` steps in a row."""

    threshold: float
    steps: int = 2

    def count(self, low: Tensor, sign: Tensor) -> Tensor:
        """Steps in a row `[B]` with a low sign, given how many there were before and the newest sign `[B]`."""
        return torch.where(self.stopped(low), low, (low + 1) * (sign < self.threshold))

    def stopped(self, low: Tensor) -> Tensor:
        """Which items `[B]` have stopped."""
        return low >= self.steps
