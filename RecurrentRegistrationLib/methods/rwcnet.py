"""RWCNet: three coarse-to-fine stages, each a recurrent network that looks up a local correlation of deep features.

Sivan et al., Recurrence With Correlation Network for Medical Image Registration, 2023. The released code decides where
the paper is silent, but not where it departs from the paper: the correlation is a dot product with a gradient, features
are pulled from the original ones by the total displacement, and the hidden state is handed up unscaled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers.conv_gru import ConvGRU
from RecurrentRegistrationLib.layers.convolution import convolution, displacement_head
from RecurrentRegistrationLib.layers.local_correlation import Kind, local_correlation
from RecurrentRegistrationLib.layers.patches import Patches
from RecurrentRegistrationLib.layers.pyramid import shrink
from RecurrentRegistrationLib.methods.base import Card, Clock, Method, Turn


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
CORRELATIONS = ("dot", "cosine", "sad", "none")
SHARPNESS = 10.0  # of the cosine: what equal features compare as
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


class MotionEncoder(nn.Module):
    """Features of the local correlation and of the displacement that it was looked up with.

    Args:
        dimension: 2 or 3.
        radius: of the correlation.
        correlation: a name of `CORRELATIONS`.
        channels: of the result, the displacement among them.
    """

    def __init__(self, dimension: int, radius: int, *, correlation: str, channels: int = 16) -> None:
        super().__init__()
        self.radius, self.normalised = radius, correlation == "cosine"
        self.kind: Kind | None = None if correlation == "none" else "sad" if correlation == "sad" else "dot"
        half, rest = channels // 2, channels - dimension
        self.displacement = convolution(dimension, dimension, 4, kernel=7)
        if self.kind is None:
            self.merge = convolution(dimension, 4, rest)
            return
        self.project = convolution(dimension, (2 * radius + 1) ** dimension, half, kernel=1)
        self.correlation = convolution(dimension, half, half)
        self.spread = convolution(dimension, 4, half)
        self.merge = convolution(dimension, 2 * half, rest)

    def forward(self, fixed: Tensor, warped: Tensor, displacement: Tensor) -> Tensor:
        """Features `[B, channels, *S]` of the feature maps `[B, C, *S]` and a displacement in voxels."""
        features = F.relu(self.displacement(displacement))
        if self.normalised:  # the root undoes that of the dot product
            fixed = F.normalize(fixed, dim=1, eps=1e-3) * (SHARPNESS * math.sqrt(fixed.shape[1]))
            warped = F.normalize(warped, dim=1, eps=1e-3)
        if self.kind is not None:
            volume = local_correlation(fixed, warped, self.radius, kind=self.kind, projection=self.project)
            volume = F.relu(self.correlation(F.relu(volume)))
            features = torch.cat([volume, F.relu(self.spread(features))], dim=1)
        return torch.cat([F.relu(self.merge(features)), displacement], dim=1)


class Update(nn.Module):
    """One turn of the recurrence: the next hidden state and what to add to the displacement."""

    def __init__(self, dimension: int, radius: int, *, correlation: str, features: int, hidden: int) -> None:
        super().__init__()
        self.motion = MotionEncoder(dimension, radius, correlation=correlation)
        # Without a correlation both feature maps must reach the recurrence; with one it has seen the fixed map.
        self.both = correlation == "none"
        self.memory = ConvGRU(dimension, 16 + features * (1 + self.both), hidden)
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
        inputs = [self.motion(fixed, warped, seen), warped]
        if self.both:
            inputs.append(fixed)
        hidden = self.memory(hidden, torch.cat(inputs, dim=1))
        return hidden, self.head(hidden).float()


class StageNetwork(nn.Module):
    """The networks of one stage: features, context, update."""

    def __init__(
        self, dimension: int, radius: int, *, correlation: str, features: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        if correlation == "none":
            features //= 2
        self.dimension = dimension
        self.features = _seg_res_net(dimension, 1, features, dropout)
        self.context = _seg_res_net(dimension, 1 + dimension, hidden)
        self.update = Update(dimension, radius, correlation=correlation, features=features, hidden=hidden)

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


class State(NamedTuple):
    """Where a run stands.

    Attributes:
        made: steps made.
        stage: of the last step.
        coarse: the coarser stages' displacement on its lattice; None in the first stage.
        patches: its patches; None for one that is left out.
        displacement: the total on its lattice.
    """

    made: int
    stage: int
    coarse: Tensor | None
    patches: tuple[Patch | None, ...]
    displacement: Tensor


class RWCNet(Method):
    """Recurrence with correlation. Steps run through the stages; those beyond the schedule stay in the last stage.

    The masks are not used. Frozen stages run without a graph, and their steps are yielded like any other.

    Args:
        dimension: 2 or 3.
        stages: the schedule; a stage may be a mapping of its attributes, as in a file.
        steps: turns of each stage; None for the schedule's own.
        correlation: "dot"; "cosine" of normalised features, which learns in far fewer iterations (ours); "sad" for the
            released code's absolute differences; "none" feeds both feature maps instead.
        single_resolution: the first stage alone.
        features: channels of the feature maps; half of them for each image without a correlation.
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
        single_resolution: bool = False,
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
        stages = stages[:1] if single_resolution else stages
        if correlation not in CORRELATIONS:
            raise InputError(f"RWCNet has no correlation '{correlation}'; choose one of {', '.join(CORRELATIONS)}.")
        if motion not in ("total", "increment"):
            raise InputError(f"RWCNet's motion encoder takes 'total' or 'increment', not '{motion}'.")
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
        self.overlap, self.drawn, self.motion, self.detach = overlap, drawn, motion, detach
        self.train_stage, self.checkpoint = train_stage, checkpoint
        self.networks = nn.ModuleList(
            StageNetwork(
                dimension,
                stage.radius,
                correlation=correlation,
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

    def steps(
        self,
        fixed: Tensor,
        moving: Tensor,
        *,
        fixed_mask: Tensor | None = None,
        moving_mask: Tensor | None = None,
        count: int | None = None,
        state: State | None = None,
    ) -> Iterator[Turn]:
        """One step for each turn of the recurrence."""
        clock, shape = Clock(), tuple(fixed.shape[2:])
        ends = list(itertools.accumulate(stage.steps for stage in self.stages[: self.last_stage + 1]))
        first = 0 if state is None else state.made
        for index in range(first, first + (ends[-1] if count is None else count)):
            stage = next((s for s, end in enumerate(ends) if index < end), self.last_stage)
            previous = None if state is None else state.displacement
            with torch.set_grad_enabled(torch.is_grad_enabled() and stage >= (self.train_stage or 0)):
                if state is None or state.stage != stage:
                    state = self._enter(stage, fixed, moving, state)
                state = self._turn(state, shape)
            made = index + 1 - (ends[stage - 1] if stage else 0)
            name = f"{self.stages[stage].name} {made}/{max(made, self.stages[stage].steps)}"
            yield Turn(state.made, name, state.displacement, shape, clock(), state, previous)

    def _lattice(self, stage: int, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(-(-n // self.stages[stage].factor) for n in shape)

    def _patches(self, stage: int, shape: Sequence[int]) -> Patches:
        """The patches of a stage for images of `shape`."""
        per_axis = round(1 / (self.stages[stage].patch * self.stages[stage].factor))
        return Patches(
            self._lattice(stage, shape), per_axis, overlap=self.overlap, multiple=MULTIPLE, smallest=SMALLEST
        )

    def _enter(self, stage: int, fixed: Tensor, moving: Tensor, before: State | None) -> State:
        """The state in which a stage begins: its features, and what the coarser stage hands up."""
        shape = fixed.shape[2:]
        fixed, moving = (shrink(image, self.stages[stage].factor) for image in (fixed, moving))
        patches = self._patches(stage, shape)
        coarse: Tensor | None = None
        handed: list[Tensor | None] = [None] * len(patches.regions)
        if before is not None:
            coarse = spatial.resize_displacement(before.displacement, moving.shape[2:])
            moving = spatial.warp(moving, coarse)
            hidden = self._patches(before.stage, shape).join([patch.hidden for patch in before.patches if patch])
            handed = [*patches.cut(spatial.resize(hidden, moving.shape[2:]))]
        drawn = self._draw(stage, len(handed))
        begun = tuple(
            self._begin(stage, fixed_patch, moving_patch, hidden_patch) if is_drawn else None
            for is_drawn, fixed_patch, moving_patch, hidden_patch in zip(
                drawn, patches.cut(fixed), patches.cut(moving), handed, strict=True
            )
        )
        made = 0 if before is None else before.made
        start = spatial.zero_displacement(moving) if coarse is None else coarse
        return State(made, stage, coarse, begun, start)

    def _draw(self, stage: int, count: int) -> list[bool]:
        """Which of the patches run."""
        if not self.training or self.drawn is None or stage != self.last_stage:
            return [True] * count
        return [rank < self.drawn for rank in torch.randperm(count).tolist()]

    def _begin(self, stage: int, fixed: Tensor, moving: Tensor, handed: Tensor | None) -> Patch:
        fixed_features, moving_features, hidden = self.checkpointed(self.networks[stage].encode, fixed, moving)
        zero = spatial.zero_displacement(moving)
        return Patch(fixed_features, moving_features, hidden if handed is None else hidden + handed, zero, zero)

    def _turn(self, state: State, shape: Sequence[int]) -> State:
        """One turn in every patch, and the total displacement after it."""
        patches = [patch and self._turn_patch(state.stage, patch) for patch in state.patches]
        zero = torch.zeros_like(next(patch.displacement for patch in patches if patch))
        residual = self._patches(state.stage, shape).join([patch.displacement if patch else zero for patch in patches])
        # The stage's moving image is already pulled through the coarser stages, so the residual is looked up first.
        total = residual if state.coarse is None else spatial.compose(residual, state.coarse)
        return State(state.made + 1, state.stage, state.coarse, tuple(patches), total)

    def _turn_patch(self, stage: int, patch: Patch) -> Patch:
        pulled = patch.displacement.detach() if self.detach else patch.displacement
        seen = pulled if self.motion == "total" else patch.increment
        hidden, increment = self.checkpointed(
            self.networks[stage].update, patch.fixed, patch.moving, patch.hidden, pulled, seen
        )
        return patch._replace(hidden=hidden, displacement=pulled + increment, increment=increment)


def _seg_res_net(dimension: int, inputs: int, outputs: int, dropout: float = 0.0) -> nn.Module:
    """MONAI's residual encoder and decoder: `[B, inputs, *S]` to `[B, outputs, *S]`, S multiples of 8."""
    from monai.networks.nets.segresnet import SegResNet  # here, because importing MONAI takes seconds

    return SegResNet(dimension, in_channels=inputs, out_channels=outputs, dropout_prob=dropout or None)


def create(dimension: int = 3, **options: Any) -> RWCNet:
    """RWCNet for 2 or 3 dimensions; see its options."""
    return RWCNet(dimension, **options)
