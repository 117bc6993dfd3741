"""What watches a training."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.pipeline import memory


class StopOnNaN(Callback):
    """Ends a training whose loss or gradient is not a number, before the weights are touched, and keeps the batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._batch: Any = None
        self._loss = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Remember the batch."""
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: torch.Tensor) -> None:
        """Raises InputError with the name of the file, where there are no other processes that wait for a gradient."""
        self._loss = loss.item()
        if trainer.world_size == 1:
            self._check_loss(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        """Raises InputError with the name of the file, in all processes, because they share the gradient."""
        self._check_loss(trainer)
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return  # it leaves such steps out by itself
        slopes = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
        if slopes and not torch.stack(slopes).sum().isfinite():
            raise InputError(
                f"The gradient is not a number at step {trainer.global_step}: the batch is in {self._kept(trainer)}; "
                + self._way_out(trainer)
            )

    def _check_loss(self, trainer: Trainer) -> None:
        if not math.isfinite(self._loss):
            raise InputError(
                f"The loss is {self._loss} at step {trainer.global_step}: the batch is in {self._kept(trainer)}; look "
                "at its images, or lower the learning rate and resume."
            )

    @staticmethod
    def _way_out(trainer: Trainer) -> str:
        if trainer.precision.startswith("bf16") and trainer.strategy.root_device.type == "cpu":
            return "a processor has no bf16 gradients of levels of one or two voxels: resume with 32-true as precision."
        return "lower the learning rate and resume."

    def _kept(self, trainer: Trainer) -> Path:
        """The file with the batch."""
        path = self.folder / f"bad_batch_{trainer.global_step}_{trainer.global_rank}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"step": trainer.global_step, "loss": self._loss, "batch": self._batch}, path)
        return path


class Cost(Callback):
    """Training steps a second, the first two left out, and the most memory that was held."""

    WARM_UP = 2

    def __init__(self) -> None:
        self._steps, self._began, self._ended = 0, 0.0, 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count."""
        self._steps += 1
        self._ended = time.perf_counter()
        if self._steps <= self.WARM_UP:
            self._began = self._ended

    def described(self, device: torch.device) -> dict[str, float | None]:
        """For the record of the weights; None for what so short a training does not tell."""
        counted = self._steps - self.WARM_UP
        held = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else memory.peak()
        speed = counted / (self._ended - self._began) if counted > 0 else None
        return {"steps_per_second": speed, "peak_memory_bytes": held}
