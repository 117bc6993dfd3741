"""AVSM: what is particular to it; the rest is checked for all methods together."""

from __future__ import annotations

import pytest
import torch

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.affine_map import affine_displacement, compose_affine, identity_affine
from RecurrentRegistrationLib.layers.vsvf import VSVF, MultiGaussian
from RecurrentRegistrationLib.methods.avsm import AVSM, affine_weight, both_directions

SHAPES = [(33, 26), (19, 18, 23)]


def awake(dimension: int, **options) -> AVSM:
    torch.manual_seed(0)
    method = AVSM(dimension, **options).eval()
    with torch.no_grad():
        method.affine_network.last.weight.normal_(std=0.05)
        method.momentum_network.last[-1].weight.normal_(std=0.1)
    return method


def images(*shape: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(batch, 1, *shape, generator=generator) for _ in range(2))


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_any_number_of_affine_and_vsvf_steps(shape: tuple[int, ...]) -> None:
    method, pair = awake(len(shape), affine_steps=2), images(*shape)
    steps = list(method.steps(*pair, count=5))
    assert [step.stage for step in steps] == ["affine 1/2", "affine 2/2", "vSVF 1/3", "vSVF 2/3", "vSVF 3/3"]
    assert [tuple(step.values.shape[2:]) for step in steps[2:]] == [tuple(-(-n // 2) for n in shape)] * 3
    method.affine_steps = 0
    assert next(method.steps(*pair, count=1)).stage == "vSVF 1/1"


@torch.no_grad()
def test_the_smoothing_can_be_named_as_in_a_file() -> None:
    method, pair = awake(2, affine_steps=0, vsvf={"sigmas": [0.1], "boundary": "mirror"}), images(33, 26)
    step = next(method.steps(*pair, count=1))
    expected = VSVF(MultiGaussian([0.1], boundary="mirror"))(step.attached["momentum"], torch.zeros_like(step.values))
    torch.testing.assert_close(step.values, expected.displacement)


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("frame", ["source", "target"])
def test_affine_steps_compose_in_the_frame_asked_for(frame: str, shape: tuple[int, ...]) -> None:
    method, (fixed, moving) = awake(len(shape), affine_steps=2, frame=frame), images(*shape)
    first, second = (step.attached["affine"] for step in method.steps(fixed, moving, count=2))
    warped = spatial.warp(moving, affine_displacement(first, shape))
    update = method.affine_network(warped, fixed)
    order = (first, update) if frame == "source" else (update, first)
    torch.testing.assert_close(second, compose_affine(*order))


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_vsvf_steps_carry_on_the_affine_map(shape: tuple[int, ...]) -> None:
    """A step's total is the total before it, followed after the flow of the step's own velocity."""
    method, (fixed, moving) = awake(len(shape), affine_steps=1), images(*shape)
    affine, first, second = method.steps(fixed, moving, count=3)
    half = [-(-n // 2) for n in shape]
    for before, after in (
        (affine_displacement(affine.attached["affine"], half), first),
        (first.values, second),
    ):
        expected = VSVF()(after.attached["momentum"], before)
        torch.testing.assert_close(after.values, expected.displacement)
        torch.testing.assert_close(after.attached["energy"], expected.energy)
        assert (after.values - before).abs().max() > 1e-3


@torch.no_grad()
def test_zero_momentum_keeps_the_affine_map() -> None:
    method = awake(2, affine_steps=1)
    method.momentum_network.last[-1].weight.zero_()
    affine, deformed = method.steps(*images(32, 40), count=2)
    torch.testing.assert_close(deformed.displacement, affine.displacement)


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_both_directions_are_two_registrations(shape: tuple[int, ...]) -> None:
    method, (fixed, moving) = awake(len(shape), affine_steps=1), images(*shape, batch=2)
    together = list(both_directions(method, fixed, moving, count=2))
    forward = list(method.steps(fixed, moving, count=2))
    backward = list(method.steps(moving, fixed, count=2))
    for both, there, back in zip(together, forward, backward, strict=True):
        torch.testing.assert_close(both.forward, there.displacement, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(both.backward, back.displacement, atol=1e-4, rtol=1e-4)
        assert both.step.index == there.index


@torch.no_grad()
def test_both_directions_continue_from_a_state() -> None:
    method, pair = awake(2, affine_steps=1), images(24, 30)
    whole = list(both_directions(method, *pair, count=4))
    half = list(both_directions(method, *pair, count=2))
    rest = list(both_directions(method, *pair, count=2, state=half[-1].step.state))
    torch.testing.assert_close(rest[-1].forward, whole[-1].forward)
    torch.testing.assert_close(rest[-1].backward, whole[-1].backward)


def test_affine_weight_falls_as_in_the_paper() -> None:
    found = [affine_weight(epoch) for epoch in (0, 5, 10, 20, 30)]
    assert found == pytest.approx([8.0, 5.3, 2.47, 0.26, 0.022], rel=0.03)


def test_a_frozen_affine_network_leaves_training_to_the_momentum_network() -> None:
    method = awake(2, affine_steps=2, checkpoint=True)
    method.affine_network.requires_grad_(False)
    *_, last = method.steps(*images(32, 32), count=3)
    last.displacement.square().mean().backward()
    assert all(p.grad is None for p in method.affine_network.parameters())
    assert all(p.grad.any() for p in method.momentum_network.parameters())


def test_identity_is_the_start() -> None:
    first = next(AVSM(2).steps(*images(40, 33), count=1))
    torch.testing.assert_close(first.attached["affine"], identity_affine(1, 2, first.values), atol=1e-3, rtol=0)
