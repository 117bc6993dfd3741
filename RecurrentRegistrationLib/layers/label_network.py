"""What tells the regions of an anatomy from each other: a network from an image to the labels' probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial

MULTIPLE = 8  # of voxels along each axis: it halves three times


class LabelNetwork(nn.Module):
    """MONAI's residual encoder and decoder (SegResNet), for images of any size.

    Args:
        dimension: 2 or 3.
        labels: regions, without what is around them.
        width: channels at full resolution.
        channels: that tell the regions in `describe`.
        coarsening: voxels of the images that are described over voxels of those that the network has learnt from.
    """

    def __init__(
        self, dimension: int, labels: int, *, width: int = 16, channels: int = 12, coarsening: float = 1.0
    ) -> None:
        from monai.networks.nets.segresnet import SegResNet  # here, because importing MONAI takes seconds

        super().__init__()
        self.coarsening = coarsening
        self.network = SegResNet(
            dimension,
            init_filters=width,
            in_channels=1,
            out_channels=1 + labels,
            blocks_down=(1, 1, 1, 2),
            blocks_up=(1, 1, 1),
            norm=("group", {"num_groups": 4}),
        )
        self.register_buffer("codes", codes(1 + labels, channels), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[B, 1 + labels, *S]` of what is around and of each region, of an image `[B, 1, *S]` in [0, 1]."""
        shape = image.shape[2:]
        beyond = [size for n in reversed(shape) for size in (0, -n % MULTIPLE)]
        return self.network(F.pad(image, beyond))[(..., *map(slice, shape))]

    @torch.no_grad()
    def describe(self, image: Tensor) -> Tensor:
        """What region each voxel belongs to, `[B, channels, *S]`: the mean code of the regions' probabilities."""
        shape = tuple(image.shape[2:])
        if self.coarsening > 1:
            coarse = [max(round((n - 1) / self.coarsening) + 1, 1) for n in shape]
            image = spatial.resize(spatial.gaussian_smooth(image, 0.4 * self.coarsening), coarse)
        probabilities = self(image).float().softmax(dim=1)
        return spatial.resize(torch.einsum("bl...,lc->bc...", probabilities, self.codes), shape)


def codes(count: int, channels: int) -> Tensor:
    """Codes `[count, channels]` about equally far from each other, by a squared distance of 2 on average.

    A random projection keeps the distances of what it projects, on average (Johnson and Lindenstrauss, 1984).
    """
    drawn = torch.randn(count, min(channels, count), generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(drawn)[0] * (count / drawn.shape[1]) ** 0.5
