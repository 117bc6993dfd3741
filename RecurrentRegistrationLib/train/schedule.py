"""Numbers that change over a training or over a registration's steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from RecurrentRegistrationLib.errors import InputError

Shape = Literal["constant", "cosine", "halving", "linear"]
Weighting = Literal["last", "uniform", "sum", "exponential", "rising", "sequence"]


@dataclass(frozen=True)
class Schedule:
    """A factor from 0 to 1 as a function of the training step.

    Attributes:
        shape: "constant"; "cosine" and "linear" fall to `floor` at step `length`; "halving" each `length` steps.
        length: see there.
        floor: the lowest factor.
        warm_up: steps over which it first rises from 0.
    """

    shape: Shape = "constant"
    length: int = 0
    floor: float = 0.0
    warm_up: int = 0

    def __post_init__(self) -> None:
        if self.shape != "constant" and self.length < 1:
            raise InputError(f"The schedule '{self.shape}' needs a length in steps.")

    def __call__(self, step: int) -> float:
        """The factor."""
        rise = min(1.0, (step + 1) / (self.warm_up + 1)) if self.warm_up else 1.0
        if self.shape == "constant":
            return rise
        past = min(step / self.length, 1.0)
        fall = {
            "cosine": 0.5 + 0.5 * math.cos(math.pi * past),
            "linear": 1 - past,
            "halving": 0.5 ** (step // self.length),
        }[self.shape]
        return rise * max(fall, self.floor)


@dataclass(frozen=True)
class Fading:
    """AVSM's weight of the affine regulariser, `K / (K + exp(n / K))` in epochs n, times the term's own weight.

    Attributes:
        epoch: training steps in an epoch.
        decay: K.
    """

    epoch: int = 400
    decay: float = 4.0

    def __call__(self, step: int) -> float:
        """The factor."""
        return self.decay / (self.decay + math.exp(min(step / self.epoch / self.decay, 700.0)))


@dataclass(frozen=True)
class Ramp:
    """A weight that is switched on: 0 before step `first`, then rising linearly to 1 over `length` steps.

    Attributes:
        first: training step.
        length: steps of the rise; 0 for a switch.
    """

    first: int = 0
    length: int = 0

    def __call__(self, step: int) -> float:
        """The factor."""
        return min(1.0, max(0.0, (step - self.first + 1) / (self.length + 1)))


Curriculum = Schedule | Fading | Ramp


@dataclass(frozen=True)
class Unrolling:
    """How many steps a recurrence makes in training, so that it converges instead of being best at one number.

    The first steps of a longer recurrence have no gradient and no loss, as in equilibrium models (DEQReg, MICCAI 2025):
    memory is that of the last ones.

    Attributes:
        longest: the number of steps is drawn from the nominal one to so many times it; 1 for always the nominal one.
        gradient: only so many last steps have a gradient and are judged; None for all.
    """

    longest: float = 1.0
    gradient: int | None = None

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise InputError(f"The longest recurrence is 1 or more times the nominal one, not {self.longest}.")
        if self.gradient is not None and self.gradient < 1:
            raise InputError(f"The gradient goes through 1 or more last steps, not {self.gradient}.")

    def __call__(self, nominal: int) -> tuple[int, int]:
        """Steps without and with a gradient, drawn by PyTorch's generator."""
        most = max(nominal, round(self.longest * nominal))
        count = int(torch.randint(nominal, most + 1, ())) if most > nominal else nominal
        judged = count if self.gradient is None else min(self.gradient, count)
        return count - judged, judged


def step_weights(weighting: Weighting, count: int) -> list[float]:
    """How much each of a registration's steps counts.

    "last" the last alone; "uniform" `1 / T` each; "sum" 1 each; "exponential" `10^((t - 1) / (T - 1))` (RIIR);
    "rising" the same as shares of 1; "sequence" `0.8^(T - t)` (RAFT).
    """
    if weighting == "rising":
        shares = step_weights("exponential", count)
        return [share / sum(shares) for share in shares]
    rules: dict[str, Callable[[int], float]] = {
        "last": lambda t: float(t == count),
        "uniform": lambda t: 1 / count,
        "sum": lambda t: 1.0,
        "exponential": lambda t: 10 ** ((t - 1) / max(count - 1, 1)) if count > 1 else 1.0,
        "sequence": lambda t: 0.8 ** (count - t),
    }
    return [rules[weighting](t) for t in range(1, count + 1)]
