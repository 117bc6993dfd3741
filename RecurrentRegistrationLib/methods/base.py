"""What every method is: a module with a card, a beginning and a turn. `Method.steps` makes a registration of them.

Displacements are total, `[B, d, *R]` in voxels of their own grid, which covers the same extent as the images' grid.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.losses.guidance import Guidance, OnGrid


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
        default_steps: how many turns `count=None` makes.
        spacing: isotropic working spacing in millimetres, None for what the images and the memory allow.
        upright: whether its working grid's axes go to the patient's left, back and head, as what it has learnt.
        multiple: working sizes are padded to multiples of this.
        intensities: "unit" for [0, 1], "zscore" for zero mean and unit deviation clamped to [-2, 2].
        masks: what it does with masks: "weights", it compares only what lies inside; "ignored", nothing.
        initial: whether it can begin with a displacement.
        guided: whether it takes a guide: landmarks, structures, regions.
        attaches: what its turns carry in `attached`.
        parameters: trainable parameters by dimension with the default options, where it has any.
        identity_at_start: whether the untrained method moves nothing (less than a hundredth of a voxel).
        recurrent: whether its last step may be repeated without end, so that more than `default_steps` are welcome.
        bytes_per_voxel: peak working memory for each voxel of the working grid, for the estimate before a run.
    """

    name: str
    title: str
    summary: str
    reference: str
    dimensions: tuple[int, ...] = (2, 3)
    trained: bool = True
    default_steps: int = 1
    spacing: float | None = None
    upright: bool = False
    multiple: int = 1
    intensities: str = "unit"
    masks: Literal["weights", "ignored"] = "ignored"
    initial: bool = False
    guided: bool = False
    attaches: tuple[str, ...] = ()
    parameters: Mapping[int, int] = dataclasses.field(default_factory=dict)
    identity_at_start: bool = False
    recurrent: bool = False
    bytes_per_voxel: int = 400

    @property
    def uses_masks(self) -> bool:
        """Whether masks change what the method finds."""
        return self.masks != "ignored"


