"""Joint histograms: counts that are known, and the fused kernel against torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from RecurrentRegistrationLib.kernels import volumes
from RecurrentRegistrationLib.losses.histogram import joint_histogram


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_one_voxel_is_shared_as_a_cubic_spline_says() -> None:
    # In the middle of bins 3 and 4 of 8: 1.5 + 0.5 * (8 - 4) = 3.5.
    table = joint_histogram(torch.tensor([[1.0]]), torch.tensor([[0.5]]), torch.tensor([[2.0]]), 8)
    expected = torch.zeros(8, 8)
    expected[7, 2:6] = 2 * torch.tensor([1, 23, 23, 1]) / 48
    torch.testing.assert_close(table[0], expected)


@given(st.integers(4, 40), st.integers(0, 5))
def test_the_table_holds_the_whole_weight(bins: int, seed: int) -> None:
    fixed, warped, weight = (random(2, 150, seed=seed + n) * 1.4 - 0.2 for n in range(3))
    table = joint_histogram(fixed, warped, weight.clamp_min(0), bins)
    assert table.shape == (2, bins, bins)
    torch.testing.assert_close(table.sum((1, 2)), weight.clamp_min(0).sum(1), rtol=1e-4, atol=1e-4)
    rows = (fixed.clamp(0, 1) * (bins - 1)).round().long()
    expected = torch.zeros(2, bins).scatter_add(1, rows, weight.clamp_min(0))
    torch.testing.assert_close(table.sum(2), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("batch", "voxels"), [(1, 40_001), (3, 500)])
@pytest.mark.parametrize("shared", [True, False])
def test_the_kernel_is_torchs(batch: int, voxels: int, shared: bool, monkeypatch) -> None:
    many = 1 if shared else batch
    fixed, weight = random(many, voxels, seed=1), random(many, voxels, seed=2).round()
    slope, found = random(batch, 32, 32, seed=3), []
    for usable in (volumes._usable, False):
        monkeypatch.setattr(volumes, "_usable", usable)
        warped = (random(batch, voxels) * 1.2 - 0.1).requires_grad_()
        table = joint_histogram(fixed, warped, weight, 32)
        found.append((table.detach(), torch.autograd.grad((table * slope).sum(), warped)[0]))
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=2e-4, atol=2e-4)


def test_second_derivatives_are_torchs(monkeypatch) -> None:
    fixed, weight, slope, found = random(1, 60), torch.ones(1, 60), random(1, 12, 12, seed=3), []
    for usable in (volumes._usable, False):
        monkeypatch.setattr(volumes, "_usable", usable)
        warped = random(1, 60, seed=4).requires_grad_()
        table = joint_histogram(fixed, warped, weight, 12)
        (first,) = torch.autograd.grad((table.square() * slope).sum(), warped, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), warped)[0])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_the_weights_derivative_is_the_share() -> None:
    fixed, warped = random(1, 30), random(1, 30, seed=1)
    weight = torch.ones(1, 30, requires_grad=True)
    (found,) = torch.autograd.grad(joint_histogram(fixed, warped, weight, 8).sum(), weight)
    torch.testing.assert_close(found, torch.ones(1, 30))


def test_what_is_no_number_is_counted_nowhere_else() -> None:
    fixed, warped = random(1, 50), random(1, 50, seed=1)
    weight = torch.ones(1, 50)
    weight[0, 7] = 0
    expected = joint_histogram(fixed, warped, weight, 16)
    fixed[0, 7] = warped[0, 7] = torch.nan
    if volumes.can_run(fixed):
        torch.testing.assert_close(joint_histogram(fixed, warped, weight, 16), expected)
