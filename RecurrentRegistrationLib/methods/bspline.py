"""B-spline: a free-form deformation of one pair by Adam, from coarse to fine. Needs no training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers import bspline
from RecurrentRegistrationLib.losses.regularity import folding_penalty, total_variation
from RecurrentRegistrationLib.losses.similarity import LocalCorrelation, MeanSquaredError, Similarity
from RecurrentRegistrationLib.methods import base
from RecurrentRegistrationLib.methods.base import Card, Method, Pair

CARD = Card(
    name="bspline",
    title="B-spline free-form deformation",
    summary="Deforms a grid of control points to make the images alike; no training needed.",
    reference="R. Sandkühler, C. Jud, S. Andermatt, P. C. Cattin. AirLab: Autograd Image Registration Laboratory. "
    "arXiv 2018, as the baseline of R. Sandkühler et al., NeurIPS 2019.",
    trained=False,
    default_steps=750,
    masks="weights",
    initial=True,
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


@dataclass(frozen=True, eq=False, kw_only=True)
class State(base.State):
    """With where the optimisation stands.

    Attributes:
        level: the scale, counted from the coarsest; -1 before the first turn.
        start: what of the displacement the coarser scales found.
        coefficients: `[B, d, *G]`, in halves of the image's longest axis.
        optimiser: Adam's memory.
    """

    level: int = -1
    start: Tensor | None = None
    coefficients: Tensor | None = None
    optimiser: Mapping[str, Any] | None = None


class BSpline(Method):
    """`similarity + smoothness TV(u)` over the coefficients of a B-spline, by Adam with AMSGrad.

    One step for each iteration, on its scale's grid; it carries the "loss", a number, and the "control_points"
    `[B, d, *G]` of its scale, voxels of that grid. A coarse scale's displacement stays fixed in the finer ones,
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

    def turns(self, state: State | None = None) -> int:
        """See `Method.turns`."""
        return sum(self.iterations)

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`."""
        return State(field=spatial.zero_displacement(pair.fixed) if initial is None else initial)

    def advance(self, pair: Pair, state: State) -> State:
        """One iteration, on its scale's grid."""
        index = state.index + 1
        level = sum(index > sum(self.iterations[: n + 1]) for n in range(len(self.scales) - 1))
        images = pair.once("images", lambda: _differentiable(pair))
        scale = pair.once(("scale", level), lambda: Scale(self, level, images))
        same = state.level == level
        with torch.inference_mode(False):
            start = state.start if same else scale.resized(state.field)
            coefficients = nn.Parameter(state.coefficients.clone() if same else scale.no_coefficients(len(start)))
            optimiser = torch.optim.Adam([coefficients], lr=self.rate, amsgrad=True)
            if same:
                optimiser.load_state_dict(copy.deepcopy(state.optimiser))
            with torch.enable_grad():
                loss = self._loss(scale, start + scale.deformation(coefficients))
                (len(start) * loss).backward()  # the loss is a mean over the batch, whose items are strangers
            optimiser.step()
            coefficients = coefficients.detach()
            values = start + scale.deformation(coefficients)
        return state.after(
            values,
            f"1/{round(1 / self.scales[level])} res, B-spline {index}/{max(self.turns(), index)}",
            level=level,
            start=start,
            coefficients=coefficients,
            optimiser=optimiser.state_dict(),
            attached={"loss": loss.item(), "control_points": scale.half * coefficients},
        )

    def _loss(self, scale: Scale, displacement: Tensor) -> Tensor:
        warped = spatial.warp(scale.moving, displacement)
        weight = scale.fixed_mask
        if scale.moving_mask is not None:
            seen = spatial.warp(scale.moving_mask, displacement.detach())
            weight = seen if weight is None else weight * seen
        loss = self.similarity(scale.fixed, warped, weight)
        loss = loss + self.smoothness * total_variation(displacement, units="normalised")
        if self.folding:
            loss = loss + self.folding * folding_penalty(displacement, margin=0.1)
        return loss


class Scale:
    """Images and B-spline of one scale.

    Attributes:
        half: voxels in half of the image's longest axis.
        fixed, moving, fixed_mask, moving_mask: as in `Pair`, shrunk.
    """

    def __init__(self, method: BSpline, level: int, images: Sequence[Tensor | None]) -> None:
        self._size = [min(n, max(round(n * method.scales[level]), 16)) for n in images[0].shape[2:]]
        self.half = (max(self._size) - 1) / 2
        with torch.inference_mode(False):
            self.fixed, self.moving, self.fixed_mask, self.moving_mask = (
                None if image is None else _shrink(image, self._size) for image in images
            )
            self._bases = [bspline.basis(n, method.strides[level], method.order).to(images[0]) for n in self._size]

    def resized(self, displacement: Tensor) -> Tensor:
        """A displacement on this scale's grid."""
        return spatial.resize_displacement(displacement, self._size)

    def no_coefficients(self, batch: int) -> Tensor:
        """Zeros `[B, d, *G]`."""
        return self.fixed.new_zeros(batch, len(self._size), *[basis.shape[1] for basis in self._bases])

    def deformation(self, coefficients: Tensor) -> Tensor:
        """The displacement `[B, d, *R]` (voxels) of coefficients `[B, d, *G]`."""
        return self.half * bspline.evaluate(coefficients, self._bases)


def _differentiable(pair: Pair) -> list[Tensor | None]:
    """Copies of images and masks to differentiate through, also where inference mode made them; masks are 0 or 1."""
    with torch.inference_mode(False):
        images = (image.detach().float().clone() for image in (pair.fixed, pair.moving))
        masks = (None if mask is None else (mask > 0).float() for mask in (pair.fixed_mask, pair.moving_mask))
        return [*images, *masks]


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