@dataclass(frozen=True, eq=False)
class Pair:
    """What is registered, on one grid.

    Attributes:
        fixed: `[B, 1, *S]`, intensities as the card asks.
        moving: likewise.
        fixed_mask: `[B, 1, *S]`, above 0 where the similarity counts; None for everywhere.
        moving_mask: likewise in the moving image.
        guide: what the user knows, which may change between turns; None for nothing.
    """

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor | None = None
    moving_mask: Tensor | None = None
    guide: OnGrid | None = None
    _made: dict[Hashable, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The grid's size `S`."""
        return tuple(self.fixed.shape[2:])

    def guidance(self, shape: Sequence[int]) -> Guidance | None:
        """The guide on a grid of a size `S` over the same extent."""
        return None if self.guide is None else self.guide(shape)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """`make()` of the first call with this key: what turns share and no parameter has a part in."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@dataclass(frozen=True, eq=False, kw_only=True)
class State:
    """Where a registration stands; methods add what continues their recurrence.

    Attributes:
        field: the total displacement so far.
        stage: where in the method's schedule, for example "affine 3/7" or "1/4 res 5/12".
        index: turns made.
        last: index of the last turn that is asked for; `Method.steps` sets it.
        affine: the part of the displacement that is an affine map, which goes on beyond the grid: `[B, d, d + 1]` in
            [-1, 1] coordinates (`layers.affine_map`); None for none.
        attached: what the method knows of the last turn beyond that (a Gaussian, a confidence, a gradient).
        finished: nothing is left to do.
    """

    field: Tensor
    stage: str = ""
    index: int = 0
    last: int = 0
    affine: Tensor | None = None
    attached: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    finished: bool = False

    def after(self, field: Tensor, stage: str, **changes: Any) -> Self:
        """The state one turn later, with nothing attached unless it is given."""
        return dataclasses.replace(
            self, **{"field": field, "stage": stage, "index": self.index + 1, "attached": {}, **changes}
        )


@dataclass(frozen=True, eq=False)
class Turn:
    """The record of one turn.

    Attributes:
        index: counts from 1 over the whole registration.
        stage: as in `State`.
        values: the total displacement `[B, d, *R]`.
        shape: size `S` of the images' grid.
        seconds: since `Method.steps` began.
        state: continues the recurrence after this turn; opaque to everyone but the method.
        affine: as in `State`.
        attached: as in `State`.
    """

    index: int
    stage: str
    values: Tensor
    shape: tuple[int, ...]
    seconds: float = 0.0
    state: Any = None
    affine: Tensor | None = None
    attached: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @cached_property
    def displacement(self) -> Tensor:
        """The total displacement `[B, d, *S]` in voxels of the images' grid."""
        return spatial.resize_displacement(self.values, self.shape)


class Method(nn.Module):
    """A registration as a recurrence. Subclasses give `card`, `begin` and `advance`.

    Attributes:
        card: what it is for and what it expects.
        checkpoint: recompute each turn in the backward pass instead of keeping its activations: memory for time.
        sampling: keep the noise and dropout of the training also in evaluation, so that every run is a sample.
    """

    card: Card
    checkpoint: bool = False
    sampling: bool = False

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> Any:
        """The state before the first turn.

        Args:
            pair: what is registered.
            count: turns that will be made, for methods that plan them; None for as many as `turns` says.
            initial: a displacement `[B, d, *S]` to begin with, where the card says that the method can.
        """
        raise NotImplementedError

    def advance(self, pair: Pair, state: Any) -> Any:
        """The state one turn later; `state` stays as it is, so that any of them can be taken up again."""
        raise NotImplementedError

    def turns(self, state: Any = None) -> int:
        """How many turns are made where no number is asked for, from the start or after a state."""
        return self.card.default_steps

    def resume(self, state: Any, count: int | None) -> Any:
        """A state as it is taken up again for `count` more turns."""
        return dataclasses.replace(state, finished=False)

    def steps(
        self,
        fixed: Tensor,
        moving: Tensor,
        *,
        fixed_mask: Tensor | None = None,
        moving_mask: Tensor | None = None,
        count: int | None = None,
        state: Any = None,
        initial: Tensor | None = None,
        guide: OnGrid | None = None,
    ) -> Iterator[Turn]:
        """Yield each turn of a registration of fixed and moving `[B, 1, *S]` on one grid.

        Args:
            fixed: intensities as the card asks.
            moving: likewise, same shape.
            fixed_mask: `[B, 1, *S]`, above 0 where the similarity counts; None for everywhere.
            moving_mask: likewise in the moving image.
            count: number of turns; None for the method's own.
            state: `state` of an earlier turn: the recurrence continues where that turn left it.
            initial: a displacement `[B, d, *S]` to begin with.
            guide: what the user knows, where the card says that the method takes it.

        Raises:
            InputError: the method cannot begin with a displacement, or has not so many turns.
        """
        clock, pair = Clock(), Pair(fixed, moving, fixed_mask, moving_mask, guide)
        if initial is not None and not self.card.initial:
            raise InputError(f"The method '{self.card.name}' cannot begin with a displacement.")
        turns = self.turns(state) if count is None else count
        if state is None:
            state = self.checkpointed(lambda _: self.begin(pair, count=count, initial=initial), fixed)
        else:
            state = self.resume(state, count)
        state = dataclasses.replace(state, last=state.index + turns)
        while state.index < state.last and not state.finished:
            state = self.turn(pair, state)
            yield Turn(state.index, state.stage, state.field, pair.shape, clock(), state, state.affine, state.attached)

    def forward(self, fixed: Tensor, moving: Tensor, **options: Any) -> Tensor:
        """The displacement `[B, d, *S]` after the last turn."""
        last: Turn | None = None
        for turn in self.steps(fixed, moving, **options):
            last = turn
        if last is None:
            raise ValueError("The method made no turn.")
        return last.displacement

    def train(self, mode: bool = True) -> Self:
        """As PyTorch's; `sampling` keeps the method in training."""
        return super().train(mode or self.sampling)

    def checkpointed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)`; its activations are recomputed where `checkpoint` asks for it.

        One argument at least is a tensor: it tells of which device the random state has to be kept.
        """
        if self.checkpoint and torch.is_grad_enabled():
            return torch.utils.checkpoint.checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)

    def turn(self, pair: Pair, state: Any) -> Any:
        """`advance`, checkpointed."""
        return self.checkpointed(lambda _: self.advance(pair, state), pair.fixed)


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._start
