"""RWCNet: three coarse-to-fine stages, each a recurrent network that looks up a local correlation of deep features.

Sivan et al., Recurrence With Correlation Network for Medical Image Registration, 2023. The released code decides where
the paper is silent, but not where it departs from the paper: the correlation is a dot product with a gradient, features
are pulled from the original ones by the total displacement, and the hidden state is handed up unscaled.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers.conv_gru import ConvGRU
from RecurrentRegistrationLib.layers.convolution import convolution, displacement_head
from RecurrentRegistrationLib.layers.motion_encoder import (
    MotionEncoder,
    PlainEncoder,
    absolute_differences,
    cosine,
    dot_product,
)
from RecurrentRegistrationLib.layers.patches import Patches
from RecurrentRegistrationLib.layers.pyramid import shrink
from RecurrentRegistrationLib.methods import base
from RecurrentRegistrationLib.methods.base import Card, Method, Pair


@dataclass(frozen=True)
class Stage:
    """One row of the paper's table 1.

    Attributes:
        factor: the full resolution over this stage's.
        steps: turns of the recurrence.
        radius: of the local correlation.
        patch: side of a patch over the side of the image at full resolution.
    """

    factor: int
    steps: int
    radius: int
    patch: float

    @property
    def name(self) -> str:
        """For a list of steps."""
        return "full res" if self.factor == 1 else f"1/{self.factor} res"


STAGES = (Stage(4, 12, 3, 0.25), Stage(2, 12, 3, 0.25), Stage(1, 4, 2, 0.5))
CORRELATIONS: dict[str, Callable[..., MotionEncoder | PlainEncoder]] = {
    "dot": functools.partial(MotionEncoder, compare=dot_product),
    "cosine": functools.partial(MotionEncoder, compare=cosine),
    "sad": functools.partial(MotionEncoder, compare=absolute_differences),
    "none": PlainEncoder,
}
MULTIPLE = 8  # the feature networks halve three times
SMALLEST = 16  # a patch of fewer voxels would see little but its own padding

CARD = Card(
    name="rwcnet",
    title="RWCNet",
    summary="Three recurrent networks, from quarter to full resolution, that match deep features around each voxel.",
    reference="Sivan et al.: Recurrence With Correlation Network for Medical Image Registration, 2023",
    default_steps=28,
    parameters={2: 3_110_052, 3: 9_293_312},
    identity_at_start=True,
    recurrent=True,
    bytes_per_voxel=1000,
)


class Update(nn.Module):
    """One turn of the recurrence: the next hidden state and what to add to the displacement.

    Args:
        dimension: 2 or 3.
        motion: the encoder of what is seen.
        features: channels of the feature map of an image.
        hidden: channels of the hidden state.
    """

    def __init__(self, dimension: int, motion: MotionEncoder | PlainEncoder, *, features: int, hidden: int) -> None:
        super().__init__()
        self.motion = motion
        self.memory = ConvGRU(dimension, motion.channels + features, hidden)
        self.head = nn.Sequential(
            convolution(dimension, hidden, 2 * hidden),
            nn.LeakyReLU(0.01),
            displacement_head(dimension, 2 * hidden),
        )

    def forward(
        self, fixed: Tensor, moving: Tensor, hidden: Tensor, displacement: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The hidden state `[B, hidden, *S]` and the increment `[B, d, *S]`.

        Args:
            fixed: features `[B, C, *S]`.
            moving: likewise, not warped yet.
            hidden: the state before.
            displacement: what the moving features are pulled through, in voxels.
            seen: the displacement or increment that the motion encoder is told of.
        """
        warped = spatial.warp(moving.float(), displacement)
        hidden = self.memory(hidden, torch.cat([self.motion(fixed, warped, seen), warped], dim=1))
        return hidden, self.head(hidden).float()


