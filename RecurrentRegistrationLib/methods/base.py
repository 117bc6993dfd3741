"""What every method is: a module with a card that yields steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial


@dataclass(frozen=True)
class Card:
    """What a method is for and what it expects.

    Attributes:
        name: as on the command line; the file `methods/<name with _ for ->.py`.
        title: for a list of methods.
        summary: one sentence for a clinician.
        reference: authors, title, venue, year.
        dimensions: 2, 3 or both.
        trained: whether it needs weights.
        default_steps: how many steps `count=None` makes.
        spacing: isotropic working spacing in millimetres, None for what the images and the memory allow.
        multiple: working sizes are padded to multiples of this.
        intensities: "unit" for [0, 1], "zscore" for zero mean and unit deviation clamped to [-2, 2].
        attaches: what its steps carry in `attached`.
        parameters: trainable parameters by dimension with the default options, where it has any.
        identity_at_start: whether the untrained method moves nothing (less than a hundredth of a voxel).
        recurrent: whether its last step may be repeated without end, so that more than `default_steps` are welcome.
        bytes_per_voxel: peak working memory for each voxel of the working lattice, for the estimate before a run.
    """

    name: str
    title: str
    summary: str
    reference: str
    dimensions: tuple[int, ...] = (2, 3)
    trained: bool = True
    default_steps: int = 1
    spacing: float | None = None
    multiple: int = 1
    intensities: str = "unit"
    attaches: tuple[str, ...] = ()
    parameters: Mapping[int, int] = field(default_factory=dict)
    identity_at_start: bool = False
    recurrent: bool = False
    bytes_per_voxel: int = 400


@dataclass(frozen=True, eq=False)
class Turn:
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
    measure: Callable[[Turn], float] | None = None
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


class Method(nn.Module):
    """A registration as a generator of steps. Subclasses give `card` and `steps`.

    Attributes:
        card: what it is for and what it expects.
        checkpoint: recompute each step in the backward pass instead of keeping its activations: memory for time.
        sampling: keep the noise and dropout of the training also in evaluation, so that every run is a sample.
    """

    card: Card
    checkpoint: bool = False
    sampling: bool = False

    def train(self, mode: bool = True) -> Self:
        """As PyTorch's; `sampling` keeps the method in training."""
        return super().train(mode or self.sampling)

    def checkpointed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)`, one step's work; its activations are recomputed where `checkpoint` asks for it."""
        if self.checkpoint and torch.is_grad_enabled():
            return torch.utils.checkpoint.checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)

    def steps(
        self,
        fixed: Tensor,
        moving: Tensor,
        *,
        fixed_mask: Tensor | None = None,
        moving_mask: Tensor | None = None,
        count: int | None = None,
        state: Any = None,
    ) -> Iterator[Turn]:
        """Yield one `Turn` for each refinement of fixed and moving `[B, 1, *S]` on one lattice.

        Args:
            fixed: intensities as the card asks.
            moving: likewise, same shape.
            fixed_mask: `[B, 1, *S]`, above 0 where the similarity counts; None for everywhere.
            moving_mask: likewise in the moving image.
            count: number of steps; None for the card's default.
            state: `state` of an earlier step: the recurrence continues where that step left it.
        """
        raise NotImplementedError

    def forward(self, fixed: Tensor, moving: Tensor, **options: Any) -> Tensor:
        """The displacement `[B, d, *S]` after the last step."""
        last: Turn | None = None
        for step in self.steps(fixed, moving, **options):
            last = step
        if last is None:
            raise ValueError("The method made no step.")
        return last.displacement


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._start
