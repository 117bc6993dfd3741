"""The optimiser and its learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from RecurrentRegistrationLib.errors import InputError
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

    def __post_init__(self) -> None:
        if self.rate < 0 or self.decay < 0:
            raise InputError(f"The rate and the decay are 0 or more, not {self.rate} and {self.decay}.")

    def create(self, parameters: Iterable[nn.Parameter]) -> dict:
        """Optimiser and schedule as Lightning wants them."""
        kind = torch.optim.AdamW if self.kind == "adamw" else torch.optim.Adam
        optimiser = kind(
            list(parameters), lr=self.rate, betas=self.betas, weight_decay=self.decay, amsgrad=self.kind == "amsgrad"
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self.schedule)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def impose(self, checkpoint: dict[str, Any]) -> None:
        """Put this rate and schedule in the place of a checkpoint's, for a training that is resumed with others."""
        for state in checkpoint["lr_schedulers"]:
            rate = self.rate * self.schedule(state["last_epoch"])
            state["base_lrs"] = [self.rate] * len(state["base_lrs"])
            state["lr_lambdas"] = [None] * len(state["lr_lambdas"])
            state["_last_lr"] = [rate] * len(state["_last_lr"])
            for optimiser in checkpoint["optimizer_states"]:
                for group in optimiser["param_groups"]:
                    group |= {"lr": rate, "initial_lr": self.rate}
