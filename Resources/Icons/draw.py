"""Draw the extension's icon and the module's: a square that bends step by step into a grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
SCALE = 8  # drawn larger, then reduced, for smooth edges
NIGHT, ORANGE, STEPS = "#16324f", "#ffb000", ("#2f5d87", "#5b93bf", "#ffffff")
HERE = Path(__file__).parent
TARGETS = (
    HERE / "RecurrentRegistration.png",
    HERE.parents[1] / "RecurrentRegistration/Resources/Icons/RecurrentRegistration.png",
)


def bent(points: np.ndarray, amount: float) -> np.ndarray:
    """Points of the unit square after a share of the deformation."""
    x, y = points.T
    swirl = amount * np.sin(np.pi * x) * np.sin(np.pi * y)
    return np.stack([x + 0.16 * swirl * np.cos(3 * y), y + 0.2 * swirl * np.sin(4 * x - 0.6)], axis=1)


def draw() -> Image.Image:
    """The icon, 128 x 128 pixels."""
    side = SIZE * SCALE
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle((0, 0, side - 1, side - 1), radius=side // 6, fill=NIGHT)
    line = np.linspace(0, 1, 60)
    for n, colour in enumerate(STEPS):
        corner, width = np.array([0.1, 0.3]) + n * np.array([0.09, -0.09]), (5 + 3 * n) * SCALE // 4
        last = n == len(STEPS) - 1
        for level in np.linspace(0, 1, 6):
            for axes in ((line, np.full_like(line, level)), (np.full_like(line, level), line)):
                points = corner + 0.6 * bent(np.stack(axes, axis=1), n / (len(STEPS) - 1))
                inner = last and 0 < level < 1
                pen.line([tuple(p) for p in points * side], fill=ORANGE if inner else colour, width=width)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    for target in TARGETS:
        draw().save(target, optimize=True)
