"""The fused kernels of `transport` against torch, and against polynomials whose derivative is known."""

from __future__ import annotations

import pytest
import torch

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.kernels import volumes
from RecurrentRegistrationLib.layers.transport import transport


@pytest.mark.parametrize("shape", [(6, 8), (5, 6, 7)])
def test_a_linear_map_is_carried_at_its_slope(shape: tuple[int, ...]) -> None:
    position = spatial.identity_grid(shape, dtype=torch.float64)
    slopes = torch.arange(1.0, len(shape) + 1, dtype=torch.float64)
    values = (position * slopes.view(1, -1, *[1] * len(shape))).sum(1, keepdim=True)
    velocity = torch.rand(1, len(shape), *shape, dtype=torch.float64)
    expected = -0.3 * torch.einsum("bc...,c->b...", velocity, slopes).unsqueeze(1)
    torch.testing.assert_close(transport(values, velocity, 0.3), expected)


@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("shape", [(7, 6, 8), (2, 3, 2), (1, 5, 4), (4, 1, 3), (5, 4, 1), (3, 2, 2)])
def test_kernels_equal_torch(shape: tuple[int, ...], identity: bool) -> None:
    if not volumes.is_volume(torch.zeros(1, 3, 2, 2, 2)):
        pytest.skip("numba is absent")
    generator = torch.Generator().manual_seed(0)
    values, velocity, grad = (torch.randn(2, 3, *shape, generator=generator) for _ in range(3))
    results = []
    for dtype in (torch.float32, torch.float64):  # the kernels serve float32 only
        v, w = values.to(dtype).requires_grad_(), velocity.to(dtype).requires_grad_()
        carried = transport(v, w, 0.7, identity=identity)
        results.append((carried, *torch.autograd.grad((carried * grad.to(dtype)).sum(), (v, w))))
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused.double(), plain, rtol=1e-5, atol=1e-5)
