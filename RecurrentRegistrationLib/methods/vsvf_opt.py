"""vSVF-opt: the momentum of one pair by L-BFGS, from coarse to fine, after affine-opt. Needs no training.

The numerical counterpart of AVSM's momentum network (Shen et al., CVPR 2019, Sec. 4).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.affine_map import affine_displacement, few_voxels, identity_affine
from RecurrentRegistrationLib.layers.vsvf import VSVF, Advected
from RecurrentRegistrationLib.losses.similarity import Similarity
from RecurrentRegistrationLib.methods import affine_opt, base
from RecurrentRegistrationLib.methods.affine_opt import AffineOpt, Compared, level_at, scaled, shared_out
from RecurrentRegistrationLib.methods.base import Card, Method, Pair

CARD = Card(
    name="vsvf-opt",
    title="Affine and vSVF optimisation",
    summary="Finds an affine map and then a smooth deformation of this pair by optimisation; no training needed.",
    reference="Shen, Han, Xu, Niethammer: Networks for Joint Affine and Non-parametric Image Registration, CVPR 2019",
    trained=False,
    default_steps=630,
    masks="weights",
    attaches=("affine", "loss", "energy", "clamped"),
    recurrent=True,
)


class Iterate(NamedTuple):
    """Where the optimisation of one pair stands.

    Attributes:
        level: scale, counted from the coarsest.
        position: what L-BFGS moves, `[1, d, *R]`.
        gradient: of the loss there.
        momentum: that it stands for, in the unit cube's coordinates.
        map: what this momentum gives.
        dissimilarity: of the images under this map.
        loss: that and the energy.
        optimiser: what L-BFGS remembers at this scale.
    """

    level: int
    position: Tensor
    gradient: Tensor
    momentum: Tensor
    map: Advected
    dissimilarity: Tensor
    loss: Tensor
    optimiser: dict[str, Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class State(base.State):
    """With where both stages stand.

    Attributes:
        affine_steps: of the stage before the vSVF.
        iterations: of the vSVF, planned at each scale.
        descent: of the affine stage; None where there is none.
        iterates: one for each pair, from the first vSVF turn.
    """

    affine_steps: int
    iterations: tuple[int, ...]
    descent: affine_opt.State | None
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

    def turns(self, state: State | None = None) -> int:
        """See `Method.turns`."""
        return sum(self._stages)

    @property
    def _stages(self) -> tuple[int, int]:
        return (sum(self.affine.iterations) if isinstance(self.affine, AffineOpt) else 0, sum(self.iterations))

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`."""
        affine_steps, vsvf_steps = shared_out(self._stages, self.turns() if count is None else count)
        affine, descent = identity_affine(len(pair.fixed), len(pair.shape), pair.fixed), None
        if isinstance(self.affine, AffineOpt):
            descent = replace(self.affine.begin(pair, count=affine_steps), last=affine_steps)
        elif isinstance(self.affine, Tensor):
            affine = self.affine.to(affine).expand_as(affine)
        return State(
            field=few_voxels(affine, pair.shape),
            affine=affine,
            affine_steps=affine_steps,
            iterations=shared_out(self.iterations, vsvf_steps),
            descent=descent,
        )

    def advance(self, pair: Pair, state: State) -> State:
        """One iteration; the displacement lies on the grid of the stage and scale."""
        return self._affine(pair, state) if state.index < state.affine_steps else self._vsvf(pair, state)

    def _affine(self, pair: Pair, state: State) -> State:
        descent = self.affine.advance(pair, state.descent)
        nothing = torch.zeros(len(pair.fixed))
        attached = {**{key: descent.attached[key] for key in ("affine", "loss")}, "energy": nothing, "clamped": nothing}
        return state.after(descent.field, descent.stage, affine=descent.affine, descent=descent, attached=attached)

    def _vsvf(self, pair: Pair, state: State) -> State:
        done = state.index - state.affine_steps
        level = level_at(done, state.iterations)
        images, affine = scaled(pair, self.scales[level]), state.affine.split(1)
        starts = state.iterates or (None,) * len(images)
        iterates = tuple(Objective(self, level, *each).improve() for each in zip(images, affine, starts, strict=True))
        return state.after(
            torch.cat([iterate.map.displacement for iterate in iterates]),
            f"vSVF {done + 1}/{max(sum(state.iterations), done + 1)}",
            iterates=iterates,
            attached={
                "affine": state.affine,
                "loss": torch.stack([iterate.loss for iterate in iterates]),
                "energy": torch.cat([iterate.map.energy for iterate in iterates]),
                "clamped": torch.cat([iterate.map.clamped for iterate in iterates]),
            },
        )


