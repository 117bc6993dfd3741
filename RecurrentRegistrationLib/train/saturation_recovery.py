"""Images of a saturation-recovery mapping sequence with T2 preparation (mSASHA), a public stand-in for RIIR's series.

The magnitude at saturation time TS, echo time TE of the preparation and delay TD to the centre of the read-out is
`M |1 - (1 - (1 - exp(-TS / T1)) exp(-TE / T2)) exp(-TD / T1)|` (Chow et al., Magnetic Resonance in Medicine 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.train.appearance import Scanner
from RecurrentRegistrationLib.train.deformation import between, symmetric

# Magnetisation, T1 and T2 (ms, at 1.5 T) of the labels of `anatomy.Heart`: air, muscle, fat, liver, myocardium, blood
# and lung.
TISSUES = (
    (0.0, 1.0, 1.0),
    (0.8, 1000, 35),
    (1.0, 300, 80),
    (0.8, 600, 45),
    (0.8, 1150, 46),
    (0.95, 1650, 220),
    (0.15, 1200, 20),
)


def signal(tissue: Tensor, saturation: float, echo: float, delay: float) -> Tensor:
    """The magnitude of tissues `[…, 3]` (magnetisation, T1, T2); times in milliseconds."""
    magnetisation, t1, t2 = tissue.unbind(-1)
    recovered = 1 - torch.exp(-saturation / t1)
    prepared = 1 - (1 - recovered * torch.exp(-echo / t2)) * torch.exp(-delay / t1)
    return magnetisation * prepared.abs()


@dataclass(frozen=True)
class SaturationRecovery(Scanner):
    """Two frames of a series: the moving one at any time, the fixed one the template at the end.

    Attributes:
        saturation: from which to which saturation time, ms; the template has the longest.
        echo: longest echo time of the preparation, ms; half of the frames have none, nor has the template.
        delay: to the centre of the read-out, ms.
        variation: largest relative deviation of a tissue's properties from one subject to the next.
        blur: standard deviation of a Gaussian, voxels.
    """

    saturation: tuple[float, float] = (100.0, 700.0)
    echo: float = 55.0
    delay: float = 80.0
    variation: float = 0.1
    blur: float = 0.7

    def render(self, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Template and moving frame of the same label map."""
        tissue = torch.tensor(TISSUES, device=labels.device)
        tissue = tissue * (1 + self.variation * symmetric(tissue.shape, generator))
        prepared = between((0.0, 1.0), generator) < 0.5
        echo = between((20.0, self.echo), generator) if prepared else 0.0
        frames = [(self.saturation[1], 0.0), (between(self.saturation, generator), echo)]
        fixed, moving = (
            spatial.gaussian_smooth(signal(tissue, time, te, self.delay)[labels.long()], self.blur)
            for time, te in frames
        )
        return fixed, moving
