"""RIIR's own facts: its cell, what it is fed, its memory."""

import pytest
import torch

from RecurrentRegistrationLib import methods, spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.methods.riir import GRADIENTS

SHAPES = {2: (15, 22), 3: (9, 12, 10)}


def pair(shape, batch=1):
    generator = torch.Generator().manual_seed(0)
    images = spatial.gaussian_smooth(torch.rand(2 * batch, 1, *shape, generator=generator), 1.5)
    return ((images - images.min()) / (images.max() - images.min())).chunk(2)


def awake(dimension=2, **options):
    torch.manual_seed(0)
    method = methods.create("riir", dimension, **options)
    method.cell.head.weight.data.normal_(std=0.05)
    return method


@pytest.mark.parametrize(
    ("dimension", "options", "expected"),
    [(2, {}, 60_946), (3, {}, 93_875), (2, {"dilations": (1, 4)}, 60_946), (2, {"remember": (0, 0)}, 60_946)],
)
def test_counts(dimension, options, expected):
    method = methods.create("riir", dimension, **options)
    assert sum(parameter.numel() for parameter in method.parameters()) == expected


@pytest.mark.parametrize("similarity", GRADIENTS)
@pytest.mark.parametrize("dimension", [2, 3])
def test_every_similarity_drives_it_also_in_inference_mode(similarity, dimension):
    method = awake(dimension, similarity=similarity)
    fixed, moving = pair(SHAPES[dimension])
    with torch.inference_mode():
        inferred = [step.values.clone() for step in method.steps(fixed, moving, count=3)]
    trained = [step.values for step in method.steps(fixed, moving, count=3)]
    for a, b in zip(inferred, trained, strict=True):
        torch.testing.assert_close(a, b.detach(), atol=1e-4, rtol=1e-3)
    assert trained[-1].requires_grad
    assert trained[-1].abs().max() > 0


def test_states_of_inference_mode_can_be_continued_there():
    method = awake()
    fixed, moving = pair(SHAPES[2])
    with torch.inference_mode():
        *_, whole = method.steps(fixed, moving, count=5)
        *_, half = method.steps(fixed, moving, count=2)
        *_, rest = method.steps(fixed, moving, count=3, state=half.state)
    assert torch.equal(whole.values, rest.values)
    assert rest.index == 5


@pytest.mark.parametrize(("inputs", "channels"), [("gradient", 4), ("explicit", 4), ("implicit", 4)])
def test_what_the_cell_is_fed(inputs, channels):
    method = awake(inputs=inputs)
    fed = []
    method.cell.register_forward_pre_hook(lambda _, arguments: fed.append(arguments[0]))
    fixed, moving = pair(SHAPES[2])
    with torch.no_grad():
        first, second = method.steps(fixed, moving, count=2)
    assert fed[1].shape[1] == channels
    torch.testing.assert_close(fed[1][:, :2], first.values)
    expected = {
        "gradient": 10 * second.attached.get("gradient", torch.zeros(1)),
        "explicit": torch.cat([fixed, spatial.warp(moving, first.values)], dim=1),
        "implicit": torch.cat([fixed, moving], dim=1),
    }
    torch.testing.assert_close(fed[1][:, 2:], expected[inputs])


@pytest.mark.parametrize("remember", [(True, True), (True, False), (False, True), (False, False)])
def test_memory_lives_on_where_it_is_wanted(remember):
    method = awake(remember=remember)
    fed = []
    method.cell.register_forward_pre_hook(lambda _, arguments: fed.append(arguments[1:]))
    with torch.no_grad():
        list(method.steps(*pair(SHAPES[2]), count=2))
    assert [bool(hidden.any()) for hidden in fed[1]] == list(remember)


def test_dilation_widens_the_view():
    reach = {}
    for dilations in ((1, 1), (2, 4)):
        cell = awake(dilations=dilations).cell
        inputs = torch.zeros(1, 4, 61, 61, requires_grad=True)
        hidden = cell.start(inputs[:, :1])
        update, *_ = cell(inputs, *hidden)
        update[0, :, 30, 30].sum().backward()
        reach[dilations] = int(inputs.grad.abs().sum((0, 1, 2)).nonzero().max()) - 30
    assert reach[1, 1] < reach[2, 4]


def test_the_graph_passes_through_the_gradient_only_where_asked():
    fixed, moving = pair(SHAPES[2])
    for create_graph in (True, False):
        *_, last = awake(create_graph=create_graph).steps(fixed, moving, count=2)
        assert last.attached["gradient"].requires_grad == create_graph


def test_masked_voxels_do_not_pull():
    fixed, moving = pair(SHAPES[2])
    mask = torch.zeros_like(fixed)
    mask[..., :10] = 1
    with torch.no_grad():
        first, *_ = awake().steps(fixed, moving, fixed_mask=mask, count=1)
        second, *_ = awake().steps(fixed, moving, moving_mask=mask, count=1)
    for step in (first, second):
        assert not step.attached["gradient"][..., 10:].any()
        assert step.attached["gradient"][..., :10].any()


@pytest.mark.parametrize(("option", "value"), [("similarity", "ssd"), ("inputs", "both")])
def test_unknown_settings_are_refused(option, value):
    with pytest.raises(InputError, match=f"no {option} '{value}'"):
        methods.create("riir", **{option: value})
