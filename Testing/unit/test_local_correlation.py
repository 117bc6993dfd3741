"""The local correlation against its definition, and what a cost volume is for."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from RecurrentRegistrationLib.kernels import volumes
from RecurrentRegistrationLib.layers.local_correlation import local_correlation

SHAPES = {2: (7, 18), 3: (4, 6, 19)}


def by_definition(fixed, moving, radius, kind):
    """One shift after the other."""
    dimension = fixed.ndim - 2
    padded = F.pad(moving, [radius] * 2 * dimension)
    channels = []
    for shift in itertools.product(range(2 * radius + 1), repeat=dimension):
        region = [slice(s, s + n) for s, n in zip(shift, fixed.shape[2:], strict=True)]
        shifted = padded[(..., *region)]
        if kind == "dot":
            channels.append((fixed * shifted).sum(1) / fixed.shape[1] ** 0.5)
        else:
            channels.append((fixed - shifted).abs().sum(1))
    volume = torch.stack(channels, dim=1)
    return volume if kind == "dot" else (F.avg_pool2d if dimension == 2 else F.avg_pool3d)(volume, 3, 1, 1)


@pytest.fixture(params=["fused", "portable"])
def way(request, monkeypatch):
    """Both ways to compute it; the fused one only where numba is installed."""
    if request.param == "portable":
        monkeypatch.setattr(volumes, "_usable", False)
    elif volumes.numba is None:
        pytest.skip("numba is not installed")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["dot", "sad"])
@pytest.mark.parametrize(("dimension", "radius", "channels"), [(2, 3, 5), (3, 1, 3), (3, 2, 8)])
@pytest.mark.parametrize("projected", [False, True])
def test_equals_its_definition_and_so_do_the_derivatives(kind, dimension, radius, channels, projected):
    torch.manual_seed(0)
    fixed = torch.randn(2, channels, *SHAPES[dimension], requires_grad=True)
    moving = torch.randn_like(fixed, requires_grad=True)
    arguments, projection = [fixed, moving], None
    expected = by_definition(fixed, moving, radius, kind)
    if projected:
        projection = (nn.Conv2d if dimension == 2 else nn.Conv3d)((2 * radius + 1) ** dimension, 6, 1)
        expected = projection(expected)
        arguments += projection.parameters()
    volume = local_correlation(fixed, moving, radius, kind=kind, projection=projection)
    torch.testing.assert_close(volume, expected, atol=1e-4, rtol=1e-4)
    weights = torch.randn_like(volume)
    found = torch.autograd.grad(volume, arguments, weights)
    for gradient, by_torch in zip(found, torch.autograd.grad(expected, arguments, weights), strict=True):
        torch.testing.assert_close(gradient, by_torch, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", ["dot", "sad"])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4)])
def test_gradients_in_double_precision(kind, shape):
    torch.manual_seed(0)
    fixed = torch.randn(1, 2, *shape, dtype=torch.float64, requires_grad=True)
    moving = torch.randn_like(fixed, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, m: local_correlation(f, m, 1, kind=kind), (fixed, moving), fast_mode=True)


@pytest.mark.parametrize("kind", ["dot", "sad"])
@pytest.mark.parametrize("shift", [(2, -1), (-1, 0, 2)])
def test_the_best_channel_is_the_known_shift(kind, shift):
    torch.manual_seed(0)
    dimension, radius = len(shift), 2
    moving = torch.randn(1, 24, *[11] * dimension)
    fixed = torch.roll(moving, [-s for s in shift], dims=tuple(range(2, 2 + dimension)))  # fixed(p) = moving(p + s)
    volume = local_correlation(fixed, moving, radius, kind=kind)
    best = volume.argmax(1) if kind == "dot" else volume.argmin(1)
    inner = best[(0, *[slice(3, 8)] * dimension)]
    expected = 0
    for s in shift:
        expected = expected * (2 * radius + 1) + s + radius
    assert (inner == expected).all()


def test_half_precision_is_compared_in_single_precision_on_a_cpu():
    torch.manual_seed(0)
    fixed, moving = torch.randn(2, 1, 4, 5, 6, 7)
    with torch.autocast("cpu", torch.bfloat16):
        volume = local_correlation(fixed.bfloat16(), moving.bfloat16(), 1)
    assert volume.dtype == torch.float32
    expected = local_correlation(fixed.bfloat16().float(), moving.bfloat16().float(), 1)
    torch.testing.assert_close(volume, expected, atol=2e-2, rtol=2e-2)


def test_nothing_is_kept_but_the_feature_maps():
    fixed = torch.randn(1, 4, 5, 6, 7, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        local_correlation(fixed, torch.randn_like(fixed, requires_grad=True), 2)
    assert max(kept) <= 4 * 9 * 10 * 11
