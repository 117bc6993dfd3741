"""`Step`: an immutable record of one refinement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial


@dataclass(frozen=True, eq=False)
class Step:
    """One refinement of a registration.

    Attributes:
        index: counts from 1 over the whole registration.
        stage: where in the method's schedule, for example "affine 3/7" or "1/4 res 5/12".
        values: the **total** displacement so far, `[B, d, *R]` in voxels of its own lattice, which may be coarser than
            the working lattice but covers the same extent.
        shape: the working lattice `S`.
        seconds: since the method began.
        state: whatever continues the recurrence after this step; opaque to everyone but the method.
        previous: `values` of the step before, on whatever lattice; None for zero.
        measure: similarity of a displacement `[B, d, *S]`, higher is better; called at most once.
        attached: what the method knows beyond that (a Gaussian, a confidence, a hidden state).
    """

    index: int
    stage: str
    values: Tensor
    shape: tuple[int, ...]
    seconds: float = 0.0
    state: Any = None
    previous: Tensor | None = None
    measure: Callable[[Tensor], float] | None = None
    attached: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def displacement(self) -> Tensor:
        """The total displacement `[B, d, *S]` in voxels of the working lattice."""
        return spatial.resize_displacement(self.values, self.shape)

    @cached_property
    def similarity(self) -> float:
        """Similarity of the fixed and the warped image after this step; NaN where nothing measures it."""
        return float("nan") if self.measure is None else self.measure(self.displacement)

    @cached_property
    def folding(self) -> float:
        """Per cent of voxels with a Jacobian determinant of 0 or less."""
        return 100 * spatial.folding_fraction(self.values)

    @cached_property
    def mean_update(self) -> float:
        """Mean length of this step's change, in voxels of the working lattice."""
        change = self.values
        if self.previous is not None:
            change = change - spatial.resize_displacement(self.previous, tuple(change.shape[2:]))
        ratio = [(n - 1) / (o - 1) if o > 1 else 1.0 for n, o in zip(self.shape, change.shape[2:], strict=True)]
        scale = torch.tensor(ratio, dtype=change.dtype, device=change.device).view(1, -1, *[1] * len(ratio))
        return (change * scale).norm(dim=1).mean().item()
