"""Train the weights that ship: a registration network on labelled pairs of one folder.

    python training/weights.py training/weights/hippocampus-voxelmorph.yaml --data ../shared/data

A pair is two subjects drawn at random. Both go through the preparation of `register` and onto a lattice of one size
around the fixed image, which shows no more of the moving one than its own box, as in `register`. They lie to each other
as the middles of their labels or the linear stage of `register` and a random affine map have it. The last subjects of
the sorted list are held back: they are never read here.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from RecurrentRegistrationLib import methods, pipeline, spatial, weights
from RecurrentRegistrationLib.losses.regularity import diffusion
from RecurrentRegistrationLib.losses.similarity import LocalCorrelation
from RecurrentRegistrationLib.methods.base import Method
from RecurrentRegistrationLib.pipeline.preparation import PRESETS, Prepared, antialiased, linear_displacement, prepare
from RecurrentRegistrationLib.pipeline.run import Options
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.transform import Affine
from RecurrentRegistrationLib.volume import Grid, Volume

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Features:
    """A network within the method that first learns the labels: a correlation of random features says too little.

    Attributes:
        module: its place in the method; its first channels become what is around the labels and the labels.
        iterations: of AdamW.
        rate: of learning.
    """

    module: str
    iterations: int
    rate: float


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
        size: of the lattice (i, j, k), whose place around the fixed image varies.
        spacing: of the lattice, millimetres.
        iterations: of AdamW.
        batch: pairs in an iteration.
        rate: first learning rate; it falls to zero along a cosine.
        steps: of the method while training; None for its own number.
        steps_after: by default afterwards, best on the validation subjects; None for as many as while training.
        dice: weight of 1 - Dice.
        similarity: weight of 1 - LNCC.
        smoothness: weight of the diffusion loss.
        start: "labels" lays the middles of the labels upon each other; "linear" aligns every subject with the first one
            by the linear stage of `register`, so that a network sees the errors that this leaves.
        rotation: deviation of the random rotations on top of that, degrees.
        stretch: deviation of the random scales and shears.
        shift: deviation of the random translations, millimetres.
        gamma: deviation of the logarithm of the random exponent of intensities.
        contrast: knots of a random curve that changes each image's intensities, so that the network learns to do
            without a contrast of its own; 0 for none.
        mixed: convolve in bfloat16, which is faster on processors that know it. Not for methods whose levels shrink to
            a few voxels: oneDNN's gradients of their weights are not always numbers then.
        features: what learns before all else, see `Features`; None for nothing.
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
    steps_after: int | None = None
    dice: float = 1.0
    similarity: float = 0.3
    smoothness: float = 0.1
    start: str = "linear"
    rotation: float = 3.0
    stretch: float = 0.03
    shift: float = 0.7
    gamma: float = 0.2
    contrast: int = 0
    mixed: bool = False
    features: Features | None = None
    seed: int = 0

    @classmethod
    def read(cls, path: Path) -> Configuration:
        """From a file that names nothing else than these attributes."""
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise SystemExit(f"error: {path} names {', '.join(sorted(unknown))}, which nothing reads")
        if values.get("start", "linear") not in ("labels", "linear"):
            raise SystemExit(f"error: the start of {path} is 'labels' or 'linear', not '{values['start']}'")
        if values.get("features"):
            values["features"] = Features(**values["features"])
        return cls(**values)


@dataclass(frozen=True)
class Subject:
    """An image in [0, 1], 1 for its box and one map for each label, `[1, 2 + labels, *S]`, with its lattice.

    `start` is the linear map from a space that all subjects share to its points, homogeneous, millimetres; random maps
    turn around its `middle`.
    """

    values: Tensor
    grid: Grid
    middle: np.ndarray
    start: np.ndarray

    @classmethod
    def read(cls, image: Path, classes: tuple[int, ...], spacing: float, start: np.ndarray | None = None) -> Subject:
        """An image of `images` and its partner of `labels`, smoothed for a lattice of `spacing`.

        Without a `start` the middle is that of the labels, which all subjects then share, otherwise that of the image.
        """
        volume, labels = Volume.read(image), Volume.read(image.parents[1] / "labels" / image.name)
        prepared: Prepared = prepare(volume, None, PRESETS["mr"])
        maps = [torch.from_numpy((labels.array == value).astype(np.float32))[None] for value in classes]
        target = volume.grid.resampled([spacing] * 3)
        smooth = [antialiased(v, volume.grid, target) for v in (prepared.values, *maps)]
        values = torch.cat([smooth[0], torch.ones_like(smooth[0]), *smooth[1:]], dim=1)
        if start is not None:
            return cls(values, volume.grid, volume.grid.centre, start)
        middle = volume.grid.physical(np.argwhere(labels.array[0] > 0).mean(axis=0)[::-1])
        start = np.eye(4)
        start[:3, 3] = middle
        return cls(values, volume.grid, middle, start)

    def lattice(self, size: tuple[int, ...], spacing: float, shift: np.ndarray | float = 0.0) -> Grid:
        """One of `size` with the same axes, its middle `shift` voxels beside the image's."""
        axes = np.array(self.grid.direction).reshape(3, 3)
        origin = self.grid.centre - axes @ (((np.array(size) - 1) / 2 - shift) * spacing)
        return Grid(tuple(size), (spacing,) * 3, tuple(origin.tolist()), self.grid.direction)

    def onto(self, target: Grid, matrix: np.ndarray | None = None) -> Tensor:
        """Pulled onto a lattice through a homogeneous matrix from its points to the subject's."""
        return spatial.warp(self.values, linear_displacement(target, self.grid, matrix))


