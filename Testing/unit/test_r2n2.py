"""R2N2: published sizes, a sum of Gaussians, its loss, and when it stops."""

from __future__ import annotations

import pytest
import torch

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.methods import r2n2

SMALL = {"channels": (4, 6, 8, 10), "blocks": 1}
SHAPES = {2: (17, 22), 3: (9, 12, 14)}
dimensions = pytest.mark.parametrize("dimension", [2, 3])


def awake(dimension: int, **options) -> r2n2.R2N2:
    """A small network whose Gaussians are not zero."""
    torch.manual_seed(0)
    method = r2n2.create(dimension, **SMALL, **options).eval()
    torch.nn.init.normal_(method.shape.output.weight, std=0.1)
    return method


def images(dimension: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    smooth = (torch.randn(batch, 1, *SHAPES[dimension], generator=generator) for _ in range(2))
    fixed, moving = (2 * spatial.gaussian_smooth(image, 1.0) for image in smooth)
    return fixed, moving


@pytest.mark.parametrize(("dimension", "count"), [(2, 3_593_611), (3, 2_691_008)])
def test_published_sizes(dimension, count):
    assert sum(p.numel() for p in r2n2.create(dimension).parameters()) == count


def test_other_published_sizes():
    assert sum(p.numel() for p in r2n2.create(2, blocks=6).parameters()) == 4_756_171
    assert sum(p.numel() for p in r2n2.create(2, channels=(16, 32, 64, 128)).parameters()) == 938_187
    assert sum(p.numel() for p in r2n2.create(3, channels=(8, 16, 32, 64)).parameters()) == 704_872


@dimensions
def test_it_begins_with_the_identity_and_round_gaussians(dimension):
    method = r2n2.create(dimension, **SMALL)
    for step in method.steps(*images(dimension), count=3):
        gaussian = step.attached["gaussian"]
        assert not step.values.any()
        torch.testing.assert_close(gaussian.sigma, torch.full((1, dimension), 0.15), atol=1e-4, rtol=0)
    expected = [[torch.pi / 2]] if dimension == 2 else [[1.0, 0.0, 0.0, 0.0]]
    torch.testing.assert_close(gaussian.orientation, torch.tensor(expected))


@dimensions
@pytest.mark.parametrize(("smallest", "learns"), [(1e-5, False), (0.1, True)])
def test_a_gaussian_of_less_than_a_voxel_cannot_learn_to_move(dimension, smallest, learns):
    """The released code's smallest one is a dead end; ours can be wider."""
    method = r2n2.create(dimension, **SMALL, smallest_sigma=smallest, largest_sigma=0.4)
    with torch.no_grad():
        method.shape.output.bias[:dimension] = -30.0  # as a training leaves it whose first Gaussians only did harm
    (step,) = method.steps(*images(dimension), count=1)
    assert step.attached["gaussian"].sigma.max().item() == pytest.approx(smallest, rel=1e-3)
    step.displacement.sum().backward()
    assert bool(method.shape.output.bias.grad[dimension : 2 * dimension].abs().max() > 0.1) is learns


@dimensions
def test_displacement_is_the_sum_of_the_attached_gaussians(dimension):
    fixed, moving = images(dimension, batch=2)
    shape = fixed.shape[2:]
    halves = torch.tensor([(n - 1) / 2 for n in shape]).view(1, -1, *[1] * dimension)
    with torch.no_grad():
        steps = list(awake(dimension).steps(fixed, moving, count=4))
    total = sum(step.attached["gaussian"].displacement(shape) for step in steps)
    assert total.abs().max() > 0.05
    torch.testing.assert_close(steps[-1].values, total * halves, atol=1e-4, rtol=1e-4)
    for step in steps:
        assert all(step.attached[sign].shape == (2,) for sign in ("certainty", "concentration", "update", "progress"))


def test_weights_stay_below_their_largest():
    method = awake(3, largest_weight=0.05, largest_sigma=0.1)
    torch.nn.init.normal_(method.shape.output.weight, std=10)
    with torch.no_grad():
        gaussian = next(method.steps(*images(3))).attached["gaussian"]
    assert gaussian.weight.abs().max() <= 0.05
    assert gaussian.sigma.max() <= 0.1 + 1e-4


def test_noise_shakes_training_only():
    method, (fixed, moving) = awake(2, noise=0.5), images(2)
    with torch.no_grad():
        assert torch.equal(method(fixed, moving, count=3), method(fixed, moving, count=3))
        method.train()
        assert not torch.equal(method(fixed, moving, count=3), method(fixed, moving, count=3))


def test_checkpointing_draws_the_same_noise_again():
    fixed, moving = images(2)
    found = []
    for checkpoint in (False, True):
        method = awake(2, noise=0.5, dropconnect=0.2, checkpoint=checkpoint).train()
        torch.manual_seed(3)
        r2n2.sequence_loss(method.steps(fixed, moving, count=3), fixed, moving).backward()
        found.append(torch.cat([p.grad.flatten() for p in method.parameters()]))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-3)


@dimensions
def test_size_of_an_update_is_the_mean_length_of_the_change(dimension):
    method, (fixed, moving) = awake(dimension, largest_sigma=0.12), images(dimension)
    fixed, moving = (spatial.resize(image, [40] * dimension) for image in (fixed, moving))
    with torch.no_grad():
        step = next(method.steps(fixed, moving))
    assert step.attached["update"].item() == pytest.approx(step.values.norm(dim=1).mean().item(), rel=0.1)


