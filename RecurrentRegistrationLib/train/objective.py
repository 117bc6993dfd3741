"""What a training minimises: a weighted sum of terms over a registration's steps."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from RecurrentRegistrationLib.methods.base import Turn
from RecurrentRegistrationLib.train import terms
from RecurrentRegistrationLib.train.judged import Batch, Judged
from RecurrentRegistrationLib.train.schedule import Curriculum, Weighting, step_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LossTerm:
    """One term of an objective.

    Attributes:
        term: its name, one of `terms.TERMS`.
        weight: its factor.
        options: of the term.
        over: which of the registration's steps count, and how much; None for the objective's own.
        stage: only steps whose stage begins with this, for example "affine" or "vSVF".
        curriculum: of the weight, over the training; None for constant.
    """

    term: str
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    over: Weighting | None = None
    stage: str = ""
    curriculum: Curriculum | None = None


class Objective:
    """The loss of a registration.

    Args:
        losses: its terms.
        over: which of the registration's steps count, where a term does not say.
        own_grid: judge each step on the grid of its own values, so that coarse stages are cheap.
        backward: judge the other direction, too, where steps attach it; each counts half.
    """

    def __init__(
        self,
        losses: Sequence[LossTerm],
        over: Weighting = "last",
        own_grid: bool = False,
        backward: bool = False,
    ) -> None:
        self.losses = list(losses)
        self.over, self.own_grid, self.backward = over, own_grid, backward
        self._terms = [terms.create(loss.term, dict(loss.options)) for loss in self.losses]
        self._told = False

    @property
    def paired(self) -> bool:
        """Whether it needs both directions in one batch."""
        return any(loss.term in terms.PAIRED for loss in self.losses)

    def __call__(self, steps: Sequence[Turn], batch: Batch, iteration: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of all steps, and each term's share of it by name."""
        judged: dict[int, Judged] = {}
        parts: dict[str, Tensor] = {}
        silent = set()
        for loss, term in zip(self.losses, self._terms, strict=True):
            factor = loss.weight * (loss.curriculum(iteration) if loss.curriculum else 1.0)
            if factor:
                silent.add(loss.term)
            chosen = [n for n, step in enumerate(steps) if step.stage.startswith(loss.stage)]
            for n, share in zip(chosen, step_weights(loss.over or self.over, len(chosen)), strict=True):
                if factor * share == 0:
                    continue
                if n not in judged:
                    judged[n] = Judged(steps[n], batch, own_grid=self.own_grid)
                value = self._value(term, judged[n])
                if value is not None:
                    parts[loss.term] = parts.get(loss.term, value.new_zeros(())) + factor * share * value
        self._tell(silent - parts.keys())
        total = sum(parts.values(), steps[-1].values.new_zeros(()))
        return total, {name: part.detach() for name, part in parts.items()}

    def _value(self, term: terms.Term, judged: Judged) -> Tensor | None:
        one = term(judged)
        if not self.backward or judged.backward is None:
            return one
        other = term(judged.backward)
        return one if one is None or other is None else (one + other) / 2

    def _tell(self, silent: Collection[str]) -> None:
        """Name once the terms that the first registration says nothing of."""
        if silent and not self._told:
            names = ", ".join(sorted(silent))
            log.warning("These losses do not count, as the data or the method's steps have none of them: %s.", names)
        self._told = True
