"""Train the weights that ship: a registration network on labelled pairs of one folder.

    python training/weights.py training/weights/hippocampus-voxelmorph.yaml --data ../shared/data

A pair is two subjects drawn at random. Both go through the preparation of `register` and onto a lattice of one size
around the fixed image, the moving one through a random affine map, so that the network works with and without a linear
stage before it. The last subjects of the sorted list are held back: they are never read here.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from RecurrentRegistrationLib import methods, spatial, zoo
from RecurrentRegistrationLib.losses.regularity import diffusion
from RecurrentRegistrationLib.losses.similarity import LocalCorrelation
from RecurrentRegistrationLib.methods.base import Method
from RecurrentRegistrationLib.preparation import PRESETS, Prepared, antialiased, linear_displacement, prepare
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.volume import Grid, Volume

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Configuration:
    """A YAML file: what is trained, on what, and how.

    Attributes:
        name: of the weights.
        summary: what they are for, one sentence.
        method: a name of `methods.names()`.
        options: of the method.
        folder: with `images` and `labels`, below the data folder.
        data: the name of the data for the card.
        licence: of the data.
        classes: label values.
        held_back: subjects at the end of the sorted list that are kept for measuring.
        validation: subjects before them that are not trained on either; their Dice is printed on the way.
        size: of the lattice (i, j, k).
        spacing: of the lattice, millimetres.
        iterations: of AdamW.
        batch: pairs in an iteration.
        rate: first learning rate; it falls to zero along a cosine.
        steps: of the method while training and by default afterwards; None for its own number.
        dice: weight of 1 - Dice.
        similarity: weight of 1 - LNCC.
        smoothness: weight of the diffusion loss.
        rotation: deviation of the random rotations, degrees.
        stretch: deviation of the random scales and shears.
        shift: deviation of the random translations, millimetres.
        gamma: deviation of the logarithm of the random exponent of intensities.
        half: whether the network runs in bfloat16 while training.
        seed: of everything that is drawn.
    """

    name: str
    summary: str
    method: str
    folder: str
    data: str
    licence: str
    classes: tuple[int, ...]
    held_back: int
    validation: int
    size: tuple[int, int, int]
    spacing: float
    iterations: int
    options: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 4
    rate: float = 1e-3
    steps: int | None = None
    dice: float = 1.0
    similarity: float = 0.3
    smoothness: float = 0.1
    rotation: float = 5.0
    stretch: float = 0.05
    shift: float = 1.5
    gamma: float = 0.2
    half: bool = True
    seed: int = 0

    @classmethod
    def read(cls, path: Path) -> Configuration:
        """From a file that names nothing else than these attributes."""
        values = yaml.safe_load(path.read_text())
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise SystemExit(f"error: {path} names {', '.join(sorted(unknown))}, which nothing reads")
        return cls(**values)


@dataclass(frozen=True)
class Subject:
    """An image in [0, 1] and one map for each label, `[1, 1 + labels, *S]`, and their lattice."""

    values: Tensor
    grid: Grid

    @classmethod
    def read(cls, image: Path, classes: tuple[int, ...], spacing: float) -> Subject:
        """An image of `images` and its partner of `labels`, smoothed for a lattice of `spacing`."""
        volume, labels = Volume.read(image), Volume.read(image.parents[1] / "labels" / image.name)
        prepared: Prepared = prepare(volume, None, PRESETS["mr"])
        maps = [torch.from_numpy((labels.array == value).astype(np.float32))[None] for value in classes]
        target = volume.grid.resampled([spacing] * 3)
        values = torch.cat([antialiased(v, volume.grid, target) for v in (prepared.values, *maps)], dim=1)
        return cls(values, volume.grid)

    def lattice(self, size: tuple[int, ...], spacing: float) -> Grid:
        """One of `size` with the same middle and axes."""
        middle = self.grid.physical((np.array(self.grid.size) - 1) / 2)
        axes = np.array(self.grid.direction).reshape(3, 3)
        origin = middle - axes @ ((np.array(size) - 1) / 2 * spacing)
        return Grid(tuple(size), (spacing,) * 3, tuple(origin.tolist()), self.grid.direction)

    def onto(self, target: Grid, matrix: np.ndarray | None = None) -> Tensor:
        """Pulled onto a lattice through a homogeneous matrix from its points to the subject's."""
        return spatial.warp(self.values, linear_displacement(target, self.grid, matrix))


def random_affine(centre: np.ndarray, how: Configuration, generator: np.random.Generator) -> np.ndarray:
    """A homogeneous matrix: a rotation, scales and shears around a centre, and a translation."""
    turn = np.deg2rad(generator.normal(0, how.rotation, 3))
    skew = np.array([[0, -turn[2], turn[1]], [turn[2], 0, -turn[0]], [-turn[1], turn[0], 0]])
    linear = torch.linalg.matrix_exp(torch.from_numpy(skew)).numpy() @ (
        np.eye(3) + generator.normal(0, how.stretch, (3, 3))
    )
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre - linear @ centre + generator.normal(0, how.shift, 3)
    return matrix


