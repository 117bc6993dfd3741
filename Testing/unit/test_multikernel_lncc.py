"""mk-LNCC against a literal loop over windows, and the promises of its docstring."""

from __future__ import annotations

import itertools

import pytest
import torch

from RecurrentRegistrationLib.losses.multikernel_lncc import MultiKernelCorrelation, Window


def images(*shape: int, dtype=torch.float64, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.rand(batch, 1, *shape, generator=generator, dtype=dtype) for _ in range(2))


def by_loop(fixed, warped, weight, windows: list[Window], squared: bool, epsilon: float) -> float:
    """The definition: numpy-like statistics of each window that lies inside, one after the other."""
    items = []
    for f, m, w in zip(fixed[:, 0], warped[:, 0], weight[:, 0], strict=True):
        similarity = 0.0
        for window in windows:
            starts = [range(0, n - window.dilation * (window.width - 1), window.stride) for n in f.shape]
            total, mass = 0.0, 0.0
            for corner in itertools.product(*starts):
                part = tuple(slice(s, s + window.dilation * (window.width - 1) + 1, window.dilation) for s in corner)
                a, b, p = f[part], m[part], w[part] / w[part].sum()
                da, db = a - (p * a).sum(), b - (p * b).sum()
                product = (p * da * da).sum() * (p * db * db).sum() + epsilon
                covariance = (p * da * db).sum()
                value = covariance**2 / product if squared else covariance / product**0.5
                total, mass = total + w[part].mean() * value, mass + w[part].mean()
            similarity += window.weight * total / mass
        items.append(1 - similarity)
    return float(sum(items) / len(items))


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("shape", [(13, 17), (9, 12, 10)])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_a_loop_over_the_windows(shape: tuple[int, ...], squared: bool, weighted: bool) -> None:
    fixed, warped = images(*shape)
    measure = MultiKernelCorrelation([(0.3, 0.25), (0.7, 0.5)], squared=squared)
    weight = torch.rand(2, 1, *shape, dtype=torch.float64) + 0.1
    expected = by_loop(
        fixed, warped, weight if weighted else torch.ones_like(weight), measure.windows(shape), squared, measure.epsilon
    )
    found = measure(fixed, warped, weight if weighted else None)
    torch.testing.assert_close(found.item(), expected, rtol=1e-9, atol=1e-12)


def test_presets_are_those_of_the_paper() -> None:
    measure = MultiKernelCorrelation()
    assert measure.windows((80, 192, 192)) == [Window(0.3, 20, 2, 5), Window(0.7, 40, 2, 10)]
    assert measure.windows((160, 192, 160)) == [Window(0.1, 10, 2, 2), Window(0.3, 20, 2, 5), Window(0.6, 40, 2, 10)]
    assert measure.windows((48, 56)) == [Window(1.0, 24, 2, 6)]


@pytest.mark.parametrize("shape", [(2, 9), (3, 3), (1, 40), (5, 6, 7), (1, 8, 30), (41, 40), (65, 131)])
def test_windows_always_fit(shape: tuple[int, ...]) -> None:
    for kernels in (None, [(1.0, 1.0)], [(1.0, 0.01)]):
        measure = MultiKernelCorrelation(kernels)
        smallest = min(n for n in shape if n > 1)
        assert all(w.dilation * (w.width - 1) + 1 <= smallest for w in measure.windows(shape))
        fixed, warped = images(*shape)
        assert 0 < measure(fixed, warped) < 2
        torch.testing.assert_close(measure(fixed, fixed).item(), 0.0, atol=5e-2, rtol=0)


def test_blind_to_brightness_and_contrast_and_only_squared_to_inversion() -> None:
    fixed, warped = images(16, 18)
    plain, squared = MultiKernelCorrelation(), MultiKernelCorrelation(squared=True)
    torch.testing.assert_close(plain(fixed, warped), plain(fixed, 0.3 + 2 * warped), rtol=1e-4, atol=1e-6)
    assert plain(fixed, 1 - fixed) > 1.9
    assert squared(fixed, 1 - fixed) < 0.01


def test_constant_images_neither_match_nor_break() -> None:
    constant = torch.full((1, 1, 16, 16), 0.4, requires_grad=True)
    loss = MultiKernelCorrelation()(torch.rand(1, 1, 16, 16), constant)
    loss.backward()
    torch.testing.assert_close(loss.item(), 1.0, atol=1e-3, rtol=0)
    assert constant.grad.isfinite().all()


def test_gradient_is_right() -> None:
    fixed, warped = images(7, 8)
    weight = torch.rand(2, 1, 7, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda w: MultiKernelCorrelation()(fixed, w, weight), warped.requires_grad_())


def test_what_has_no_weight_does_not_count() -> None:
    fixed, warped = images(20, 20)
    weight = torch.ones_like(fixed)
    weight[..., :5] = 0
    spoilt = warped.clone()
    spoilt[..., :5] = 7
    measure = MultiKernelCorrelation()
    torch.testing.assert_close(measure(fixed, warped, weight), measure(fixed, spoilt, weight))


def test_half_precision_inputs_keep_full_statistics() -> None:
    fixed, warped = images(24, 24, dtype=torch.float32)
    fixed, warped = (0.5 + 0.01 * image.bfloat16().float() for image in (fixed, warped))
    measure = MultiKernelCorrelation()
    with torch.autocast("cpu", torch.bfloat16):
        assert measure(fixed, warped).dtype == torch.float32
        torch.testing.assert_close(
            measure(fixed, warped).item(), measure(fixed.double(), warped.double()).item(), atol=1e-3, rtol=0
        )
    assert measure(fixed.half(), warped.half()).dtype == torch.float32
