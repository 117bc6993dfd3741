"""What watches a training."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from RecurrentRegistrationLib import memory
from RecurrentRegistrationLib.errors import InputError


class StopOnNaN(Callback):
    """Ends a training whose loss is no number, before the weights are touched, and keeps the batch that did it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._batch: Any = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Remember the batch."""
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: torch.Tensor) -> None:
        """Raises InputError with the name of the file."""
        if math.isfinite(loss.item()):
            return
        path = self.folder / f"bad_batch_{trainer.global_step}_{trainer.global_rank}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"step": trainer.global_step, "loss": loss.item(), "batch": self._batch}, path)
        raise InputError(
            f"The loss is {loss.item()} at step {trainer.global_step}: the batch is in {path}; look at its images, or "
            "lower the learning rate and resume."
        )


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