def test_progress_is_the_relative_fall_of_the_error():
    method, (fixed, moving) = awake(2), images(2)
    with torch.no_grad():
        first, second = method.steps(fixed, moving, count=2)
    errors = []
    for step in (first, second):
        inside = r2n2._inside(step.values)
        errors.append((inside * (fixed - spatial.warp(moving, step.values)).square()).sum() / inside.sum())
    assert second.attached["progress"].item() == pytest.approx((1 - errors[1] / errors[0]).item(), rel=1e-3)


def test_masks_weigh_the_progress():
    method, (fixed, moving) = awake(2), images(2)
    mask = torch.zeros_like(fixed)
    mask[..., 4:12, 6:16] = 1
    with torch.no_grad():
        plain = next(method.steps(fixed, moving))
        fixed_only = next(method.steps(fixed, moving, fixed_mask=mask))
        moving_only = next(method.steps(fixed, moving, moving_mask=mask))
    progress = {step.attached["progress"].item() for step in (plain, fixed_only, moving_only)}
    assert len(progress) == 3
    assert torch.equal(plain.values, fixed_only.values)


@pytest.mark.parametrize("sign", ["certainty", "concentration", "update", "progress"])
def test_a_low_sign_ends_the_run(sign):
    fixed, moving = images(2)
    with torch.no_grad():
        steps = list(awake(2, stop=sign, threshold=1e6, patience=3).steps(fixed, moving, count=10))
        assert len(steps) == 3
        more = list(
            awake(2, stop=sign, threshold=1e6, patience=3).steps(fixed, moving, count=10, state=steps[-1].state)
        )
        assert [step.index for step in more] == [4, 5, 6], "asked again, it goes on"
        endless = list(awake(2, stop=sign, threshold=-1e6).steps(fixed, moving, count=10))
        assert len(endless) == 10


def test_an_item_that_has_stopped_waits_for_the_others():
    """In a batch each item ends where it would have ended alone."""
    fixed, moving = images(2, batch=2)
    with torch.no_grad():
        first = next(awake(2).steps(fixed, moving)).attached["certainty"]
        threshold = first.mean().item()  # one item stops at once
        method = awake(2, stop="certainty", threshold=threshold, patience=1)
        together = list(method.steps(fixed, moving, count=6))
        lengths = []
        for item in range(2):
            alone = list(method.steps(fixed[item : item + 1], moving[item : item + 1], count=6))
            lengths.append(len(alone))
            torch.testing.assert_close(together[-1].values[item], alone[-1].values[0], atol=1e-4, rtol=1e-4)
    assert lengths[0] != lengths[1]
    assert len(together) == max(lengths)


def test_loss_is_the_masked_mean_error_and_the_last_roughness():
    fixed, moving = images(2)
    with torch.no_grad():
        steps = list(awake(2, largest_weight=0.5).steps(fixed, moving, count=3))
    errors, voxels = [], spatial.identity_grid(fixed.shape[2:])
    last = torch.tensor([n - 1.0 for n in fixed.shape[2:]]).view(1, 2, 1, 1)
    for step in steps:
        point = voxels + step.values
        inside = ((point >= 0) & (point <= last)).all(dim=1, keepdim=True)
        errors.append((fixed - spatial.warp(moving, step.values)).square()[inside].mean())
    normalised = steps[-1].values[0] * 2 / last[0]
    down, right = normalised[:, 1:, :-1] - normalised[:, :-1, :-1], normalised[:, :-1, 1:] - normalised[:, :-1, :-1]
    expected = sum(errors) / 3 + 0.1 * (down.square() + right.square()).sqrt().mean()
    torch.testing.assert_close(r2n2.sequence_loss(steps, fixed, moving), expected)
    with pytest.raises(ValueError, match="no step"):
        r2n2.sequence_loss([], fixed, moving)


def test_it_learns_a_known_displacement():
    torch.manual_seed(0)
    moving = spatial.gaussian_smooth(torch.randn(1, 1, 24, 28), 2.5)
    moving = moving / moving.std()
    squared = (spatial.identity_grid((24, 28)) - torch.tensor([12.0, 14.0]).view(1, 2, 1, 1)).square().sum(1, True)
    shift = torch.cat([torch.zeros_like(squared), 3 * torch.exp(-squared / 40)], dim=1)
    fixed = spatial.warp(moving, shift, padding="border")
    method = r2n2.create(2, **SMALL, noise=0.2)
    optimiser = torch.optim.Adam(method.parameters(), lr=1e-3, amsgrad=True)
    for _ in range(50):
        optimiser.zero_grad()
        r2n2.sequence_loss(method.steps(fixed, moving, count=2), fixed, moving).backward()
        optimiser.step()
    with torch.no_grad():
        error = method.eval()(fixed, moving, count=2) - shift
    assert error.norm(dim=1).mean() < 0.5 * shift.norm(dim=1).mean()


def test_unknown_signs_are_refused():
    with pytest.raises(InputError, match="cannot stop by 'luck'"):
        r2n2.create(2, stop="luck")
