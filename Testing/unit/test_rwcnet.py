"""RWCNet's own facts: its stages, patches, options and what is trained."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from RecurrentRegistrationLib import methods, spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.methods.base import Pair
from RecurrentRegistrationLib.methods.rwcnet import CORRELATIONS, STAGES

SMALL = {"steps": (2, 2, 1), "dropout": 0.0}


def pair(shape, batch=1):
    generator = torch.Generator().manual_seed(0)
    images = spatial.gaussian_smooth(torch.rand(2 * batch, 1, *shape, generator=generator), 1.5)
    return ((images - images.min()) / (images.max() - images.min())).chunk(2)


def awake(dimension=2, **options):
    torch.manual_seed(0)
    method = methods.create("rwcnet", dimension, **{**SMALL, **options}).eval()
    for network in method.networks:
        network.update.head[-1].weight.data.normal_(std=0.02)
    return method


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_counts():
    first, second, third = methods.create("rwcnet", 3).networks
    assert (count(first.features), count(first.context), count(first.update)) == (1_176_312, 1_177_392, 744_648)
    assert count(first) == count(second) == 3_098_352
    assert count(third.update) == 742_904
    assert count(methods.create("rwcnet", 2).networks[0].update) == 245_948


def test_the_schedule():
    with torch.no_grad():
        steps = list(awake(steps=None).steps(*pair((24, 33))))
    assert [step.stage for step in steps[::9]] == ["1/4 res 1/12", "1/4 res 10/12", "1/2 res 7/12", "full res 4/4"]
    assert {tuple(step.values.shape[2:]) for step in steps} == {(6, 9), (12, 17), (24, 33)}


def test_steps_beyond_the_schedule_stay_in_the_last_stage():
    with torch.no_grad():
        steps = list(awake().steps(*pair((24, 33)), count=8))
    assert [step.stage for step in steps[4:]] == ["full res 1/1", "full res 2/2", "full res 3/3", "full res 4/4"]


@pytest.mark.parametrize(
    ("correlation", "shape"), [*((name, (19, 26)) for name in CORRELATIONS), ("cosine", (17, 12, 15))]
)
def test_every_correlation_reaches_every_parameter(correlation, shape):
    method = awake(len(shape), correlation=correlation, steps=(2, 2, 2))  # a stage begins at zero displacement
    steps = list(method.steps(*pair(shape)))
    assert steps[-1].displacement.abs().max() > 0.01
    sum(step.displacement.square().mean() for step in steps).backward()
    unreached = [name for name, parameter in method.named_parameters() if not parameter.grad.any()]
    assert not unreached


def test_one_stage_alone():
    method = methods.create("rwcnet", 2, stages=STAGES[:1])
    assert len(method.networks) == 1
    with torch.no_grad():
        steps = list(method.steps(*pair((24, 33))))
    assert len(steps) == 12
    assert steps[-1].values.shape[2:] == (6, 9)


def test_a_finer_stage_starts_from_the_coarser_one():
    """With no update of its own a finer stage only resizes what it was handed."""
    method = awake()
    for network in method.networks[1:]:
        network.update.head[-1].weight.data.zero_()
    with torch.no_grad():
        steps = list(method.steps(*pair((33, 41))))
    coarse = steps[1].values
    assert coarse.abs().max() > 0.01
    for step in steps[2:]:
        expected = spatial.resize_displacement(coarse, tuple(step.values.shape[2:]))
        torch.testing.assert_close(step.values, expected, atol=1e-3, rtol=1e-3)


def test_the_hidden_state_is_handed_up_and_added():
    method = awake()
    fixed, moving = pair((64, 64))
    with torch.no_grad():
        steps = list(method.steps(fixed, moving, count=2))
        state = steps[-1].state
        silent = tuple(patch._replace(hidden=torch.zeros_like(patch.hidden)) for patch in state.patches)
        begun = method._enter(1, Pair(fixed, moving), state)
        alone = method._enter(1, Pair(fixed, moving), replace(state, patches=silent))
    handed = spatial.resize(steps[-1].state.patches[0].hidden, (32, 32))
    assert len(begun.patches) == 4
    for patch, without, region in zip(begun.patches, alone.patches, method._patches(1, (64, 64)).regions, strict=True):
        torch.testing.assert_close(patch.hidden - without.hidden, handed[region], atol=1e-5, rtol=1e-4)


def test_patches_run_independently():
    """What happens in one corner of the finer stages' images does not reach the patch of the opposite corner."""
    method = awake(stages=STAGES[1:], steps=(2, 1))
    fixed, moving = pair((64, 64))
    changed = moving.clone()
    changed[..., :8, :8] = 1
    with torch.no_grad():
        (before, *_), (after, *_) = method.steps(fixed, moving), method.steps(fixed, changed)
    difference = (before.values - after.values).abs().sum((0, 1))
    assert difference[:16, :16].any()
    assert not difference[16:, 16:].any()


