"""What a report says of a run: what was decided, what it cost, every step, and what the transform does."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from RecurrentRegistrationLib import __version__
from RecurrentRegistrationLib.pipeline import memory
from RecurrentRegistrationLib.pipeline.clock import Clock
from RecurrentRegistrationLib.pipeline.plan import Plan
from RecurrentRegistrationLib.pipeline.recorder import Recorder
from RecurrentRegistrationLib.step import Step


def report(plan: Plan, recorder: Recorder, clock: Clock, step: Step, notes: Sequence[str]) -> dict[str, Any]:
    """The report of a registration as it stood after a step; JSON can hold it."""
    return {
        "method": plan.card.name if plan.options.deforms else "none",
        "weights": None if plan.model is None else {"name": plan.model.name, "sha256": plan.model.sha256},
        "preset": plan.preset,
        "device": device_name(plan.device),
        "threads": torch.get_num_threads(),
        "seed": plan.options.seed,
        "versions": versions(),
        "notes": list(notes),
        "working_grid": {"size": list(plan.grid.size), "spacing": list(plan.grid.spacing)},
        "similarity": {"measure": plan.settings.measure, "before": recorder.before, "after": step.similarity},
        "step": step.index,
        "best_step": None if recorder.best is None else recorder.best.index,
        "seconds": {**clock.seconds},
        "peak_memory_bytes": memory.peak(),
        "steps": [record for record in recorder.steps if record["index"] <= step.index],
        **step.volume_change,
        **recorder.guided(step),
    }


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    return {
        "RecurrentRegistrationLib": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "SimpleITK": sitk.Version.VersionString(),
        "python": platform.python_version(),
    }


def device_name(device: torch.device) -> str:
    """What a report calls a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
