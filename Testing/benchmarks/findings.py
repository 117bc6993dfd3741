"""Do the papers' qualitative findings hold at our scale? Train the variants alike, measure a known displacement.

    python Testing/benchmarks/findings.py [FINDING …] [--data ../shared/data] [--seeds 2] [--scale 1.0] [--threads 1]

The pairs are brain slices of `brain_2d_oasis` (made textures without `--data`, and for the interfaces) and the same
images pulled through random displacements of known value; those of the test are not trained on. Within a finding all
variants have the same seeds, see the same pairs in the same order and are trained for as many iterations, by the known
displacement, or by the images' likeness where a network hardly learns from it (RWCNet, AVSM).

A claim says that one error is smaller than another. It holds if the mean difference says so, a two-sided Wilcoxon
signed-rank test over the test pairs (errors averaged over the seeds) gives p < 0.05 and every seed agrees; it does not
hold if all of that is so the other way round; otherwise it is undecided. The p are not corrected for their number.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import learning
import numpy as np
import SimpleITK as sitk
import torch
from learning import Recipe
from torch import Tensor

from RecurrentRegistrationLib import methods, spatial
from RecurrentRegistrationLib.benchmark.table import signed_rank
from RecurrentRegistrationLib.methods import Method
from RecurrentRegistrationLib.train.deformation import Deformation, RandomDisplacement, between, middle, symmetric

SIDE = 48  # voxels of an image along each axis
TESTS = 16  # images, and pairs of each test
SMALL, LARGE = 1.5, 6.0  # voxels, the displacement's mean length in each pair
NEAR = 3  # voxels from a sliding interface that count as next to it
SIGNIFICANT = 0.05

Pairs = tuple[Tensor, ...]  # fixed and moving images [B, 1, *S], displacement [B, d, *S] in voxels
Draw = Callable[[int, torch.Generator], Pairs]


@dataclass(frozen=True)
class Setting:
    """Images `[N, 1, *S]` in [0, 1] to train on and to test on, how many seeds, and times the iterations."""

    train: Tensor
    test: Tensor
    seeds: int
    scale: float


@dataclass(frozen=True)
class Claim:
    """`low` is smaller than `high`: name and values `[seeds, pairs]` of either."""

    text: str
    low: tuple[str, np.ndarray]
    high: tuple[str, np.ndarray]
    unit: str = "voxels"

    @property
    def differences(self) -> np.ndarray:
        """Low minus high `[seeds, pairs]` of the pairs that have a value."""
        found = self.low[1] - self.high[1]
        return found[:, np.isfinite(found).all(axis=0)]

    @property
    def p(self) -> float:
        """Of the differences, averaged over the seeds."""
        return signed_rank(self.differences.mean(axis=0))

    @property
    def verdict(self) -> str:
        """Holds, does not hold, or undecided."""
        signs = set(np.sign(self.differences.mean(axis=1)))
        if self.p >= SIGNIFICANT or len(signs) > 1:
            return "undecided"
        return "holds" if signs == {-1.0} else "does not hold"

    def row(self, finding: str) -> str:
        """A line of the table."""
        values = ", ".join(f"{name} {_spread(errors)}" for name, errors in (self.low, self.high))
        difference = f"{self.differences.mean():+.2f} ({self.p:.2g}, {self.differences.shape[1]} pairs)"
        return f"| {finding} | {self.text} | {values} {self.unit} | {difference} | {self.verdict} |"


def _spread(values: np.ndarray) -> str:
    return f"{np.nanmean(values):.2f} ± {np.nanstd(values):.2f}"


def brains(folder: Path) -> Tensor:
    """All slices `[N, 1, SIDE, SIDE]` in [0, 1]."""
    files = sorted((folder / "brain_2d_oasis").glob("*.nrrd"))
    images = torch.stack([torch.from_numpy(sitk.GetArrayFromImage(sitk.ReadImage(file))).float() for file in files])
    smooth = spatial.gaussian_smooth(images.unsqueeze(1), images.shape[-1] / SIDE / 2)  # against aliasing
    return spatial.resize(smooth, (SIDE, SIDE)).clamp(0, 1)


def textures(count: int) -> Tensor:
    """Made images, for machines without data."""
    generator = torch.Generator().manual_seed(3)
    return learning.textures((SIDE, SIDE), count, generator)


def of_length(images: Tensor, shortest: float, longest: float) -> Draw:
    """Pairs whose smooth displacement has a mean length between two limits."""

    def draw(count: int, generator: torch.Generator) -> Pairs:
        moving = _some(images, count, generator)
        length = shortest + (longest - shortest) * torch.rand(count, 1, 1, 1, generator=generator)
        truth = length * learning.unit_displacements((SIDE, SIDE), count, generator, sigma=8.0)
        return spatial.warp(moving, truth), moving, truth

    return draw


def drawn_from(images: Tensor, displacement: RandomDisplacement) -> Draw:
    """Pairs with one displacement after another."""

    def draw(count: int, generator: torch.Generator) -> Pairs:
        moving = _some(images, count, generator)
        truth = torch.cat([displacement((SIDE, SIDE), generator) for _ in range(count)])
        return spatial.warp(moving, truth), moving, truth

    return draw


def among(pairs: Pairs) -> Draw:
    """Some of a fixed set of pairs."""

    def draw(count: int, generator: torch.Generator) -> Pairs:
        chosen = torch.randint(len(pairs[0]), (count,), generator=generator)
        return tuple(values[chosen] for values in pairs)

    return draw


def _some(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """As many images, each of them equally often where the numbers allow."""
    return images[torch.randperm(len(images), generator=generator).repeat(-(-count // len(images)))[:count]]


def held_back(draw: Draw, count: int = TESTS) -> Pairs:
    """The pairs of a test, always the same."""
    return draw(count, torch.Generator().manual_seed(1))


def trained(
    setting: Setting, name: str, recipe: Recipe, draw: Draw, begun: Sequence[Method] | None = None
) -> list[Method]:
    """One method for each seed, new or trained on from what was begun."""
    recipe = replace(recipe, iterations=max(1, round(setting.scale * recipe.iterations)))
    found = []
    for seed in range(setting.seeds):
        torch.manual_seed(seed)
        method = copy.deepcopy(begun[seed]) if begun else methods.create(name, 2, **recipe.options)
        generator = torch.Generator().manual_seed(100 + seed + (1000 if begun else 0))
        learning.train(method, recipe, lambda g=generator: draw(recipe.batch, g))
        found.append(method)
    return found


def errors(networks: list[Method], pairs: Pairs, steps: int | None, region: Tensor | None = None) -> np.ndarray:
    """Mean error `[seeds, pairs]` in voxels over what is not background in the fixed image, or over a region of it."""
    fixed, moving, truth = pairs
    inside = (fixed > 0.05) if region is None else (fixed > 0.05) & region
    with torch.no_grad():
        found = [network(fixed, moving, count=steps) for network in networks]
    return np.stack([_mean((displacement - truth).norm(dim=1, keepdim=True), inside) for displacement in found])


def _mean(values: Tensor, inside: Tensor) -> np.ndarray:
    """Over a region of each item; NaN where there is none of it."""
    return ((values * inside).flatten(1).sum(1) / inside.flatten(1).sum(1)).numpy()


def interface(truth: Tensor) -> Tensor:
    """Where a displacement jumps by more than a voxel to a neighbour within `NEAR` voxels, `[B, 1, *S]`."""
    jumps = torch.zeros_like(truth[:, :1])
    for axis in (2, 3):
        pairs = truth.narrow(axis, 1, SIDE - 1) - truth.narrow(axis, 0, SIDE - 1)
        here = jumps.narrow(axis, 0, SIDE - 1)
        here.copy_(torch.maximum(here, pairs.norm(dim=1, keepdim=True)))
    return torch.nn.functional.max_pool2d((jumps > 1).float(), 2 * NEAR + 1, stride=1, padding=NEAR) > 0


def more_steps(
    networks: list[Method], name: str, small: Pairs, large: Pairs, counts: tuple[int, ...]
) -> Iterator[Claim]:
    """Each number of steps against the one before; the last one lies beyond the training."""
    for motion, pairs in (("small", small), ("large", large)):
        found = [(f"{count} steps", errors(networks, pairs, count)) for count in counts]
        for fewer, more in pairwise(found):
            beyond = ", beyond the training" if more is found[-1] else ""
            yield Claim(f"{name}, {motion} motion: more steps help{beyond}", more, fewer)


HALF = {"stages": [{"factor": 2, "steps": 4, "radius": 3, "patch": 0.5}]}  # reaches 6 voxels
RWCNET = Recipe(options={**learning.ONE_STAGE, **HALF}, supervised=False, iterations=700, rate=2e-3)


def correlation(setting: Setting) -> Iterator[Claim]:
    """RWCNet: a correlation matters on large motion, little on small."""
    draw = of_length(setting.train, 0.5, 8.0)
    half = int(RWCNET.options["features"]) // 2  # of each image, as in the paper's code
    without = replace(RWCNET, options={**RWCNET.options, "correlation": "none", "features": half})
    networks = trained(setting, "rwcnet", RWCNET, draw)
    blind = trained(setting, "rwcnet", without, draw)
    small, large = (held_back(of_length(setting.test, length, length)) for length in (SMALL, LARGE))
    gains = []
    for motion, pairs in (("small", small), ("large", large)):
        found, lost = errors(networks, pairs, None), errors(blind, pairs, None)
        yield Claim(f"RWCNet, {motion} motion: a correlation helps", ("cosine", found), ("none", lost))
        gains.append((motion, 100 * (lost - found) / lost))
    yield Claim("RWCNet: a correlation gains less on small motion than on large", gains[0], gains[1], unit="%")
    yield from more_steps(networks, "RWCNet", small, large, (1, 2, 4, 8))


def steps(setting: Setting) -> Iterator[Claim]:
    """RIIR: more recurrent steps help on large motion."""
    networks = trained(setting, "riir", Recipe(iterations=130, steps=6), of_length(setting.train, 0.5, 8.0))
    small, large = (held_back(of_length(setting.test, length, length)) for length in (SMALL, LARGE))
    yield from more_steps(networks, "RIIR", small, large, (1, 3, 6, 12))


FEW, MANY = 8, 160  # pairs: 5 and 100 %


def little_data(setting: Setting) -> Iterator[Claim]:
    """RIIR: hidden states and the gradient as input help where there is little data."""
    pool = of_length(setting.train, 3.0, 3.0)(MANY, torch.Generator().manual_seed(4))
    unseen = held_back(of_length(setting.test, 3.0, 3.0))
    variants = {
        "gradient, hidden states": {},
        "no hidden states": {"remember": (False, False)},
        "explicit": {"inputs": "explicit"},
        "implicit": {"inputs": "implicit"},
    }
    for count in (FEW, MANY):
        found = []
        for name, options in variants.items():
            recipe = Recipe(options=options, iterations=80, steps=6, batch=2)
            networks = trained(setting, "riir", recipe, among(tuple(values[:count] for values in pool)))
            found.append((name, errors(networks, unseen, None)))
        for other, what in zip(
            found[1:], ("hidden states help", "the gradient helps", "the gradient helps"), strict=True
        ):
            yield Claim(f"RIIR, {100 * count // MANY} % of the data: {what}", found[0], other)


def affine(setting: Setting) -> Iterator[Claim]:
    """AVSM: several affine steps are better than one. As in the paper, a network of one step is trained first."""
    motion = Deformation(rotation=25, translation=6, scale=0.15, shear=0.1)
    draw, pairs = drawn_from(setting.train, motion), held_back(drawn_from(setting.test, motion))
    recipe = Recipe(options={"affine_steps": 3}, supervised=False, iterations=900, steps=1, rate=1e-3)
    begun = trained(setting, "avsm", recipe, draw)
    once = trained(setting, "avsm", replace(recipe, rate=5e-4), draw, begun)
    # A third of the iterations, each of which looks at a pair three times.
    multi = trained(setting, "avsm", replace(recipe, rate=5e-4, iterations=300, steps=3), draw, begun)
    for network in (*multi, *once):
        network.affine_steps = 7  # whatever the training had: all steps here are affine
    single, again = (("one", errors(once, pairs, 1)), ("one, repeated", errors(once, pairs, 3)))
    three, seven = ("three", errors(multi, pairs, 3)), ("seven", errors(multi, pairs, 7))
    yield Claim("AVSM: three affine steps beat one", three, single)
    yield Claim("AVSM: three affine steps beat one that is repeated three times", three, again)
    yield Claim("AVSM: seven affine steps beat the three of the training", seven, three)


@dataclass(frozen=True)
class Halves(RandomDisplacement):
    """Two halves that slide along each other in opposite directions.

    Attributes:
        shortest: voxels by which they slide, both together.
        longest: likewise.
    """

    shortest: float = 3.0
    longest: float = 6.0

    def __call__(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """One displacement, whose interface is a line in any direction that passes near the middle."""
        angle = 2 * math.pi * torch.rand((), generator=generator)
        along = torch.stack([-angle.sin(), angle.cos()]).view(1, 2, 1, 1)
        across = torch.stack([angle.cos(), angle.sin()]).view(1, 2, 1, 1)
        point = middle(shape, generator) + 0.15 * min(shape) * symmetric((2,), generator)
        beyond = ((spatial.identity_grid(shape) - point.view(1, 2, 1, 1)) * across).sum(dim=1, keepdim=True) > 0
        return between((self.shortest, self.longest), generator) * along * (beyond.float() - 0.5)


SLIDING_TRAIN, SLIDING_TEST = 400, 48  # textures


def interfaces(setting: Setting) -> Iterator[Claim]:
    """RAN: confidence and several heads help next to sliding interfaces."""
    # Half of the image moves one way and textures tell everywhere which: of a ball that turns, or of brain slices, the
    # network learns nothing or little in the same time.
    images = textures(SLIDING_TEST + SLIDING_TRAIN)
    draw = drawn_from(images[SLIDING_TEST:], Halves())
    pairs = held_back(drawn_from(images[:SLIDING_TEST], Halves()), SLIDING_TEST)
    near = interface(pairs[2])
    variants = {
        "CW, MH": {"heads": 6, "confident": True},
        "no CW": {"heads": 6, "confident": False},
        "no MH": {"heads": 1, "confident": True},
        "neither": {"heads": 1, "confident": False},
    }
    found = {}
    for name, options in variants.items():
        networks = trained(setting, "ran", Recipe(options=options, iterations=700, rate=4e-3, batch=2), draw)
        found[name] = [(name, errors(networks, pairs, None, region)) for region in (near, ~near)]
    for other in list(variants)[1:]:
        for where, low, high in zip(("next to", "away from"), found["CW, MH"], found[other], strict=True):
            yield Claim(f"RAN, {where} the interface: both against {other}", low, high)


FINDINGS: dict[str, Callable[[Setting], Iterator[Claim]]] = {
    "steps": steps,
    "correlation": correlation,
    "little-data": little_data,
    "affine": affine,
    "interfaces": interfaces,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("findings", nargs="*", metavar="FINDING", help=f"{', '.join(FINDINGS)}; all if none is given")
    parser.add_argument("--data", type=Path, help="folder that holds brain_2d_oasis; made textures without it")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="times the iterations")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    unknown = set(arguments.findings) - set(FINDINGS)
    if unknown:
        parser.error(f"there is no finding {', '.join(sorted(unknown))}")
    torch.set_num_threads(arguments.threads)
    images = brains(arguments.data) if arguments.data else textures(40)
    setting = Setting(images[:-TESTS], images[-TESTS:], arguments.seeds, arguments.scale)
    print("| finding | claim | error ± deviation over pairs and seeds | difference (p) | verdict |")
    print("|---|---|---|---|---|")
    for name in arguments.findings or FINDINGS:
        for claim in FINDINGS[name](setting):
            print(claim.row(name), flush=True)


if __name__ == "__main__":
    main()