def test_overlapping_patches_are_more_and_are_blended():
    fixed, moving = pair((64, 64))
    values = {}
    for overlap in (0.0, 0.25):
        method = awake(stages=STAGES[1:], steps=(1, 1), overlap=overlap)
        with torch.no_grad():
            first, *_ = method.steps(fixed, moving)
        assert len(first.state.patches) == {0.0: 4, 0.25: 9}[overlap]
        values[overlap] = first.values
    # The first patch is alone in its corner; beside the next one it is not.
    torch.testing.assert_close(values[0.25][..., :12, :12], values[0.0][..., :12, :12])
    assert not torch.allclose(values[0.25][..., :12, 12:16], values[0.0][..., :12, 12:16], rtol=1e-2)


def test_only_the_stage_to_train_is_trained():
    method = methods.create("rwcnet", 2, train_stage=1, steps=(2, 2, 1)).train()
    steps = list(method.steps(*pair((24, 33))))
    assert [step.values.requires_grad for step in steps] == [False, False, True, True]
    steps[-1].displacement.square().mean().backward()
    assert all(parameter.grad is None for i in (0, 2) for parameter in method.networks[i].parameters())
    assert all(parameter.grad is not None for parameter in method.networks[1].parameters())
    assert [network.training for network in method.networks] == [False, True, True]


def test_frozen_stages_do_not_drop_features_while_a_finer_one_trains():
    method = methods.create("rwcnet", 2, train_stage=1, steps=(1, 1, 1), dropout=0.5).train()
    method.networks[0].update.head[-1].weight.data.normal_(std=0.02)
    fixed, moving = pair((24, 33))
    first, second = (next(iter(method.steps(fixed, moving))).values for _ in range(2))
    assert torch.equal(first, second)


def test_dropout_acts_in_training_only():
    fixed, moving = pair((24, 33))
    method = awake(dropout=0.5)
    with torch.no_grad():
        assert torch.equal(method(fixed, moving), method(fixed, moving))
        method.train()
        assert not torch.equal(method(fixed, moving), method(fixed, moving))


def test_drawn_patches_leave_the_others_at_the_coarse_displacement():
    method = awake(drawn=1, train_stage=2).train()
    fixed, moving = pair((32, 32))
    *_, coarse, fine = method.steps(fixed, moving)
    expected = spatial.resize_displacement(coarse.values, (32, 32))
    changed = (fine.values - expected).abs().sum((0, 1)) > 1e-4
    quarters = [changed[a, b].any() for a in (slice(16), slice(16, 32)) for b in (slice(16), slice(16, 32))]
    assert sum(map(bool, quarters)) == 1


def test_a_loss_on_every_step_reaches_all_increments_though_each_look_up_is_cut():
    method = awake(detach=True)
    steps = list(method.steps(*pair((24, 33))))
    assert all(step.values.requires_grad for step in steps)
    increments = [step.state.patches[0].increment for step in steps]
    found = torch.autograd.grad(steps[1].values.sum(), increments[:2], allow_unused=True)
    assert found[0] is None
    assert found[1] is not None


def test_weights_with_channels_last_give_the_same():
    method, (fixed, moving) = awake(3), pair((16, 19, 17))
    with torch.no_grad():
        expected = method(fixed, moving)
        method.to(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(method(fixed, moving), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("motion", ["total", "increment"])
def test_what_the_motion_encoder_is_told(motion):
    method = awake(motion=motion, steps=(3, 1, 1))
    told = []
    method.networks[0].update.motion.register_forward_pre_hook(lambda _, arguments: told.append(arguments[2]))
    with torch.no_grad():
        first, second, _ = method.steps(*pair((24, 33)), count=3)
    expected = second.state.patches[0].displacement if motion == "total" else second.state.patches[0].increment
    assert torch.equal(told[2], expected)
    assert not torch.equal(first.state.patches[0].displacement, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correlation": "product"}, "no correlation 'product'"),
        ({"steps": (1, 2)}, "3 stages; give as many numbers of steps, not 2"),
        ({"train_stage": 3}, "stages 0 to 2 to train, not 3"),
        ({"overlap": 1.0}, "less than 1, not 1.0"),
        ({"motion": "both"}, "'total' or 'increment', not 'both'"),
        ({"drawn": 0}, "At least one patch"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        methods.create("rwcnet", 2, **options)
