"""vSVF-opt: the momentum of one pair by L-BFGS, from coarse to fine, after affine-opt. Needs no training.

The numerical counterpart of AVSM's momentum network (Shen et al., CVPR 2019, Sec. 4).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.affine_map import affine_displacement, few_voxels, identity_affine
from RecurrentRegistrationLib.layers.vsvf import VSVF, Advected
from RecurrentRegistrationLib.losses.similarity import Similarity
from RecurrentRegistrationLib.methods import affine_opt
from RecurrentRegistrationLib.methods.affine_opt import AffineOpt, Pair, level_at, pairs, shared_out
from RecurrentRegistrationLib.methods.base import Card, Clock, Method, Turn

CARD = Card(
    name="vsvf-opt",
    title="Affine and vSVF optimisation",
    summary="Finds an affine map and then a smooth deformation of this pair by optimisation; no training needed.",
    reference="Shen, Han, Xu, Niethammer: Networks for Joint Affine and Non-parametric Image Registration, CVPR 2019",
    trained=False,
    default_steps=630,
    attaches=("affine", "loss", "energy", "clamped"),
    recurrent=True,
)

Images = tuple[Tensor, Tensor, Tensor | None, Tensor | None]  # fixed, moving and their masks


class Iterate(NamedTuple):
    """Where the optimisation of one pair stands.

    Attributes:
        level: scale, counted from the coarsest.
        momentum: `[1, d, *R]` in the unit cube's coordinates.
        map: what this momentum gives.
        dissimilarity: of the images under this map.
        loss: that and the energy.
        optimiser: what L-BFGS remembers at this scale.
    """

    level: int
    momentum: Tensor
    map: Advected
    dissimilarity: Tensor
    loss: Tensor
    optimiser: dict[str, Any]


class State(NamedTuple):
    """Where the registration stands.

    Attributes:
        index: steps made.
        affine_steps: of the stage before the vSVF.
        iterations: of the vSVF, planned at each scale.
        affine: state of the affine stage.
        iterates: one for each pair, from the first vSVF step.
    """

    index: int
    affine_steps: int
    iterations: tuple[int, ...]
    affine: affine_opt.State | None = None
    iterates: tuple[Iterate, ...] = ()


class VSVFOpt(Method):
    """An affine stage, then `sim + weight <m, v>` by L-BFGS; one step for each iteration; masks weight the similarity.

    Steps carry the "affine" map `[B, d, d + 1]` in [-1, 1] coordinates and, each `[B]`, the "loss", the "energy"
    `<m, v>` and the share of the velocity that was "clamped". A state holds the memory of L-BFGS, some 16 times the
    size of `values`.

    Args:
        dimension: 2 or 3.
        affine: the affine stage (True: the default one), a given map `[1 or B, d, d + 1]` in [-1, 1] coordinates, or
            False to start from the identity.
        scales: fractions of the image's size, coarse to fine.
        map_scales: fractions of the image of each scale at which its map lives.
        iterations: at each scale, in proportion where another number of steps is asked for.
        similarities: at each scale; None for those of `AffineOpt`.
        weight: of the energy.
        vsvf: from momentum to map; None for the paper's.
    """

    card = CARD

    def __init__(
        self,
        dimension: int = 3,
        *,
        affine: AffineOpt | Tensor | bool = True,
        scales: Sequence[float] = (0.25, 0.5, 1.0),
        map_scales: Sequence[float] = (1.0, 0.5, 0.5),
        iterations: Sequence[int] = (60, 60, 60),
        similarities: Sequence[Similarity] | None = None,
        weight: float = 10.0,
        vsvf: VSVF | None = None,
    ) -> None:
        super().__init__()
        self.affine = AffineOpt(dimension) if affine is True else affine
        self.scales, self.map_scales, self.iterations = tuple(scales), tuple(map_scales), tuple(iterations)
        self.similarities = similarities or affine_opt.default_similarities(len(self.scales))
        self.weight = weight
        self.vsvf = vsvf or VSVF()

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
        """One step for each iteration; `values` lie on the lattice of the stage and scale."""
        clock, images = Clock(), (fixed, moving, fixed_mask, moving_mask)
        stages = (sum(self.affine.iterations) if isinstance(self.affine, AffineOpt) else 0, sum(self.iterations))
        count = sum(stages) if count is None else count
        if state is None:
            affine_steps, vsvf_steps = shared_out(stages, count)
            state = State(0, affine_steps, shared_out(self.iterations, vsvf_steps))
        last = state.index + count
        for stage in (self._affine_steps, self._vsvf_steps):
            for step in stage(images, state, last):
                state = step.state
                yield replace(step, seconds=clock())

    def _affine_steps(self, images: Images, state: State, last: int) -> Iterator[Turn]:
        """What is left of the affine stage, until step `last` at most."""
        fixed, moving, fixed_mask, moving_mask = images
        count = min(last, state.affine_steps) - state.index
        if count <= 0:
            return
        masks = {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
        for step in self.affine.steps(fixed, moving, **masks, count=count, state=state.affine):
            attached = {key: step.attached[key] for key in ("affine", "loss")}
            nothing = torch.zeros(len(fixed))
            yield replace(
                step,
                state=state._replace(index=step.index, affine=step.state),
                attached={**attached, "energy": nothing, "clamped": nothing},
            )

    def _vsvf_steps(self, images: Images, state: State, last: int) -> Iterator[Turn]:
        """The vSVF iterations until step `last`."""
        shape, originals, affine = tuple(images[0].shape[2:]), pairs(*images), self._initial_map(state, images[0])
        level, previous = -1, few_voxels(affine, shape)
        if state.iterates:
            previous = torch.cat([iterate.map.displacement for iterate in state.iterates])
        for index in range(state.index, last):
            done = index - state.affine_steps
            if level != level_at(done, state.iterations):
                level = level_at(done, state.iterations)
                starts = state.iterates or (None,) * len(originals)
                objectives = [
                    Objective(self, level, *each) for each in zip(originals, affine.split(1), starts, strict=True)
                ]
            iterates = tuple(objective.improve() for objective in objectives)
            state = state._replace(index=index + 1, iterates=iterates)
            values = torch.cat([iterate.map.displacement for iterate in iterates])
            similarity = 1 - torch.stack([iterate.dissimilarity for iterate in iterates]).mean().item()
            attached = {
                "affine": affine,
                "loss": torch.stack([iterate.loss for iterate in iterates]),
                "energy": torch.cat([iterate.map.energy for iterate in iterates]),
                "clamped": torch.cat([iterate.map.clamped for iterate in iterates]),
            }
            yield Turn(
                index + 1,
                f"vSVF {done + 1}/{max(sum(state.iterations), done + 1)}",
                values,
                shape,
                state=state,
                previous=previous,
                measure=lambda _, similarity=similarity: similarity,
                affine=affine,
                attached=attached,
            )
            previous = values

    def _initial_map(self, state: State, fixed: Tensor) -> Tensor:
        """The affine map `[B, d, d + 1]` that the vSVF carries on."""
        if state.affine is not None:
            return torch.cat([descent.affine for descent in state.affine.descents])
        identity = identity_affine(len(fixed), fixed.ndim - 2, fixed)
        return self.affine.to(identity).expand_as(identity) if isinstance(self.affine, Tensor) else identity


class Objective:
    """The loss of one pair at one scale as a function of the momentum, and the L-BFGS that lowers it.

    L-BFGS sees `momentum / sqrt(voxels)`, in which the energy has the same curvature at every scale.
    """

    def __init__(self, method: VSVFOpt, level: int, pair: Pair, affine: Tensor, start: Iterate | None) -> None:
        self.level = level
        self._pair, self._vsvf, self._weight = pair.at(method.scales[level]), method.vsvf, method.weight
        self._similarity = method.similarities[level]
        factor = method.map_scales[level]
        lattice = [max(math.ceil(n * factor), min(n, 8)) for n in self._pair.fixed.shape[2:]]
        self._unit = math.sqrt(math.prod(method.vsvf.smoother.extent(lattice)))
        with torch.inference_mode(False), torch.no_grad():
            self._initial = affine_displacement(affine.clone(), lattice)
            momentum = torch.zeros_like(self._initial) if start is None else spatial.resize(start.momentum, lattice)
            self._parameter = nn.Parameter(momentum / self._unit)
        self._optimiser = torch.optim.LBFGS(
            [self._parameter],
            max_iter=1,
            max_eval=26,
            history_size=5,
            line_search_fn="strong_wolfe",
            tolerance_grad=0.0,
            tolerance_change=0.0,
        )
        if start is not None and start.level == level:
            self._optimiser.load_state_dict(copy.deepcopy(start.optimiser))
        self._known: list[tuple[Tensor, Tensor, Iterate]] = []

    def improve(self) -> Iterate:
        """One iteration of L-BFGS."""
        with torch.inference_mode(False), torch.enable_grad():
            self._optimiser.step(self._loss)
            self._loss()
        return self._known[-1][-1]._replace(optimiser=copy.deepcopy(self._optimiser.state_dict()))

    def _loss(self) -> Tensor:
        """The loss at the parameter, whose gradient it sets; L-BFGS asks for the last one again."""
        position = self._parameter.detach()
        known = next((k for k in self._known if torch.equal(k[0], position)), None) or self._evaluate()
        self._known = [*(k for k in self._known if k is not known), known][-3:]
        self._parameter.grad = known[1].clone()
        return known[2].loss

    def _evaluate(self) -> tuple[Tensor, Tensor, Iterate]:
        """Position, gradient and the values there."""
        momentum = self._parameter * self._unit
        advected = self._vsvf(momentum, self._initial)
        displacement = spatial.resize_displacement(advected.displacement, self._pair.fixed.shape[2:])
        dissimilarity = self._pair.loss(self._similarity, displacement)
        loss = dissimilarity + self._weight * advected.energy.sum()
        (gradient,) = torch.autograd.grad(loss, self._parameter)
        advected = Advected(*(values.detach() for values in advected))
        iterate = Iterate(self.level, momentum.detach(), advected, dissimilarity.detach(), loss.detach(), {})
        return self._parameter.detach().clone(), gradient, iterate


def create(dimension: int = 3, **options: Any) -> VSVFOpt:
    """vSVF-opt for 2 or 3 dimensions; see the options of `VSVFOpt`."""
    return VSVFOpt(dimension, **options)
