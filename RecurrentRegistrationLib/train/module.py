"""`Training`: a method's steps, judged by an objective, as Lightning wants its module."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from RecurrentRegistrationLib import methods, spatial, weights
from RecurrentRegistrationLib.errors import InputError, is_out_of_memory
from RecurrentRegistrationLib.methods.base import Turn
from RecurrentRegistrationLib.metrics.overlap import dice
from RecurrentRegistrationLib.train.draws import SIDES, exchanged
from RecurrentRegistrationLib.train.judged import Batch, Judged
from RecurrentRegistrationLib.train.lesson import Lesson
from RecurrentRegistrationLib.train.objective import LossTerm, Objective
from RecurrentRegistrationLib.train.optimisation import Optimisation
from RecurrentRegistrationLib.train.schedule import Unrolling, Weighting


class Training(LightningModule):
    """The training of one method.

    Args:
        method: its name.
        losses: what is minimised.
        dimension: 2 or 3.
        options: of the method.
        steps: of a registration; None for the method's own.
        unrolling: how many steps it makes in training, and which of them have a gradient.
        over: which of its steps count, where a term does not say.
        own_grid: judge each step on the grid of its own values.
        backward: judge the other direction, too, where the method attaches it.
        both_directions: register each pair both ways in one batch of twice the size, as symmetric terms need.
        lesson: what a part of the method learns, instead of the method: a stage before the registration; None for none.
        frozen: parts of the method that stay as they are, for example "affine_network".
        initial: weights to begin with, a safetensors file.
        initial_part: take from them what fits, instead of refusing others than this method's.
        optimisation: the optimiser.
        checkpoint: recompute each step in the backward pass: memory for time.
        half_precision: of the exported weights.
        seed: of all draws in training (dropout, noise); each step has its own.
    """

    def __init__(
        self,
        method: str,
        losses: Sequence[LossTerm] = (),
        dimension: int = 3,
        options: dict[str, Any] | None = None,
        steps: int | None = None,
        unrolling: Unrolling = Unrolling(),  # noqa: B008, it is frozen
        over: Weighting = "last",
        own_grid: bool = False,
        backward: bool = False,
        both_directions: bool = False,
        lesson: Lesson | None = None,
        frozen: Sequence[str] = (),
        initial: Path | None = None,
        initial_part: bool = False,
        optimisation: Optimisation = Optimisation(),  # noqa: B008, it is frozen
        checkpoint: bool = False,
        half_precision: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if steps is not None and steps < 1:
            raise InputError(f"A registration has 1 or more steps, not {steps}.")
        self.name, self.dimension, self.options, self.count = method, dimension, dict(options or {}), steps
        self.method = _create(method, dimension, self.options)
        if not any(True for _ in self.method.parameters()):
            raise InputError(f"The method '{method}' has no weights to train.")
        if unrolling != Unrolling() and not self.method.card.recurrent:
            raise InputError(f"The method '{method}' has a fixed number of steps: leave out model.unrolling.")
        self.method.checkpoint, self.unrolling = checkpoint, unrolling
        if initial is not None:
            weights.load(self.method, initial, strict=not initial_part)
        if lesson is not None:
            self.method.requires_grad_(False)
            self._part(lesson.part).requires_grad_(True)
        for part in frozen:
            self._part(part).requires_grad_(False)
        self.lesson = lesson
        self.objective = Objective(losses, over, own_grid, backward)
        self.both_directions = both_directions or self.objective.paired
        self.optimisation, self.half_precision, self.seed = optimisation, half_precision, seed

    def registration(self, batch: Batch) -> list[Turn]:
        """All steps of a batch's registration; in training those that are judged."""
        fixed, moving = (seen(self.method, batch[side]) for side in SIDES)
        masks = {f"{side}_mask": batch.get(f"{side}_mask") for side in SIDES}
        if not self.method.training or self.unrolling == Unrolling():
            return list(self.method.steps(fixed, moving, count=self.count, **masks))
        free, judged = self.unrolling(self.count or self.method.card.default_steps)
        state = None
        with torch.no_grad():
            for step in self.method.steps(fixed, moving, count=free, **masks) if free else ():
                state = step.state
        return list(self.method.steps(fixed, moving, count=judged, state=state, **masks))

    def on_fit_start(self) -> None:
        """Raises InputError where the images have another dimension than the method."""
        given = len(self.trainer.datamodule.spacing)  # type: ignore[attr-defined]
        if given != self.dimension:
            raise InputError(f"The images are {given}D and the method {self.dimension}D: give model.dimension.")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Learn on as this configuration says. Raises InputError for the checkpoint of another network."""
        own, found = self.state_dict(), checkpoint["state_dict"]
        if {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in found.items()}:
            raise InputError("The checkpoint is of another method or has other options: give another --output.")
        self.optimisation.impose(checkpoint)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss."""
        torch.manual_seed(_mixed(self.seed, self.global_step, self.global_rank))
        if self.lesson is not None:
            parts, _ = self._taught(batch)
            total = sum(parts.values(), torch.zeros((), device=self.device))
        else:
            batch = doubled(batch) if self.both_directions else batch
            total, parts = self.objective(self.registration(batch), batch, self.global_step)
        if not total.requires_grad:
            raise InputError("Nothing can be learnt from these losses: their terms do not fit the method or the data.")
        self.log("loss", total.detach(), prog_bar=True)
        self.log_dict({f"loss/{name}": part for name, part in parts.items()})
        return total

    def validation_step(self, batch: Batch, index: int) -> None:
        """Loss, folding and, where they can be known, Dice, distance of key points and error of the displacement.

        In a lesson, the loss and the Dice of the labels that are told.
        """
        if self.lesson is not None:
            parts, told = self._taught(batch)
            self._log_validation({"loss": sum(parts.values()), "dice": told})
            return
        steps = self.registration(batch)
        judged = (steps, batch)
        if self.both_directions:
            twice = doubled(batch)
            judged = (self.registration(twice), twice)
        total, _ = self.objective(*judged, self.global_step)
        found: dict[str, Any] = {
            "loss": total,
            "folding": 100 * spatial.folding_fraction(steps[-1].values),
            **measured(steps[-1], batch),
        }
        self._log_validation(found)

    def _taught(self, batch: Batch) -> tuple[dict[str, Tensor], float]:
        """The losses of the lesson, and the Dice of the labels that are told, in both images of a pair."""
        if self.lesson is not None and "image" in batch:
            seed = _mixed(self.seed, self.global_step, self.global_rank)
            return self.lesson.told(self.method, seen(self.method, batch["image"]), batch["labels"], seed)
        if self.lesson is None or "fixed_maps" not in batch:
            raise InputError("A lesson needs maps of the labels: take SubjectPairs or LabelledImages as data.")
        images = torch.cat([seen(self.method, batch[side]) for side in SIDES])
        labels = torch.cat([batch[f"{side}_maps"] for side in SIDES])
        found = self.lesson.maps(self.method, images, labels.shape[1])
        return self.lesson(found, labels), overlap(found.detach().exp()[:, 1:], labels)

    def _log_validation(self, found: dict[str, Any]) -> None:
        values = {f"validation/{name}": float(value) for name, value in found.items()}
        self.log_dict(values, batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Of what is not frozen."""
        parameters = [p for p in self.method.parameters() if p.requires_grad]
        if not parameters:
            raise InputError("All of the method is frozen: leave something to train.")
        return self.optimisation.create(parameters)

    def _part(self, part: str) -> nn.Module:
        try:
            return self.method.get_submodule(part)
        except AttributeError as error:
            known = ", ".join(name for name, _ in self.method.named_children())
            raise InputError(f"The method '{self.name}' has no part '{part}'; it has {known}.") from error


def _create(name: str, dimension: int, options: dict[str, Any]) -> methods.Method:
    try:
        return methods.create(name, dimension, **options)
    except (TypeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"The options of the method '{name}' do not fit it: {error}.") from error


def seen(method: methods.Method, image: Tensor) -> Tensor:
    """An image in [0, 1] with the intensities that the method's card wants."""
    if method.card.intensities != "zscore":
        return image
    axes = tuple(range(1, image.ndim))
    centred = image - image.mean(axes, keepdim=True)
    return (centred / centred.square().mean(axes, keepdim=True).sqrt().clamp_min(1e-6)).clamp(-2, 2)


def doubled(batch: Batch) -> Batch:
    """Each pair both ways: the first half of the batch as it is, the second with fixed and moving exchanged."""

    def together(first: Any, second: Any) -> Any:
        return torch.cat([first, second]) if isinstance(first, Tensor) else [*first, *second]

    return {key: together(batch[key], other) for key, other in exchanged(batch).items()}


def measured(step: Turn, batch: Batch) -> dict[str, float]:
    """What tells how good a displacement is."""
    judged, found = Judged(step, batch), {}
    if "fixed_maps" in batch and judged.labels is not None:
        found["dice"] = overlap(*judged.labels)
    if "fixed_labels" in batch:
        warped = spatial.warp(batch["moving_labels"].float(), step.displacement, mode="nearest")
        overlaps = dice(batch["fixed_labels"].cpu().numpy(), warped.cpu().numpy().round().astype(int))
        found["dice"] = float(np.mean(list(overlaps.values()))) if overlaps else float("nan")
    if judged.landmark_distances is not None:
        found["distance"] = judged.landmark_distances.mean().item()
    if "displacement" in batch:
        found["displacement_error"] = (step.displacement - batch["displacement"]).norm(dim=1).mean().item()
    return found


def overlap(first: Tensor, second: Tensor) -> float:
    """Mean Dice of smoothed label maps `[B, L, *S]`, each where it is above one half; NaN for nothing in either."""
    a, b = ((maps > 0.5).flatten(2).float() for maps in (first, second))
    return (2 * (a * b).sum(2) / (a.sum(2) + b.sum(2))).nanmean().item()


def _mixed(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
