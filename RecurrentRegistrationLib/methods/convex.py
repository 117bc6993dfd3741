"""Coupled convex search: a recurrence with correlation that needs no training, for large motion.

Heinrich, Papiez, Schnabel, Handels, Non-parametric discrete registration with convex optimisation, WBIR 2014; Siebert,
Hansen, Heinrich, ConvexAdam: self-configuring dual-optimisation-based 3D multitask medical image registration, IEEE TMI
2025. Features are compared over a wide window around every point of a coarse grid; each round asks for the best match
that agrees, more and more strictly, with its smooth surroundings. Both directions are searched and made each other's
inverses. Unlike the papers, it goes on from coarse to fine: what the next level finds follows what was found before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers.coupled_convex import agree, best_match, disagreement, dissimilarity
from RecurrentRegistrationLib.losses.similarity import MindSSC
from RecurrentRegistrationLib.methods import base
from RecurrentRegistrationLib.methods.base import Card, Method, Pair

COUPLINGS = (0.003, 0.02, 0.15, 1.0)  # the range of ConvexAdam; at 1 a shift by one point costs as much as chance
PULLS = 4  # of the landmarks after each round
FEWEST = 6  # points along an axis that a search can do with

CARD = Card(
    name="convex",
    title="Coupled convex search",
    summary="Searches for large motion, without training and for any contrast; to be refined afterwards.",
    reference=(
        "Heinrich, Papiez, Schnabel, Handels, Non-parametric discrete registration with convex optimisation, WBIR "
        "2014; Siebert, Hansen, Heinrich, ConvexAdam, IEEE TMI 2025"
    ),
    trained=False,
    default_steps=12,
    masks="weights",
    initial=True,
    guided=True,
    attaches=("residual",),
    identity_at_start=False,
    bytes_per_voxel=400,
)


@dataclass(frozen=True, eq=False)
class Search:
    """One direction of a level.

    Attributes:
        before: the displacement that the level begins with.
        costs: of the shifts from there, see `layers.coupled_convex.dissimilarity`.
        shift: the smooth shift of the last round; it leads on to `before`.
    """

    before: Tensor
    costs: Tensor
    shift: Tensor

    @property
    def field(self) -> Tensor:
        """The total displacement."""
        return spatial.compose(self.shift, self.before)

    def matched(self, coupling: float, smoothing: float) -> Search:
        """The next round: the matches that agree with the shift so far, made smooth in their turn."""
        matches = best_match(self.costs, self.shift, coupling)
        matches[:, [n == 1 for n in matches.shape[2:]]] = 0.0  # one slice tells of no motion across it
        return replace(self, shift=spatial.gaussian_smooth(matches, smoothing))


@dataclass(frozen=True, eq=False, kw_only=True)
class State(base.State):
    """Where the search stands: `field` and, beyond it,

    Attributes:
        backward: the displacement of the other direction.
        level: of the schedule.
        round: of the level.
        searches: there and back, while a level lasts.
    """

    backward: Tensor
    level: int = 0
    round: int = 0
    searches: tuple[Search, Search] | None = None


class Convex(Method):
    """Coupled convex search in both directions, from coarse to fine.

    `attached["residual"]` tells, in voxels of the field, how far one comes back from where one left before the round's
    two directions were made to agree: where that is far, the search is not to be believed.

    Args:
        features: from an image `[B, 1, *S]` to features `[B, C, *S]`; None for MIND-SSC.
        pitches: voxels of the working grid between the points of each level.
        radii: the greatest shift of each level, in points.
        couplings: how much each round of a level asks the matches to agree with their surroundings.
        smoothing: standard deviation in points of the Gaussian that makes the surroundings.

    Raises:
        InputError: the levels do not have one pitch and one radius each.
    """

    card = CARD

    def __init__(
        self,
        *,
        features: Callable[[Tensor], Tensor] | None = None,
        pitches: Sequence[float] = (6, 4, 2),
        radii: Sequence[int] = (4, 2, 2),
        couplings: Sequence[float] = COUPLINGS,
        smoothing: float = 0.7,
    ) -> None:
        super().__init__()
        if len(pitches) != len(radii) or not pitches or not couplings:
            raise InputError(
                "Each level of the search has one pitch and one radius, and every level couples once at least."
            )
        self.features = MindSSC().describe if features is None else features
        self.schedule = tuple(zip(pitches, radii, strict=True))
        self.couplings, self.smoothing = tuple(couplings), smoothing

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`."""
        field = spatial.zero_displacement(pair.fixed) if initial is None else initial
        field = spatial.resize_displacement(field, _points(pair.shape, self.schedule[0][0]))
        return State(field=field, backward=spatial.invert(field).displacement)

    def turns(self, state: State | None = None) -> int:
        """Of the whole schedule, or of what is left of it; at its end the last level is searched once more."""
        rounds = len(self.couplings)
        if state is None:
            return len(self.schedule) * rounds
        return max(len(self.schedule) - state.level, 1) * rounds - state.round

    def advance(self, pair: Pair, state: State) -> State:
        """One round of the coupling, in both directions, which are then made to agree."""
        level = min(state.level, len(self.schedule) - 1)
        pitch, radius = self.schedule[level]
        there, back = (
            search.matched(self.couplings[state.round], self.smoothing)
            for search in state.searches or self._searches(pair, state, pitch, radius)
        )
        residual = disagreement(there.field, back.field)
        forward, backward = (spatial.remove_folding(field) for field in agree(there.field, back.field))
        guidance = pair.guidance(forward.shape[2:])
        if guidance is not None:
            forward = guidance.settled(forward, rounds=PULLS)
            backward = spatial.invert(forward).displacement
        ends = state.round + 1 == len(self.couplings)
        return state.after(
            forward,
            f"1/{pitch:g} res {state.round + 1}/{len(self.couplings)}",
            backward=backward,
            level=level + ends,
            round=0 if ends else state.round + 1,
            searches=None if ends else (there, back),
            attached={"residual": residual},
        )

    def _searches(self, pair: Pair, state: State, pitch: float, radius: int) -> tuple[Search, Search]:
        """Both directions of a level, with the costs of every shift."""
        fixed, moving = pair.once(("features", pitch), lambda: self._coarse(pair.fixed, pair.moving, pitch))
        if (guidance := pair.guidance(fixed.shape[2:])) is not None:
            fixed, moving = guidance.shown(fixed, moving)
        fixed_mask, moving_mask = (
            torch.ones_like(image[:, :1]) if mask is None else _coarser((mask > 0).to(image), pitch)
            for image, mask in ((fixed, pair.fixed_mask), (moving, pair.moving_mask))
        )
        shape = fixed.shape[2:]
        forward, backward = (spatial.resize_displacement(u, shape) for u in (state.field, state.backward))
        return (
            _search(fixed, moving, fixed_mask, moving_mask, forward, radius),
            _search(moving, fixed, moving_mask, fixed_mask, backward, radius),
        )

    def _coarse(self, fixed: Tensor, moving: Tensor, pitch: float) -> list[Tensor]:
        return [_coarser(self.features(image), pitch) for image in (fixed, moving)]


def _search(here: Tensor, there: Tensor, here_mask: Tensor, there_mask: Tensor, before: Tensor, radius: int) -> Search:
    """One direction, from features here to those there, going on from a displacement."""
    features, mask = spatial.warp(there, before, padding="border"), spatial.warp(there_mask, before)
    costs = dissimilarity(here, features, radius, fixed_mask=here_mask, moving_mask=mask)
    return Search(before, costs, torch.zeros_like(before))


def _points(shape: Sequence[int], pitch: float) -> tuple[int, ...]:
    """Size of a grid of points over the extent of a grid, about `pitch` voxels apart."""
    return tuple(max(round((n - 1) / pitch) + 1, min(n, FEWEST)) for n in shape)


def _coarser(values: Tensor, pitch: float) -> Tensor:
    """The means around the points of a grid of this pitch."""
    return spatial.resize(spatial.gaussian_smooth(values, 0.4 * pitch), _points(values.shape[2:], pitch))


def create(dimension: int = 3, **options) -> Convex:
    """Coupled convex search for 2 or 3 dimensions; see the options of `Convex`."""
    del dimension  # every part serves both
    return Convex(**options)
