"""Presets: how intensities are made comparable, what compares them, and what registers where that is left open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from RecurrentRegistrationLib.errors import InputError

SOFT_TISSUE = (-300.0, 500.0)
VOXELS = 5_000_000  # of a working grid by default; more cost more than they gain


@dataclass(frozen=True)
class Preset:
    """What is known of a kind of images.

    Attributes:
        summary: what it is for.
        window: Hounsfield limits of both images; None for percentiles.
        guess: whether an image whose values look like Hounsfield units gets the window of soft tissue instead.
        measure: what compares the images at every step: a name of `comparison.MEASURES`.
        refine: options of `methods.refine.Refine`.
        voxels: of the working grid at most, where no spacing is asked for.
        weights: a name of `weights.models()` that does better there than registering without training; None for none.
    """

    summary: str
    window: tuple[float, float] | None = None
    guess: bool = False
    measure: str = "correlation"
    refine: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    voxels: int = VOXELS


STIFF = {
    "similarity": "mind",
    "scales": (2, 1),
    "iterations": (40, 20),
    "gradient_smoothing": 2.0,
    "field_smoothing": 2.0,
    "damping": 2.0,
}
PRESETS = {
    "mr": Preset("MR with MR of the same contrast, and any images without fixed units"),
    "mr-hippocampus": Preset("MR with MR of hippocampi, cropped: trained weights", weights="hippocampus-rwcnet"),
    "ct": Preset("CT with CT: soft tissue and bone", window=SOFT_TISSUE),
    "ct-lung": Preset("CT with CT: lungs", window=(-1000.0, 200.0)),
    "multimodal": Preset(
        "images of unlike contrast: CT with MR, T1 with T2, FLAIR, PD or EPI",
        guess=True,
        measure="information",
        refine=STIFF,
        voxels=1_500_000,  # its descriptors have twelve channels, and see no finer
    ),
}


def preset(name: str) -> Preset:
    """The preset of a name. Raises InputError where there is none."""
    if name not in PRESETS:
        raise InputError(f"There is no preset '{name}'; choose auto or one of {', '.join(PRESETS)}.")
    return PRESETS[name]
