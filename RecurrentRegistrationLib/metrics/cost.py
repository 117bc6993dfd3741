"""What a network weighs: parameters and operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(network: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def multiply_accumulates(network: nn.Module, shape: Sequence[int], *, steps: int | None = None) -> int:
    """Multiply-accumulate operations of one registration of two images `[1, 1, *shape]`, by PyTorch's own counter.

    Convolutions and matrix products count; pointwise operations and interpolation, which PyTorch does not count, do
    not.

    Args:
        network: a method.
        shape: of the images, tensor order.
        steps: of the method; None for its default.
    """
    generator = torch.Generator().manual_seed(0)
    fixed, moving = torch.rand(2, 1, 1, *shape, generator=generator)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(fixed, moving, count=steps)
    return counter.get_total_flops() // 2
