"""The optimiser and its learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from RecurrentRegistrationLib.train.schedule import Schedule


@dataclass(frozen=True)
class Optimisation:
    """Adam and its rate.

    Attributes:
        rate: the highest learning rate.
        schedule: of the rate.
        kind: "adam", "amsgrad" or "adamw".
        betas: of the running means.
        decay: weight decay.
    """

    rate: float = 3e-4
    schedule: Schedule = Schedule()  # noqa: RUF009, it is frozen
    kind: Literal["adam", "amsgrad", "adamw"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    decay: float = 0.0

    def create(self, parameters: Iterable[nn.Parameter]) -> dict:
        """Optimiser and schedule as Lightning wants them."""
        kind = torch.optim.AdamW if self.kind == "adamw" else torch.optim.Adam
        optimiser = kind(
            list(parameters), lr=self.rate, betas=self.betas, weight_decay=self.decay, amsgrad=self.kind == "amsgrad"
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self.schedule)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