def draw(subjects: list[Subject], how: Configuration, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Fixed and moving images with their label maps, `[batch, 1 + labels, *S]`."""
    pairs = [_pair(subjects, how, generator) for _ in range(how.batch)]
    fixed, moving = (torch.cat(images) for images in zip(*pairs, strict=True))
    return fixed, moving


def _pair(subjects: list[Subject], how: Configuration, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    first, second = generator.choice(len(subjects), 2, replace=False)
    target = subjects[first].lattice(how.size, how.spacing)
    centre = target.physical((np.array(target.size) - 1) / 2)
    pose = random_affine(centre, how, generator)
    fixed = subjects[first].onto(target, pose)
    moving = subjects[second].onto(target, pose @ random_affine(centre, how, generator))
    for values in (fixed, moving):
        values[:, :1] = values[:, :1].clamp(0, 1) ** math.exp(generator.normal(0, how.gamma))
    return fixed, moving


def soft_dice(a: Tensor, b: Tensor) -> Tensor:
    """Mean over pairs and labels of the overlap of maps `[B, labels, *S]` in [0, 1]."""
    axes = tuple(range(2, a.ndim))
    return ((2 * (a * b).sum(axes) + 1) / (a.square().sum(axes) + b.square().sum(axes) + 1)).mean()


def loss(steps: list[Step], fixed: Tensor, moving: Tensor, how: Configuration) -> Tensor:
    """Over all steps, the last of which counts ten times as much as the first."""
    weights = [10 ** (n / max(len(steps) - 1, 1)) for n in range(len(steps))]
    correlation = LocalCorrelation(radius=2)
    total = fixed.new_zeros(())
    for weight, step in zip(weights, steps, strict=True):
        warped = spatial.warp(moving, step.displacement)
        total = total + weight * (
            how.dice * (1 - soft_dice(fixed[:, 1:], warped[:, 1:]))
            + how.similarity * correlation(fixed[:, :1], warped[:, :1])
            + how.smoothness * diffusion(step.displacement)
        )
    return total / sum(weights)


def train(method: Method, subjects: list[Subject], validation: list[Subject], how: Configuration) -> None:
    """Train a method in place."""
    generator = np.random.default_rng(how.seed)
    optimiser = torch.optim.AdamW(method.parameters(), lr=how.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, how.iterations)
    began, told = time.process_time(), max(how.iterations // 10, 1)
    for iteration in range(1, how.iterations + 1):
        fixed, moving = draw(subjects, how, generator)
        method.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=how.half):
            steps = list(method.steps(seen(method, fixed), seen(method, moving), count=how.steps))
        value = loss(steps, fixed, moving, how)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if iteration % told == 0:
            before, after, folding = validated(method, validation, how)
            print(
                f"{iteration} of {how.iterations}, {time.process_time() - began:.0f} CPU s: loss {value.item():.3f}, "
                f"validation Dice {before:.3f} -> {after:.3f}, folding {folding:.3f} %",
                flush=True,
            )
    method.eval()


def seen(method: Method, values: Tensor) -> Tensor:
    """The images with the intensities that the method's card asks for."""
    image = values[:, :1]
    if method.card.intensities != "zscore":
        return image
    axes = tuple(range(1, image.ndim))
    return ((image - image.mean(axes, keepdim=True)) / image.std(axes, keepdim=True)).clamp(-2, 2)


@torch.no_grad()
def validated(method: Method, subjects: list[Subject], how: Configuration) -> tuple[float, float, float]:
    """Mean Dice of neighbours as given and after, on the working lattice, and folding in per cent."""
    method.eval()
    targets = [subject.lattice(how.size, how.spacing) for subject in subjects[::2]]
    fixed, moving = (
        torch.cat([subject.onto(target) for subject, target in zip(subjects[first::2], targets, strict=True)])
        for first in (0, 1)
    )
    *_, last = method.steps(seen(method, fixed), seen(method, moving), count=how.steps)
    warped = spatial.warp(moving, last.displacement)
    before, after = (
        soft_dice((fixed[:, 1:] > 0.5).float(), (maps[:, 1:] > 0.5).float()).item() for maps in (moving, warped)
    )
    return before, after, 100 * spatial.folding_fraction(last.displacement)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configuration", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of data sets")
    parser.add_argument("--out", type=Path, default=ROOT / "Resources" / "Models", help="the folder of weights")
    parser.add_argument("--iterations", type=int, help="instead of the configuration's, to try it out")
    arguments = parser.parse_args()
    how = Configuration.read(arguments.configuration)
    if arguments.iterations:
        how = replace(how, iterations=arguments.iterations)
    images = sorted((arguments.data / how.folder / "images").glob("*.nii.gz"))
    kept, held_back = images[: -how.held_back], images[-how.held_back :]
    subjects = [Subject.read(image, tuple(how.classes), how.spacing) for image in kept]
    torch.manual_seed(how.seed)
    method = methods.create(how.method, 3, **how.options)
    train(method, subjects[: -how.validation], subjects[-how.validation :], how)
    model = zoo.Model(
        name=how.name,
        method=how.method,
        dimension=3,
        summary=how.summary,
        data=f"{how.data}, {len(kept)} subjects",
        licence=how.licence,
        configuration=arguments.configuration.resolve().relative_to(ROOT).as_posix(),
        seed=how.seed,
        spacing=how.spacing,
        steps=how.steps,
        options=dict(how.options),
        held_back=tuple(f"{how.folder}/images/{image.name}" for image in held_back),
    )
    zoo.save(model, method, arguments.out)
    print(f"{arguments.out / how.name}")


if __name__ == "__main__":
    main()
