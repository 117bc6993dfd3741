"""Convolutions that serve 2D and 3D and keep the size."""

from __future__ import annotations

from torch import Tensor, nn

LEAK = 0.2  # slope of LeakyReLU in VoxelMorph and the networks that descend from it


def convolution(
    dimension: int,
    inputs: int,
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    dilation: int = 1,
    bias: bool = True,
) -> nn.Conv2d | nn.Conv3d:
    """A convolution from `inputs` to `outputs` channels, zero-padded so that a size `n` becomes `ceil(n / stride)`."""
    kind = nn.Conv2d if dimension == 2 else nn.Conv3d
    padding = dilation * (kernel // 2)
    return kind(inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation, bias=bias)


def displacement_head(dimension: int, inputs: int, *, deviation: float = 1e-5) -> nn.Conv2d | nn.Conv3d:
    """The last convolution, from features to a displacement in voxels, drawn so small that it starts near zero."""
    head = convolution(dimension, inputs, dimension)
    nn.init.normal_(head.weight, std=deviation)
    nn.init.zeros_(head.bias)
    return head


class ConvolutionBlock(nn.Sequential):
    """A convolution and a LeakyReLU: `[B, inputs, *S]` to `[B, outputs, *ceil(S / stride)]`."""

    def __init__(self, dimension: int, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__(convolution(dimension, inputs, outputs, stride=stride), nn.LeakyReLU(LEAK))


def crop(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The first voxels `[B, C, *shape]` of `[B, C, *S]`, `S` at least `shape`."""
    return values[(..., *[slice(n) for n in shape])]
