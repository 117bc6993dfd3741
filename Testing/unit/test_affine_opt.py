"""affine-opt: it finds known maps, chooses its learning rate, heeds masks, continues exactly."""

from __future__ import annotations

import pytest
import torch

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.affine_map import affine_displacement, identity_affine
from RecurrentRegistrationLib.methods.affine_opt import AffineOpt, Compared, Descent, level_at, shared_out

SHAPES = [(33, 40), (19, 22, 20)]


def smooth_image(shape: tuple[int, ...], seed: int = 0, *, width: float = 1 / 12) -> torch.Tensor:
    """Blobs of a fraction `width` of the image inside an empty frame, [0, 1]."""
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed))
    image = spatial.gaussian_smooth(image, min(shape) * width)
    image = (image - image.min()) / (image.max() - image.min())
    for axis, n in enumerate(shape):
        window = torch.hann_window(n, periodic=False).clamp(max=0.5) * 2
        image = image * window.view(*[-1 if a == axis else 1 for a in range(len(shape))])
    return image


def known_affine(dimension: int, size: float = 0.08) -> torch.Tensor:
    noise = torch.randn(1, dimension, dimension + 1, generator=torch.Generator().manual_seed(5))
    return identity_affine(1, dimension, noise) + size * noise


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Mean distance in voxels in the middle of the image."""
    inside = (..., *[slice(n // 5, -(n // 5)) for n in found.shape[2:]])
    return (found - expected)[inside].norm(dim=1).mean().item()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_known_affine_map_is_found(shape: tuple[int, ...]) -> None:
    moving, truth = smooth_image(shape), affine_displacement(known_affine(len(shape)), shape)
    fixed = spatial.warp(moving, truth)
    found = AffineOpt(len(shape), iterations=(40, 20, 5))(fixed, moving)
    before = error(torch.zeros_like(truth), truth)
    assert before > 1
    assert error(found, truth) < before / 20


def test_a_mask_hides_what_does_not_belong() -> None:
    shape = (48, 48)
    moving, truth = smooth_image(shape), affine_displacement(known_affine(2, 0.05), shape)
    fixed = spatial.warp(moving, truth)
    fixed[..., :16] = smooth_image(shape, seed=1)[..., :16]
    mask = torch.ones_like(fixed)
    mask[..., :16] = 0
    method = AffineOpt(2, iterations=(40, 20, 5))
    masked, unmasked = (error(method(fixed, moving, fixed_mask=m), truth) for m in (mask, None))
    assert masked < 0.25
    assert masked < unmasked / 3


def test_the_weight_is_both_masks_where_they_meet() -> None:
    """The moving mask is looked up where the displacement points."""
    seen = {}

    def similarity(fixed, warped, weight=None):
        seen["weight"] = weight
        return (fixed - warped).square().mean()

    fixed_mask, moving_mask = torch.ones(2, 1, 1, 6, 8)
    fixed_mask[..., 0] = 0
    moving_mask[..., :3, :] = 0
    shift = torch.zeros(1, 2, 6, 8)
    shift[:, 0] = 1
    Compared(*torch.rand(2, 1, 1, 6, 8), fixed_mask, moving_mask).loss(similarity, shift)
    expected = torch.zeros(1, 1, 6, 8)
    expected[..., 2:, 1:] = 1  # the last row looks outside, where the border goes on
    assert torch.equal(seen["weight"], expected)


def test_the_learning_rate_is_the_best_of_those_given() -> None:
    shape = (40, 40)
    moving = smooth_image(shape)
    fixed = spatial.warp(moving, affine_displacement(known_affine(2), shape))
    rates = {}
    for choice in ((1e-5, 1e-2), (1e-5,), (1e-2, 1e3)):
        step = next(AffineOpt(2, rates=choice).steps(fixed, moving, count=1))
        rates[choice] = step.attached["learning_rate"].item()
    assert rates == pytest.approx({(1e-5, 1e-2): 1e-2, (1e-5,): 1e-5, (1e-2, 1e3): 1e-2})


def test_a_rate_that_no_longer_helps_is_halved() -> None:
    image = torch.zeros(1, 1, 20, 20)
    method = AffineOpt(2, patience=3)
    start = identity_affine(1, 2, image)
    descent = Descent(start, torch.zeros_like(start), rate=0.8)
    rates = []
    for _ in range(9):
        descent = method._iterate(Compared(image, image), descent, 0)
        rates.append(descent.rate)
    assert rates == [0.8] * 4 + [0.4] * 4 + [0.2]


@pytest.mark.parametrize("stop", [1, 4, 7, 11])
def test_continuing_equals_one_long_run(stop: int) -> None:
    fixed, moving = smooth_image((30, 33)), smooth_image((30, 33), seed=2)
    method = AffineOpt(2, iterations=(4, 3, 2))
    whole = list(method.steps(fixed, moving, count=9))
    whole += list(method.steps(fixed, moving, count=4, state=whole[-1].state))
    state = whole[stop - 1].state
    rest = list(method.steps(fixed, moving, count=13 - stop, state=state))
    assert [step.index for step in rest] == list(range(stop + 1, 14))
    for one, other in zip(rest, whole[stop:], strict=True):
        assert torch.equal(one.values, other.values)


def test_works_where_gradients_are_switched_off() -> None:
    with torch.inference_mode():
        fixed, moving = smooth_image((24, 24)), smooth_image((24, 24), seed=2)
        steps = list(AffineOpt(2).steps(fixed, moving, count=3))
    assert steps[-1].displacement.abs().max() > 0
    assert steps[-1].attached["loss"].isfinite().all()


def test_iterations_are_shared_out_and_go_on_at_the_last_scale() -> None:
    assert shared_out((200, 200, 50), 450) == (200, 200, 50)
    assert shared_out((200, 200, 50), 45) == (20, 20, 5)
    assert sum(shared_out((200, 200, 50), 7)) == 7
    assert shared_out((), 0) == ()
    assert [level_at(n, (2, 0, 1)) for n in range(5)] == [0, 0, 2, 2, 2]