class StageNetwork(nn.Module):
    """The networks of one stage: features, context, update.

    Args:
        dimension: 2 or 3.
        radius: of the correlation.
        encoder: makes the motion encoder, a value of `CORRELATIONS`.
        features: channels of the feature map of an image.
        hidden: channels of the hidden state.
        dropout: after the feature network's first layer.
    """

    def __init__(
        self,
        dimension: int,
        radius: int,
        *,
        encoder: Callable[..., MotionEncoder | PlainEncoder],
        features: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dimension = dimension
        self.features = _seg_res_net(dimension, 1, features, dropout)
        self.context = _seg_res_net(dimension, 1 + dimension, hidden)
        motion = encoder(dimension, radius, features)
        self.update = Update(dimension, motion, features=features, hidden=hidden)

    def encode(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of both images `[B, 1, *S]` and the first hidden state."""
        features = self.features(torch.cat([fixed, moving]))
        # The paper's context network also takes a displacement, which is zero where a stage begins.
        context = self.context(torch.cat([spatial.zero_displacement(moving), moving], dim=1))
        return *features.chunk(2), torch.tanh(context).float()


class Patch(NamedTuple):
    """Where the recurrence stands in one patch."""

    fixed: Tensor
    moving: Tensor
    hidden: Tensor
    displacement: Tensor
    increment: Tensor


MOTIONS: dict[str, Callable[[Patch, Tensor], Tensor]] = {
    "total": lambda patch, pulled: pulled,  # as RAFT; the stage's displacement
    "increment": lambda patch, pulled: patch.increment,  # as the released code
}


@dataclass(frozen=True, eq=False, kw_only=True)
class State(base.State):
    """With where the recurrence stands.

    Attributes:
        level: the stage of the last turn; None before the first.
        coarse: the coarser stages' displacement on its grid; None in the first stage.
        patches: its patches; None for one that is left out.
    """

    level: int | None = None
    coarse: Tensor | None = None
    patches: tuple[Patch | None, ...] = ()


class RWCNet(Method):
    """Recurrence with correlation. Steps run through the stages; those beyond the schedule stay in the last stage.

    The masks are not used. Frozen stages run without a graph, and their steps are yielded like any other.

    Args:
        dimension: 2 or 3.
        stages: the schedule; a stage may be a mapping of its attributes, as in a file.
        steps: turns of each stage; None for the schedule's own.
        correlation: "dot"; "cosine" of normalised features, which learns in far fewer iterations (ours); "sad" for the
            released code's absolute differences; "none" feeds both feature maps instead.
        features: channels of the feature map of an image.
        hidden: channels of the hidden state.
        dropout: after the feature networks' first layer while training, the paper's 0.5; 0 to disable.
        overlap: share of a patch that it has in common with the next, blended; 0 for the paper's tiles side by side.
        drawn: while training, how many patches of the last stage to draw at random; None for all. The displacement
            stays that of the coarser stages elsewhere.
        motion: what the motion encoder is told of: the "total" displacement of the stage or its last "increment".
        detach: cut the graph at each look-up, as RAFT does; train with a loss on every step then.
        train_stage: the stage to train, counted from 0: finer ones do not run, coarser ones are frozen; None for all.
        checkpoint: recompute each step in the backward pass.
    """

    card = CARD

    def __init__(
        self,
        dimension: int = 3,
        *,
        stages: Sequence[Stage | Mapping[str, Any]] = STAGES,
        steps: Sequence[int] | None = None,
        correlation: str = "dot",
        features: int = 16,
        hidden: int = 64,
        dropout: float = 0.5,
        overlap: float = 0.0,
        drawn: int | None = None,
        motion: str = "total",
        detach: bool = False,
        train_stage: int | None = None,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        stages = [stage if isinstance(stage, Stage) else Stage(**stage) for stage in stages]
        if correlation not in CORRELATIONS:
            raise InputError(f"RWCNet has no correlation '{correlation}'; choose one of {', '.join(CORRELATIONS)}.")
        if motion not in MOTIONS:
            raise InputError(f"RWCNet's motion encoder takes {' or '.join(map(repr, MOTIONS))}, not '{motion}'.")
        if not 0 <= overlap < 1:
            raise InputError(f"An overlap is at least 0 and less than 1, not {overlap}.")
        if drawn is not None and drawn < 1:
            raise InputError(f"At least one patch must be drawn, not {drawn}.")
        if steps is not None:
            if len(steps) != len(stages):
                raise InputError(f"RWCNet has {len(stages)} stages; give as many numbers of steps, not {len(steps)}.")
            stages = [replace(stage, steps=n) for stage, n in zip(stages, steps, strict=True)]
        if train_stage is not None and not 0 <= train_stage < len(stages):
            raise InputError(f"RWCNet has stages 0 to {len(stages) - 1} to train, not {train_stage}.")
        self.stages = tuple(stages)
        self.overlap, self.drawn, self.detach = overlap, drawn, detach
        self.told = MOTIONS[motion]
        self.train_stage, self.checkpoint = train_stage, checkpoint
        self.networks = nn.ModuleList(
            StageNetwork(
                dimension,
                stage.radius,
                encoder=CORRELATIONS[correlation],
                features=features,
                hidden=hidden,
                dropout=dropout,
            )
            for stage in self.stages
        )
        if train_stage is not None:
            for index, network in enumerate(self.networks):
                network.requires_grad_(index == train_stage)

    @property
    def last_stage(self) -> int:
        """Index of the finest stage that runs."""
        return len(self.stages) - 1 if self.train_stage is None else self.train_stage

    def train(self, mode: bool = True) -> RWCNet:
        """Training mode, in which frozen stages stay as they are at inference."""
        super().train(mode)
        for network in self.networks[: self.train_stage or 0]:
            network.eval()
        return self

    @property
    def _ends(self) -> list[int]:
        """Turns made where each stage ends."""
        return list(itertools.accumulate(stage.steps for stage in self.stages[: self.last_stage + 1]))

    def turns(self, state: State | None = None) -> int:
        """See `Method.turns`."""
        return self._ends[-1]

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`."""
        return State(field=spatial.zero_displacement(pair.fixed))

    def turn(self, pair: Pair, state: State) -> State:
        """`advance`, checkpointed patch by patch: all patches of a turn at once would take too much memory."""
        return self.advance(pair, state)

    def advance(self, pair: Pair, state: State) -> State:
        """One turn of the recurrence in every patch."""
        ends = self._ends
        level = next((s for s, end in enumerate(ends) if state.index < end), self.last_stage)
        with torch.set_grad_enabled(torch.is_grad_enabled() and level >= (self.train_stage or 0)):
            if state.level != level:
                state = self._enter(level, pair, state)
            patches = tuple(patch and self._turn_patch(level, patch) for patch in state.patches)
            field = self._total(state, patches, pair.shape)
        made = state.index + 1 - (ends[level - 1] if level else 0)
        stage = f"{self.stages[level].name} {made}/{max(made, self.stages[level].steps)}"
        return state.after(field, stage, patches=patches)

    def _grid(self, stage: int, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(-(-n // self.stages[stage].factor) for n in shape)

    def _patches(self, stage: int, shape: Sequence[int]) -> Patches:
        """The patches of a stage for images of `shape`."""
        per_axis = round(1 / (self.stages[stage].patch * self.stages[stage].factor))
        return Patches(self._grid(stage, shape), per_axis, overlap=self.overlap, multiple=MULTIPLE, smallest=SMALLEST)

    def _enter(self, level: int, pair: Pair, before: State) -> State:
        """The state in which a stage begins: its features, and what the coarser stage hands up."""
        fixed, moving = (shrink(image, self.stages[level].factor) for image in (pair.fixed, pair.moving))
        patches = self._patches(level, pair.shape)
        coarse: Tensor | None = None
        handed: list[Tensor | None] = [None] * len(patches.regions)
        if before.level is not None:
            coarse = spatial.resize_displacement(before.field, moving.shape[2:])
            moving = spatial.warp(moving, coarse)
            hidden = self._patches(before.level, pair.shape).join([p.hidden for p in before.patches if p])
            handed = [*patches.cut(spatial.resize(hidden, moving.shape[2:]))]
        drawn = self._draw(level, len(handed))
        begun = tuple(
            self._begin_patch(level, *each) if is_drawn else None
            for is_drawn, *each in zip(drawn, patches.cut(fixed), patches.cut(moving), handed, strict=True)
        )
        return replace(before, level=level, coarse=coarse, patches=begun)

    def _draw(self, stage: int, count: int) -> list[bool]:
        """Which of the patches run."""
        if not self.training or self.drawn is None or stage != self.last_stage:
            return [True] * count
        return [rank < self.drawn for rank in torch.randperm(count).tolist()]

    def _begin_patch(self, stage: int, fixed: Tensor, moving: Tensor, handed: Tensor | None) -> Patch:
        fixed_features, moving_features, hidden = self.checkpointed(self.networks[stage].encode, fixed, moving)
        zero = spatial.zero_displacement(moving)
        return Patch(fixed_features, moving_features, hidden if handed is None else hidden + handed, zero, zero)

    def _total(self, state: State, patches: Sequence[Patch | None], shape: Sequence[int]) -> Tensor:
        """The total displacement that a stage's patches make together."""
        zero = torch.zeros_like(next(patch.displacement for patch in patches if patch))
        residual = self._patches(state.level, shape).join([p.displacement if p else zero for p in patches])
        # The stage's moving image is already pulled through the coarser stages, so the residual is looked up first.
        return residual if state.coarse is None else spatial.compose(residual, state.coarse)

    def _turn_patch(self, stage: int, patch: Patch) -> Patch:
        pulled = patch.displacement.detach() if self.detach else patch.displacement
        given = patch.fixed, patch.moving, patch.hidden, pulled, self.told(patch, pulled)
        hidden, increment = self.checkpointed(self.networks[stage].update, *given)
        return patch._replace(hidden=hidden, displacement=pulled + increment, increment=increment)


def _seg_res_net(dimension: int, inputs: int, outputs: int, dropout: float = 0.0) -> nn.Module:
    """MONAI's residual encoder and decoder: `[B, inputs, *S]` to `[B, outputs, *S]`, S multiples of 8."""
    from monai.networks.nets.segresnet import SegResNet  # here, because importing MONAI takes seconds

    return SegResNet(dimension, in_channels=inputs, out_channels=outputs, dropout_prob=dropout or None)


def create(dimension: int = 3, **options: Any) -> RWCNet:
    """RWCNet for 2 or 3 dimensions; see its options."""
    return RWCNet(dimension, **options)