class Objective:
    """The loss of one pair at one scale as a function of the momentum, and the L-BFGS that lowers it.

    L-BFGS sees `momentum / sqrt(voxels)`, in which the energy has the same curvature at every scale.
    """

    def __init__(self, method: VSVFOpt, level: int, pair: Compared, affine: Tensor, start: Iterate | None) -> None:
        self.level = level
        self._pair, self._vsvf, self._weight = pair, method.vsvf, method.weight
        self._similarity = method.similarities[level]
        factor = method.map_scales[level]
        grid = [max(math.ceil(n * factor), min(n, 8)) for n in self._pair.fixed.shape[2:]]
        self._unit = math.sqrt(math.prod(method.vsvf.smoother.extent(grid)))
        with torch.inference_mode(False), torch.no_grad():
            self._initial = affine_displacement(affine.clone(), grid)
            same = start is not None and start.level == level
            if same:
                position = start.position.clone()
            elif start is not None:
                position = spatial.resize(start.momentum, grid) / self._unit
            else:
                position = torch.zeros_like(self._initial)
            self._parameter = nn.Parameter(position)
        self._optimiser = torch.optim.LBFGS(
            [self._parameter],
            max_iter=1,
            max_eval=26,
            history_size=5,
            line_search_fn="strong_wolfe",
            tolerance_grad=0.0,
            tolerance_change=0.0,
        )
        self._known: list[Iterate] = []
        if same:
            self._optimiser.load_state_dict(copy.deepcopy(start.optimiser))
            self._known.append(start)

    def improve(self) -> Iterate:
        """One iteration of L-BFGS."""
        with torch.inference_mode(False), torch.enable_grad():
            self._optimiser.step(self._loss)
            self._loss()
        return self._known[-1]._replace(optimiser=self._optimiser.state_dict())

    def _loss(self) -> Tensor:
        """The loss at the parameter, whose gradient it sets; L-BFGS asks for the last one again."""
        position = self._parameter.detach()
        known = next((k for k in self._known if torch.equal(k.position, position)), None) or self._evaluate()
        self._known = [*(k for k in self._known if k is not known), known][-3:]
        self._parameter.grad = known.gradient.clone()
        return known.loss

    def _evaluate(self) -> Iterate:
        momentum = self._parameter * self._unit
        advected = self._vsvf(momentum, self._initial)
        displacement = spatial.resize_displacement(advected.displacement, self._pair.fixed.shape[2:])
        dissimilarity = self._pair.loss(self._similarity, displacement)
        loss = dissimilarity + self._weight * advected.energy.sum()
        (gradient,) = torch.autograd.grad(loss, self._parameter)
        advected = Advected(*(values.detach() for values in advected))
        position = self._parameter.detach().clone()
        values = (value.detach() for value in (momentum, dissimilarity, loss))
        momentum, dissimilarity, loss = values
        return Iterate(self.level, position, gradient, momentum, advected, dissimilarity, loss, {})


def create(dimension: int = 3, **options: Any) -> VSVFOpt:
    """vSVF-opt for 2 or 3 dimensions; see the options of `VSVFOpt`."""
    return VSVFOpt(dimension, **options)
