"""Does each method learn? Train it briefly on synthetic pairs and measure the error of the known displacement.

    python Testing/benchmarks/learning.py [METHOD …] [--dimension 2] [--scale 1.0] [--threads 1]

The moving image is a random smooth texture that fades to zero at the border; the fixed image is the moving one pulled
through a random smooth displacement, so the displacement that a method should find is known at every voxel. Pairs are
drawn anew for each iteration and the error is measured on pairs that were never trained on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from RecurrentRegistrationLib import methods, spatial
from RecurrentRegistrationLib.methods import Method
from RecurrentRegistrationLib.train.module import Training, seen
from RecurrentRegistrationLib.train.objective import LossTerm
from RecurrentRegistrationLib.train.optimisation import Optimisation
from RecurrentRegistrationLib.train.run import ENGINE, quiet
from RecurrentRegistrationLib.train.schedule import Schedule

SHAPES = {2: (48, 40), 3: (24, 28, 20)}
SILENT = {
    **ENGINE,
    "accelerator": "cpu",
    "gradient_clip_val": 1.0,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
}
MARGIN = 4  # voxels at each border that the error leaves out: nothing there tells where to go


@dataclass(frozen=True)
class Recipe:
    """How a method is trained.

    Attributes:
        options: of `methods.create`; widths may be small, the architecture is the real one.
        supervised: by the known displacement (as in the first stage of RAN's training) instead of by the images.
        steps: of the method; None for its own number.
        iterations: of Adam.
        rate: Adam's first learning rate; it falls to zero along a cosine.
        batch: pairs in an iteration.
        smoothness: weight of the diffusion loss.
        series: all pairs show one object in motion, as in a series of images, not each another one.
    """

    options: Mapping[str, object] = field(default_factory=dict)
    supervised: bool = True
    steps: int | None = None
    iterations: int = 400
    rate: float = 3e-3
    batch: int = 4
    smoothness: float = 0.03
    series: bool = False


# Of small images a Gaussian moves more than a few voxels only by mistake, and one within a voxel cannot learn.
GAUSSIANS = {
    "channels": [8, 16, 32, 64],
    "blocks": 1,
    "noise": 0.0,
    "smallest_sigma": 0.1,
    "largest_sigma": 0.5,
    "largest_weight": 0.15,
}
ONE_STAGE = {
    "stages": [{"factor": 1, "steps": 4, "radius": 3, "patch": 1.0}],
    "correlation": "cosine",
    "features": 8,
    "hidden": 16,
    "dropout": 0.0,
}
RECIPES: dict[str, Recipe] = {
    "avsm": Recipe(options={"affine_steps": 2}, steps=4, iterations=300, rate=1e-3),
    "cross-attention": Recipe(supervised=False, iterations=900),
    "dual-prnet": Recipe(supervised=False, iterations=2500),
    "global-local": Recipe(options={"width": 8}, iterations=1500),
    "gradirn": Recipe(options={"channels": 16}, iterations=600),
    "lapirn": Recipe(options={"channels": 16}, iterations=500),
    "r2n2": Recipe(options=GAUSSIANS, steps=8, iterations=800, rate=1e-3, batch=8, series=True),
    "ran": Recipe(options={"heads": 2}, supervised=False, iterations=900, rate=4e-3),
    "rcn": Recipe(options={"width": 8}, iterations=1000),
    "riir": Recipe(iterations=300),
    "rwcnet": Recipe(options=ONE_STAGE, supervised=False, steps=2, iterations=600, rate=2e-3),
    "voxelmorph": Recipe(iterations=3000),
}


@dataclass(frozen=True)
class Outcome:
    """Mean errors of the known displacement in voxels: of no displacement, untrained and trained; CPU seconds."""

    zero: float
    before: float
    after: float
    seconds: float
    parameters: int

    @property
    def factor(self) -> float:
        """How many times smaller than that of no displacement the trained method's error is."""
        return self.zero / self.after


def pairs(
    dimension: int, count: int, generator: torch.Generator, *, length: float = 2.0, series: bool = False
) -> tuple[Tensor, ...]:
    """Fixed and moving images `[count, 1, *S]` in [0, 1] and the displacement `[count, d, *S]`, voxels.

    `length` is the displacement's mean length in each pair; in a `series` all moving images are one.
    """
    shape = SHAPES[dimension]
    if series:
        moving = textures(shape, 1, torch.Generator().manual_seed(0)).repeat(count, *[1] * (dimension + 1))
    else:
        moving = textures(shape, count, generator)
    truth = length * unit_displacements(shape, count, generator)
    return spatial.warp(moving, truth), moving, truth


def textures(shape: tuple[int, ...], count: int, generator: torch.Generator) -> Tensor:
    """Random smooth images `[count, 1, *S]` in [0, 1] that fade to zero at the border."""
    spread = tuple(range(1, len(shape) + 2))
    texture = spatial.gaussian_smooth(torch.randn(count, 1, *shape, generator=generator), 1.5)
    texture = texture - texture.amin(dim=spread, keepdim=True)
    return texture / texture.amax(dim=spread, keepdim=True) * _window(shape)


def unit_displacements(shape: tuple[int, ...], count: int, generator: torch.Generator, sigma: float = 6.0) -> Tensor:
    """Random displacements `[count, d, *S]`, smooth by a Gaussian of `sigma` voxels, each of mean length 1 voxel."""
    dimension = len(shape)
    bumps = spatial.gaussian_smooth(torch.randn(count, dimension, *shape, generator=generator), sigma)
    return bumps / bumps.norm(dim=1).flatten(1).mean(dim=1).view(-1, *[1] * (dimension + 1))


def _window(shape: tuple[int, ...]) -> Tensor:
    """1 inside, falling to 0 over the margin."""
    window = torch.ones(())
    for n in shape:
        position = torch.arange(n)
        edge = torch.minimum(position, n - 1 - position) / MARGIN
        window = window.unsqueeze(-1) * edge.clamp(max=1)
    return window


def error(displacement: Tensor, truth: Tensor) -> float:
    """Mean distance in voxels, away from the border."""
    inside = (..., *[slice(MARGIN, -MARGIN)] * spatial.dimension_of(truth))
    return (displacement - truth).norm(dim=1)[inside].mean().item()


class Draws(LightningDataModule):
    """What `draw` gives, fixed, moving, displacement, as the trainer wants its data."""

    def __init__(self, dimension: int, draw: Callable[[], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.spacing, self.draw = (1.0,) * dimension, draw

    def train_dataloader(self) -> Draws:
        """An endless one: itself."""
        return self

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield dict(zip(("fixed", "moving", "displacement"), self.draw(), strict=True))


def train(method: Method, recipe: Recipe, draw: Callable[[], tuple[Tensor, ...]], dimension: int = 2) -> None:
    """Train a method in place on what `draw` gives: fixed, moving, displacement."""
    likeness = [LossTerm("mse", 10.0), LossTerm("diffusion", recipe.smoothness)]
    training = Training(
        method.card.name,
        [LossTerm("displacement")] if recipe.supervised else likeness,
        dimension,
        options=dict(recipe.options),
        steps=recipe.steps,
        over="rising",
        optimisation=Optimisation(recipe.rate, Schedule("cosine", recipe.iterations)),
    )
    training.method = method
    with quiet():
        trainer = Trainer(max_steps=recipe.iterations, **SILENT)
        trainer.fit(training, datamodule=Draws(dimension, draw))
    method.eval()


def measured(method: Method, recipe: Recipe, fixed: Tensor, moving: Tensor, truth: Tensor) -> float:
    """The error of a method's displacement of some pairs."""
    with torch.no_grad():
        return error(method(seen(method, fixed), seen(method, moving), count=recipe.steps), truth)


def outcome(name: str, dimension: int, recipe: Recipe, *, tests: int = 16) -> Outcome:
    """Train a method anew and measure it on pairs that it has not seen."""
    torch.manual_seed(0)
    method = methods.create(name, dimension, **recipe.options).eval()
    unseen = pairs(dimension, tests, torch.Generator().manual_seed(1), series=recipe.series)
    before, start = measured(method, recipe, *unseen), time.process_time()
    generator = torch.Generator().manual_seed(2)
    train(method, recipe, lambda: pairs(dimension, recipe.batch, generator, series=recipe.series), dimension)
    seconds = time.process_time() - start
    parameters = sum(parameter.numel() for parameter in method.parameters())
    zero = error(torch.zeros_like(unseen[2]), unseen[2])
    return Outcome(zero, before, measured(method, recipe, *unseen), seconds, parameters)


def main() -> None:
    trained = [name for name in methods.names() if methods.card(name).trained]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="METHOD", help="all that need training, if none is given")
    parser.add_argument("--dimension", type=int, choices=(2, 3), default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="times the iterations of the recipes")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| method | parameters | zero | untrained | trained | factor | CPU seconds |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.names or trained:
        print(row(name, arguments.dimension, arguments.scale), flush=True)


def row(name: str, dimension: int, scale: float) -> str:
    """A line of the table."""
    recipe = RECIPES.get(name, Recipe())
    recipe = replace(recipe, iterations=round(scale * recipe.iterations))
    found = outcome(name, dimension, recipe)
    errors = f"{found.zero:.2f} | {found.before:.2f} | {found.after:.2f} | {found.factor:.1f}"
    return f"| {name} {dimension}D | {found.parameters} | {errors} | {found.seconds:.0f} |"


if __name__ == "__main__":
    main()
