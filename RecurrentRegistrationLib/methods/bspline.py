"""B-spline: a free-form deformation of one pair by Adam, from coarse to fine. Needs no training."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers import bspline
from RecurrentRegistrationLib.losses.regularity import folding_penalty, total_variation
from RecurrentRegistrationLib.losses.similarity import LocalCorrelation, MeanSquaredError, Similarity
from RecurrentRegistrationLib.methods.base import Card, Clock, Method, Turn

CARD = Card(
    name="bspline",
    title="B-spline free-form deformation",
    summary="Deforms a grid of control points to make the images alike; no training needed.",
    reference="R. Sandkühler, C. Jud, S. Andermatt, P. C. Cattin. AirLab: Autograd Image Registration Laboratory. "
    "arXiv 2018, as the baseline of R. Sandkühler et al., NeurIPS 2019.",
    trained=False,
    default_steps=750,
    attaches=("loss", "control_points"),
    recurrent=True,
    bytes_per_voxel=300,
)

SETTINGS: dict[str, dict[str, Any]] = {
    "paper": {},
    "practical": {
        "similarity": LocalCorrelation(radius=4),
        "smoothness": 3.0,
        "folding": 10.0,
        "rate": 1e-2,
        "strides": (4, 4, 4),
        "iterations": (50, 50, 50),
    },
}


class State(NamedTuple):
    """Where the optimisation stands.

    Attributes:
        index: steps made.
        level: the scale, counted from the coarsest; -1 before the first step.
        values: the total displacement `[B, d, *R]`, voxels of this scale's lattice.
        start: what of it the coarser scales found.
        coefficients: `[B, d, *G]`, in halves of the image's longest axis.
        optimiser: Adam's memory.
    """

    index: int
    level: int
    values: Tensor
    start: Tensor
    coefficients: Tensor
    optimiser: dict[str, Any]


class BSpline(Method):
    """`similarity + smoothness TV(u)` over the coefficients of a B-spline, by Adam with AMSGrad.

    One step for each iteration, on its scale's lattice; it carries the "loss", a number, and the "control_points"
    `[B, d, *G]` of its scale, voxels of that lattice. A coarse scale's displacement stays fixed in the finer ones,
    which add to it. Masks weigh the similarity. The total variation is that of R2N2's Eq. 14, in normalised units.

    Args:
        dimension: 2 or 3.
        similarity: None for the mean squared error.
        smoothness: weight of the total variation.
        folding: weight of the folding penalty, which keeps Jacobian determinants above 0.1.
        rate: Adam's, in halves of the image's longest axis.
        scales: fractions of the image's size, coarse to fine.
        strides: voxels between control points at each scale.
        iterations: at each scale; further ones run at the last.
        order: of the B-spline.
    """

    card = CARD

    def __init__(
        self,
        dimension: int = 3,
        *,
        similarity: Similarity | None = None,
        smoothness: float = 0.01,
        folding: float = 0.0,
        rate: float = 1e-3,
        scales: Sequence[float] = (0.25, 0.5, 1.0),
        strides: Sequence[int] = (3, 8, 19),
        iterations: Sequence[int] = (250, 250, 250),
        order: int = 2,
    ) -> None:
        super().__init__()
        if not len(scales) == len(strides) == len(iterations):
            raise InputError("A B-spline needs as many strides and iterations as it has scales.")
        self.dimension, self.rate, self.order = dimension, rate, order
        self.smoothness, self.folding = smoothness, folding
        self.similarity = similarity or MeanSquaredError()
        self.scales, self.strides, self.iterations = tuple(scales), tuple(strides), tuple(iterations)

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
        """See `Method.steps`."""
        clock, shape, planned = Clock(), tuple(fixed.shape[2:]), sum(self.iterations)
        images = _differentiable(fixed, moving, fixed_mask, moving_mask)
        first = state.index if state else 0
        descent, previous = None, state.values if state else None
        for index in range(first + 1, first + 1 + (planned if count is None else count)):
            level = sum(index > sum(self.iterations[: n + 1]) for n in range(len(self.scales) - 1))
            if descent is None or descent.level != level:
                descent = Descent(self, level, images, state)
            state, loss = descent.iterate(index)
            yield Turn(
                index=index,
                stage=f"1/{round(1 / self.scales[level])} res, B-spline {index}/{max(planned, index)}",
                values=state.values,
                shape=shape,
                seconds=clock(),
                state=state,
                previous=previous,
                attached={"loss": loss, "control_points": descent.half * state.coefficients},
            )
            previous = state.values


class Descent:
    """Adam on the coefficients of one scale, from where a state leaves it."""

    def __init__(self, method: BSpline, level: int, images: Sequence[Tensor | None], state: State | None) -> None:
        self.level, self._method = level, method
        size = [min(n, max(round(n * method.scales[level]), 16)) for n in images[0].shape[2:]]
        self.half = (max(size) - 1) / 2
        with torch.inference_mode(False):
            self._fixed, self._moving, self._fixed_mask, self._moving_mask = (
                None if image is None else _shrink(image, size) for image in images
            )
            self._bases = [bspline.basis(n, method.strides[level], method.order).to(images[0]) for n in size]
            same = state is not None and state.level == level
            if same:
                self._start, coefficients = state.start, state.coefficients.clone()
            else:
                zero = spatial.zero_displacement(self._fixed)
                self._start = zero if state is None else spatial.resize_displacement(state.values, size)
                coefficients = zero.new_zeros(*zero.shape[:2], *[basis.shape[1] for basis in self._bases])
            self._coefficients = nn.Parameter(coefficients)
            self._optimiser = torch.optim.Adam([self._coefficients], lr=method.rate, amsgrad=True)
            if same:
                self._optimiser.load_state_dict(state.optimiser)
        self._values: Tensor | None = None

    def iterate(self, index: int) -> tuple[State, float]:
        """One iteration, the `index`-th: where it leads, and the loss it began with."""
        with torch.inference_mode(False), torch.enable_grad():
            values = self._displacement() if self._values is None else self._values
            loss = self._loss(values)
            self._optimiser.zero_grad()
            (len(values) * loss).backward()  # the loss is a mean over the batch, whose items are strangers
            self._optimiser.step()
            self._values = self._displacement()
        coefficients = self._coefficients.detach().clone()
        optimiser = copy.deepcopy(self._optimiser.state_dict())
        return State(index, self.level, self._values.detach(), self._start, coefficients, optimiser), loss.item()

    def _displacement(self) -> Tensor:
        """The total displacement `[B, d, *R]`, voxels."""
        return self._start + self.half * bspline.evaluate(self._coefficients, self._bases)

    def _loss(self, displacement: Tensor) -> Tensor:
        warped = spatial.warp(self._moving, displacement)
        weight = self._fixed_mask
        if self._moving_mask is not None:
            seen = spatial.warp(self._moving_mask, displacement.detach())
            weight = seen if weight is None else weight * seen
        loss = self._method.similarity(self._fixed, warped, weight)
        loss = loss + self._method.smoothness * total_variation(displacement, units="normalised")
        if self._method.folding:
            loss = loss + self._method.folding * folding_penalty(displacement, margin=0.1)
        return loss


def _differentiable(*images: Tensor | None) -> list[Tensor | None]:
    """Copies that can be differentiated through also where inference mode made the images; masks are 0 or 1."""
    with torch.inference_mode(False):
        fixed, moving, *masks = (None if image is None else image.detach().float().clone() for image in images)
        return [fixed, moving, *(None if mask is None else (mask > 0).float() for mask in masks)]


def _shrink(image: Tensor, size: Sequence[int]) -> Tensor:
    """An image on fewer voxels over the same extent, smoothed as far as they lie apart."""
    sigmas = [0.5 * ((n - 1) / max(m - 1, 1) - 1) for n, m in zip(image.shape[2:], size, strict=True)]
    return spatial.resize(spatial.gaussian_smooth(image, sigmas), size)


def create(dimension: int = 3, *, settings: str = "paper", **options: Any) -> BSpline:
    """The B-spline for 2D or 3D: "paper" or "practical" settings, under the options of `BSpline`.

    The practical ones take real images: local correlation, no folding, denser control points, larger and fewer steps.
    """
    if settings not in SETTINGS:
        raise InputError(f"The B-spline has no settings '{settings}'; choose one of {', '.join(SETTINGS)}.")
    return BSpline(dimension, **{**SETTINGS[settings], **options})