def linear_start(first: Path, image: Path) -> np.ndarray:
    """The linear stage of `register`: a homogeneous matrix from points of the first image to those of another."""
    matrix = np.eye(4)
    if image != first:
        run = pipeline.start(Volume.read(first), Volume.read(image), options=Options(device="cpu"))
        step = next(step for step in run if run.phase == "deform")
        matrix = next(part.matrix for part in run.transform_at(step).parts if isinstance(part, Affine))
    return matrix


def starts(images: list[Path], how: Configuration, file: Path | None) -> Sequence[np.ndarray | None]:
    """For `Subject.read`; from a file where they were written before, because the linear stage takes seconds."""
    if how.start == "labels":
        return [None] * len(images)
    if file is not None and file.exists():
        return list(np.load(file))
    found = [linear_start(images[0], image) for image in images]
    if file is not None:
        np.save(file, np.stack(found))
    return found


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


def pair(fixed: Subject, moving: Subject, target: Grid, matrix: np.ndarray) -> tuple[Tensor, Tensor]:
    """Fixed and moving image, box, label maps, `[1, 2 + labels, *S]`; the moving image ends where the fixed one does.

    The matrix comes before the linear map between them.
    """
    onto = moving.start @ np.linalg.inv(fixed.start)
    first, second = fixed.onto(target), moving.onto(target, onto @ matrix)
    second[:, :1] *= first[:, 1:2]
    return first, second


