"""`Step`: an immutable record of one refinement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
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
        measure: similarity at this step, higher is better, at the resolution it works at; called at most once.
        linear: homogeneous matrix `[d+1, d+1]` in voxels of the working lattice, tensor order, that follows the
            displacement: the linear alignment that came before; None for the identity.
        affine: the part of `values` that is an affine map, which goes on beyond the lattice: `[B, d, d + 1]` in [-1, 1]
            coordinates (`layers.affine_map`); None for none.
        moved: mean length of this step's change where the producer knows it; otherwise `previous` tells.
        attached: what the method knows beyond that (a Gaussian, a confidence, a hidden state).
    """

    index: int
    stage: str
    values: Tensor
    shape: tuple[int, ...]
    seconds: float = 0.0
    state: Any = None
    previous: Tensor | None = None
    measure: Callable[[Step], float] | None = None
    linear: np.ndarray | None = None
    affine: Tensor | None = None
    moved: float | None = None
    attached: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def displacement(self) -> Tensor:
        """The total displacement `[B, d, *S]` in voxels of the working lattice, the linear part included."""
        deformation = spatial.resize_displacement(self.values, self.shape)
        if self.linear is None:
            return deformation
        return spatial.follow_linear(deformation, self.linear)

    @cached_property
    def similarity(self) -> float:
        """Similarity of the fixed and the warped image at this step; NaN where nothing measures it."""
        return float("nan") if self.measure is None else self.measure(self)

    @cached_property
    def folding(self) -> float:
        """Per cent of voxels with a Jacobian determinant of 0 or less."""
        return 100 * spatial.folding_fraction(self.values)

    @cached_property
    def mean_update(self) -> float:
        """Mean length of this step's change, in voxels of the working lattice."""
        if self.moved is not None:
            return self.moved
        sample: tuple = (..., *[slice(None, None, max(1, n // 32)) for n in self.values.shape[2:]])  # enough for a mean
        change = self.values[sample]
        if self.previous is not None:
            change = change - spatial.resize_displacement(self.previous, tuple(self.values.shape[2:]))[sample]
        sizes = zip(self.shape, self.values.shape[2:], strict=True)
        ratio = [(n - 1) / (o - 1) if o > 1 else 1.0 for n, o in sizes]
        scale = torch.tensor(ratio, dtype=change.dtype, device=change.device).view(1, -1, *[1] * len(ratio))
        return (change * scale).norm(dim=1).mean().item()
