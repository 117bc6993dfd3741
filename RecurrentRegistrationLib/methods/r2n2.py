"""R2N2: a recurrent network that adds one Gaussian displacement after another, in 2D and 3D.

Coordinates, Gaussians and the sum are in normalised units (-1 and 1 are the first and last voxel's centres); only the
steps' displacements are in voxels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers.convolution import convolution
from RecurrentRegistrationLib.layers.gaussian_field import Gaussian, coordinate_channels, spatial_softmax
from RecurrentRegistrationLib.layers.gr2u import GR2U, Proposal, instance_norm
from RecurrentRegistrationLib.layers.stopping import Patience
from RecurrentRegistrationLib.losses.regularity import total_variation
from RecurrentRegistrationLib.losses.similarity import MeanSquaredError
from RecurrentRegistrationLib.methods import base
from RecurrentRegistrationLib.methods.base import Card, Method, Pair, Turn

CARD = Card(
    name="r2n2",
    title="R2N2: Gaussian after Gaussian",
    summary="A recurrent network adds one local Gaussian displacement per step, so that a registration is a short list "
    "of Gaussians; it reports how certain each one is.",
    reference="R. Sandkühler, S. Andermatt, G. Bauman, S. Nyilas, C. Jud, P. C. Cattin. Recurrent Registration Neural "
    "Networks for Deformable Image Registration. NeurIPS 2019. The 3D version is ours.",
    default_steps=25,
    intensities="zscore",
    attaches=("gaussian", "certainty", "concentration", "update", "progress"),
    parameters={2: 3_593_611, 3: 2_691_008},
    identity_at_start=True,
    recurrent=True,
    bytes_per_voxel=400,
)

CHANNELS = {2: (32, 64, 128, 256), 3: (16, 32, 64, 128)}
POSITION_GAIN = {2: 1.0, 3: 3.0}  # a flat softmax over a volume would put every Gaussian in its middle
LARGEST_WEIGHT = {2: 1.0, 3: 0.2}
THRESHOLDS = {"certainty": 1.0, "concentration": 0.1, "update": 0.01, "progress": 0.005}


class ShapeHead(nn.Module):
    """An attention read-out: `[B, C, *S]` to sigma, weight and orientation, at first as given by `bias`."""

    def __init__(self, dimension: int, channels: int, bias: Tensor, *, hidden: int = 1024) -> None:
        super().__init__()
        half = channels // 2
        self.features = convolution(dimension, channels, channels)
        self.values = convolution(dimension, half, half)
        self.hidden = nn.Linear(half, hidden)
        self.output = nn.Linear(hidden, bias.numel())
        nn.init.zeros_(self.output.weight)
        with torch.no_grad():
            self.output.bias.copy_(bias)

    def forward(self, features: Tensor) -> Tensor:
        """Raw parameters `[B, bias.numel()]`, float32."""
        values, attention = self.features(features).chunk(2, dim=1)
        values = self.values(values.tanh())
        # The paper averages; under a softmax, which already sums to 1, the sum is the read-out.
        read = (values * spatial_softmax(attention)).tanh().flatten(2).sum(dim=2)
        return self.output(self.hidden(read).tanh()).float()


@dataclass(frozen=True, eq=False, kw_only=True)
class State(base.State):
    """With what continues the recurrence.

    Attributes:
        hidden: of the GRUs; empty before the first turn.
        total: the sum so far, normalised, `[B, d, *S]`.
        warped: the moving image pulled through it.
        error: mean squared, `[B]`.
        low: low signs in a row, `[B]`.
    """

    hidden: tuple[Tensor, ...] = ()
    total: Tensor
    warped: Tensor
    error: Tensor
    low: Tensor


class R2N2(Method):
    """Sandkühler et al., NeurIPS 2019.

    The shape of a Gaussian takes 2 sigma, 2 weights and an angle in 2D; 3 sigma, 3 weights and a quaternion in 3D. Its
    position is the certainty-weighted mean of the proposals of three scales.

    A run can end itself. Four signs come with every step, each low when there is little left to do; all are `[B]`:

    * `certainty`: how far the two attention maps of each scale agree, 0 to 2 (Sec. 5 of the paper: "uncertainty as a
      possible stopping criterion");
    * `concentration`: one minus the entropy of the position's attention map, 0 to 1;
    * `update`: mean length of the step's displacement over the image, in voxels;
    * `progress`: by how much of itself the squared error of the warped image has fallen.

    Args:
        dimension: 2 or 3.
        channels: of the three scales and of the shape's features.
        blocks: residual blocks at each scale.
        coordinates: show the network where each voxel is.
        noise: deviation of the multiplicative noise on the GRU's state weights in training.
        dropconnect: probability to drop one of them in training.
        smallest_sigma: smallest standard deviation of a Gaussian. One of less than a voxel moves nothing and gets no
            gradient, where a training with a high rate may end; the released code has 1e-5.
        largest_sigma: largest one.
        largest_weight: largest component of the displacement at its centre; None for 1 in 2D, 0.2 in 3D.
        stop: the sign that ends a run before `count`: an item of the batch is frozen once its sign has been below
            `threshold` for `patience` steps in a row. None always makes `count` steps.
        threshold: None for one that suits the sign.
        patience: steps.
        checkpoint: recompute each step in the backward pass.
    """

    card = CARD

    def __init__(
        self,
        dimension: int,
        *,
        channels: Sequence[int] | None = None,
        blocks: int = 3,
        coordinates: bool = True,
        noise: float = math.sqrt(2),
        dropconnect: float = 0.0,
        smallest_sigma: float = 1e-5,
        largest_sigma: float = 0.3,
        largest_weight: float | None = None,
        stop: str | None = None,
        threshold: float | None = None,
        patience: int = 2,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if stop is not None and stop not in THRESHOLDS:
            raise InputError(f"R2N2 cannot stop by '{stop}'; choose one of {', '.join(THRESHOLDS)}.")
        widths = CHANNELS[dimension] if channels is None else tuple(channels)
        self.dimension, self.coordinates, self.checkpoint = dimension, coordinates, checkpoint
        self.smallest_sigma, self.largest_sigma = smallest_sigma, largest_sigma
        self.largest_weight = LARGEST_WEIGHT[dimension] if largest_weight is None else largest_weight
        self.stop = stop
        self.patience = Patience(THRESHOLDS.get(stop, 0.0) if threshold is None else threshold, patience)
        inputs = 2 + (dimension if coordinates else 0)
        self.stem = convolution(dimension, inputs, widths[0], kernel=7, stride=2)
        self.scales = nn.ModuleList(
            GR2U(
                dimension,
                channels,
                following,
                blocks=blocks,
                noise=noise,
                dropconnect=dropconnect,
                gain=POSITION_GAIN[dimension],
            )
            for channels, following in pairwise(widths)
        )
        at_rest = torch.zeros(2 * dimension + (1 if dimension == 2 else 4))
        if dimension == 3:
            at_rest[6] = 1  # the quaternion of no rotation
        self.shape = ShapeHead(dimension, widths[-1], at_rest)

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`."""
        zero = spatial.zero_displacement(pair.fixed.float())
        error, low = _error(pair, pair.moving, zero), pair.fixed.new_zeros(len(zero))
        return State(field=zero, total=zero, warped=pair.moving, error=error, low=low)

    def resume(self, state: State, count: int | None) -> State:
        """Asked for more after a run had ended itself, it counts anew."""
        return replace(state, low=torch.zeros_like(state.low), finished=False) if state.finished else state

    def advance(self, pair: Pair, state: State) -> State:
        """One Gaussian more. The masks weigh only the sign `progress`."""
        features = torch.cat([pair.fixed, state.warped], dim=1)
        if self.coordinates:
            features = torch.cat([features, coordinate_channels(features)], dim=1)
        features = instance_norm(self.stem(features)).tanh()
        proposals, hidden = [], []
        for scale, before in zip(self.scales, state.hidden or [None] * len(self.scales), strict=True):
            features, after, proposal = scale(features, before)
            proposals.append(proposal)
            hidden.append(after)
        position, certainty, concentration = _agree(proposals)
        gaussian = self._gaussian(position, self.shape(features))
        if self.stop is not None:  # what has stopped stays as it is while others of the batch go on
            running = ~self.patience.stopped(state.low).unsqueeze(1)
            gaussian = replace(gaussian, weight=gaussian.weight * running)
        total = state.total + gaussian.displacement(pair.shape)
        halves = _halves(pair.fixed)
        field = total * halves
        warped = spatial.warp(pair.moving.float(), field)
        error = _error(pair, warped, field)
        signs = {
            "certainty": certainty,
            "concentration": concentration,
            "update": gaussian.mean_length(halves.flatten()),
            "progress": (state.error - error) / state.error.clamp_min(1e-12),
        }
        low = state.low if self.stop is None else self.patience.count(state.low, signs[self.stop])
        return state.after(
            field,
            f"Gaussian {state.index + 1}/{state.last}",
            hidden=tuple(hidden),
            total=total,
            warped=warped,
            error=error,
            low=low,
            finished=self.stop is not None and bool(self.patience.stopped(low).all()),
            attached={"gaussian": gaussian, **signs},
        )

    def _gaussian(self, position: Tensor, shape: Tensor) -> Gaussian:
        """The Gaussian at a position of raw shape parameters: sigma, weight, orientation."""
        d = self.dimension
        sigma, weight, orientation = shape.split([d, d, shape.shape[1] - 2 * d], dim=1)
        if d == 2:
            orientation = math.pi * orientation.sigmoid()
        sigma = self.smallest_sigma + (self.largest_sigma - self.smallest_sigma) * sigma.sigmoid()
        return Gaussian(position, sigma, orientation, self.largest_weight * weight.tanh())


def _agree(proposals: Sequence[Proposal]) -> tuple[Tensor, Tensor, Tensor]:
    """Position `[B, d]`, certainty `[B]` and concentration `[B]`: means over the scales, weighted by certainty."""
    certainty = torch.stack([p.certainty for p in proposals])
    weight = certainty / certainty.sum(dim=0).clamp_min(1e-6)
    position = (weight.unsqueeze(2) * torch.stack([p.position for p in proposals])).sum(dim=0)
    entropy = torch.stack([p.entropy for p in proposals])
    return position, (weight * certainty).sum(dim=0), 1 - (weight * entropy).sum(dim=0)


def _halves(image: Tensor) -> Tensor:
    """Voxels `[1, d, *1]` in one normalised unit along each axis of an image."""
    halves = torch.tensor([(n - 1) / 2 for n in image.shape[2:]], device=image.device)
    return halves.view(1, -1, *[1] * halves.numel())


def _inside(displacement: Tensor) -> Tensor:
    """1 where a displacement `[B, d, *S]` (voxels) reads inside the grid, else 0, `[B, 1, *S]`."""
    shape = displacement.shape[2:]
    point = displacement + spatial.identity_grid(shape, device=displacement.device)
    last = 2 * _halves(displacement)
    return ((point >= 0) & (point <= last)).all(dim=1, keepdim=True).to(displacement.dtype)


@torch.no_grad()
def _error(pair: Pair, warped: Tensor, displacement: Tensor) -> Tensor:
    """Mean squared error `[B]` over voxels that read inside the image and both masks."""
    weight = _inside(displacement)
    if pair.fixed_mask is not None:
        weight = weight * (pair.fixed_mask > 0)
    if pair.moving_mask is not None:
        weight = weight * spatial.warp((pair.moving_mask > 0).float(), displacement)
    squared = weight * (pair.fixed - warped).square()
    return squared.flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-6)


def sequence_loss(steps: Iterable[Turn], fixed: Tensor, moving: Tensor, *, smoothness: float = 0.1) -> Tensor:
    """The training loss: mean over steps of the squared error, plus `smoothness` times the last total variation.

    Sandkühler et al., NeurIPS 2019, Eq. 10. The error counts where the displacement reads inside the moving image; the
    total variation is that of the displacement in normalised units.
    """
    errors, displacement = [], None
    for step in steps:
        displacement = step.displacement
        errors.append(MeanSquaredError()(fixed, step.state.warped, _inside(displacement)))
    if displacement is None:
        raise ValueError("There is no step to judge.")
    return torch.stack(errors).mean() + smoothness * total_variation(displacement, units="normalised")


def create(dimension: int = 3, **options: Any) -> R2N2:
    """R2N2 for 2D or 3D; the options are those of `R2N2`."""
    return R2N2(dimension, **options)