def draw(subjects: list[Subject], how: Configuration, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random pairs: fixed and moving images, boxes and label maps, `[batch, 2 + labels, *S]`."""
    pairs = []
    for _ in range(how.batch):
        first, second = (subjects[n] for n in generator.choice(len(subjects), 2, replace=False))
        target = first.lattice(how.size, how.spacing, generator.integers(-2, 3, 3))
        fixed, moving = pair(first, second, target, random_affine(first.middle, how, generator))
        for values in (fixed, moving):
            values[:, :1] = values[:, :1].clamp(0, 1) ** math.exp(generator.normal(0, how.gamma))
            if how.contrast:
                values[:, :1] = recoloured(values[:, :1], generator.random(how.contrast)) * (values[:, 1:2] > 0)
        pairs.append((fixed, moving))
    return tuple(torch.cat(images) for images in zip(*pairs, strict=True))  # type: ignore[return-value]


def recoloured(image: Tensor, curve: np.ndarray) -> Tensor:
    """Intensities of [0, 1] through a piecewise linear curve between equal distances, stretched to [0, 1] again."""
    changed = np.interp(image.numpy(), np.linspace(0, 1, len(curve)), curve)
    low, high = changed.min(), changed.max()
    return torch.from_numpy((changed - low) / max(high - low, 1e-6)).to(image)


def soft_dice(a: Tensor, b: Tensor) -> Tensor:
    """Mean over pairs and labels of the overlap of maps `[B, labels, *S]` in [0, 1]."""
    axes = tuple(range(2, a.ndim))
    return ((2 * (a * b).sum(axes) + 1) / (a.square().sum(axes) + b.square().sum(axes) + 1)).mean()


def hard_dice(a: Tensor, b: Tensor) -> float:
    """The same where each map is above one half."""
    return soft_dice((a > 0.5).float(), (b > 0.5).float()).item()


def loss(steps: list[Step], fixed: Tensor, moving: Tensor, how: Configuration) -> Tensor:
    """Over all steps, the last of which counts ten times as much as the first; both directions where there are two."""
    weights = [10 ** (n / max(len(steps) - 1, 1)) for n in range(len(steps))]
    total = fixed.new_zeros(())
    for weight, step in zip(weights, steps, strict=True):
        terms = one_way(step.displacement, fixed, moving, how)
        if "backward" in step.attached:
            backward = spatial.resize_displacement(step.attached["backward"], fixed.shape[2:])
            terms = (terms + one_way(backward, moving, fixed, how)) / 2
        total = total + weight * terms
    return total / sum(weights)


def one_way(displacement: Tensor, fixed: Tensor, moving: Tensor, how: Configuration) -> Tensor:
    """What a displacement `[B, 3, *S]` leaves between fixed and moving, and its roughness."""
    warped = spatial.warp(moving, displacement)
    terms = how.dice * (1 - soft_dice(fixed[:, 2:], warped[:, 2:])) + how.smoothness * diffusion(displacement)
    if how.similarity:  # half of the time of a small network
        terms = terms + how.similarity * LocalCorrelation(radius=2)(fixed[:, :1], warped[:, :1])
    return terms


def train(method: Method, subjects: list[Subject], validation: list[Subject], how: Configuration) -> None:
    """Train a method in place."""
    generator = np.random.default_rng(how.seed)
    optimiser = torch.optim.AdamW(method.parameters(), lr=how.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, how.iterations)
    began, told = time.process_time(), max(how.iterations // 10, 1)
    for iteration in range(1, how.iterations + 1):
        fixed, moving = draw(subjects, how, generator)
        method.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=how.mixed):
            steps = list(registered(method, fixed, moving, how))
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


def teach_features(method: Method, subjects: list[Subject], how: Configuration, features: Features) -> None:
    """Train a feature network in place to tell the labels and what is around them apart."""
    generator, network = np.random.default_rng(how.seed), method.get_submodule(features.module).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=features.rate, weight_decay=1e-4)
    began, told = time.process_time(), max(features.iterations // 5, 1)
    for iteration in range(1, features.iterations + 1):
        images = torch.cat(draw(subjects, how, generator))
        labels = images[:, 2:]
        maps = torch.cat([1 - labels.sum(dim=1, keepdim=True), labels], dim=1).clamp(0, 1)
        found = network(seen(method, images))[:, : maps.shape[1]].float().log_softmax(dim=1)
        value = 1 - soft_dice(found.exp()[:, 1:], labels) - (maps * found).sum(dim=1).mean()
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        if iteration % told == 0:
            print(
                f"features {iteration} of {features.iterations}, {time.process_time() - began:.0f} CPU s: "
                f"Dice of the labels {hard_dice(found.exp()[:, 1:], labels):.3f}",
                flush=True,
            )


def registered(method: Method, fixed: Tensor, moving: Tensor, how: Configuration) -> Iterator[Step]:
    """The steps of a method, which as in `register` is told where each image was scanned."""
    return method.steps(
        seen(method, fixed),
        seen(method, moving),
        fixed_mask=fixed[:, 1:2],
        moving_mask=moving[:, 1:2],
        count=how.steps,
    )


def seen(method: Method, values: Tensor) -> Tensor:
    """The images with the intensities that the method's card asks for."""
    image = values[:, :1]
    if method.card.intensities != "zscore":
        return image
    axes = tuple(range(1, image.ndim))
    return ((image - image.mean(axes, keepdim=True)) / image.std(axes, keepdim=True)).clamp(-2, 2)


@torch.no_grad()
def validated(method: Method, subjects: list[Subject], how: Configuration) -> tuple[float, float, float]:
    """Mean Dice of neighbours after the linear stage and at the end, both on the lattice, and folding in per cent."""
    method.eval()
    neighbours = zip(subjects[::2], subjects[1::2], strict=True)
    pairs = [pair(first, second, first.lattice(how.size, how.spacing), np.eye(4)) for first, second in neighbours]
    fixed, moving = (torch.cat(images) for images in zip(*pairs, strict=True))
    *_, last = registered(method, fixed, moving, how)
    warped = spatial.warp(moving, last.displacement)
    before, after = (hard_dice(fixed[:, 2:], maps[:, 2:]) for maps in (moving, warped))
    return before, after, 100 * spatial.folding_fraction(last.displacement)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configuration", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of data sets")
    parser.add_argument("--out", type=Path, default=ROOT / "Resources" / "Models", help="the folder of weights")
    parser.add_argument("--starts", type=Path, help="a file (.npy) that keeps the linear stage for the next training")
    parser.add_argument("--iterations", type=int, help="instead of the configuration's, to try it out")
    arguments = parser.parse_args()
    how = Configuration.read(arguments.configuration)
    if arguments.iterations:
        how = replace(how, iterations=arguments.iterations)
    images = sorted((arguments.data / how.folder / "images").glob("*.nii.gz"))
    kept, held_back = images[: -how.held_back], images[-how.held_back :]
    subjects = [
        Subject.read(image, tuple(how.classes), how.spacing, start)
        for image, start in zip(kept, starts(kept, how, arguments.starts), strict=True)
    ]
    torch.manual_seed(how.seed)
    method = methods.create(how.method, 3, **how.options)
    if how.features:
        teach_features(method, subjects[: -how.validation], how, how.features)
    train(method, subjects[: -how.validation], subjects[-how.validation :], how)
    model = weights.Model(
        name=how.name,
        method=how.method,
        dimension=3,
        summary=how.summary,
        data=f"{how.data}, {len(kept) - how.validation} subjects",
        licence=how.licence,
        configuration=arguments.configuration.resolve().relative_to(ROOT).as_posix(),
        seed=how.seed,
        spacing=how.spacing,
        steps=how.steps_after or how.steps,
        options=dict(how.options),
        held_back=tuple(f"{how.folder}/images/{image.name}" for image in held_back),
    )
    weights.save(model, method, arguments.out)
    print(f"{arguments.out / how.name}")


if __name__ == "__main__":
    main()
