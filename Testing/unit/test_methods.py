"""What every method owes its caller, checked for all of them in 2D and 3D: a new file in `methods/` is tested at once.

What a method promises is read from its card; nothing here knows a method by name.
"""

from __future__ import annotations

import functools
import itertools
import re

import pytest
import torch
from safetensors.torch import load_model, save_model

from RecurrentRegistrationLib import methods, spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.methods import Card, Method
from RecurrentRegistrationLib.methods.base import Turn

SHAPES = {2: (23, 30), 3: (13, 18, 15)}  # no cube, no power of two, odd and even axes
BRIEF = 3  # steps where they need not pass through all stages
CASES = [(name, dimension) for name in methods.names() for dimension in methods.card(name).dimensions]
TRAINED = [case for case in CASES if methods.card(case[0]).trained]
FLAT = [case for case in CASES if case[1] == min(methods.card(case[0]).dimensions)]  # once a method, where it is quick
STARTS_AT_IDENTITY = [case for case in TRAINED if methods.card(case[0]).identity_at_start]


def for_cases(cases: list[tuple[str, int]]):
    return pytest.mark.parametrize(("name", "dimension"), cases, ids=[f"{n}-{d}d" for n, d in cases])


@functools.cache
def untouched(name: str, dimension: int) -> Method:
    """A method as it is made; tests must not change it."""
    torch.manual_seed(0)
    return methods.create(name, dimension).eval()


def awake(name: str, dimension: int, seed: int = 0) -> Method:
    """A method whose weights have all moved a little from where they start, so that none of them idles at zero."""
    torch.manual_seed(seed)
    method = methods.create(name, dimension).eval()
    with torch.no_grad():
        for parameter in method.parameters():
            fan_in = max(parameter[0].numel(), 1) if parameter.ndim > 1 else 100
            parameter.add_(torch.randn_like(parameter), alpha=0.3 * fan_in**-0.5)
    return method


def pair(card: Card, shape: tuple[int, ...], batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth random moving image and a fixed one that is pulled from it, with the intensities that the card wants."""
    generator = torch.Generator().manual_seed(1)
    moving = spatial.gaussian_smooth(torch.rand(batch, 1, *shape, generator=generator), 1.5)
    low, high = moving.amin(), moving.amax()
    moving = (moving - low) / (high - low)
    shift = spatial.gaussian_smooth(torch.randn(batch, len(shape), *shape, generator=generator), 4.0)
    fixed = spatial.warp(moving, shift * 1.5 / shift.norm(dim=1).mean(), padding="border")
    if card.intensities == "zscore":
        return ((fixed - 0.5) / moving.std()).clamp(-2, 2), ((moving - 0.5) / moving.std()).clamp(-2, 2)
    return fixed, moving


def length(card: Card) -> int:
    """Steps that pass through all stages of a method with weights."""
    return card.default_steps if card.trained else min(card.default_steps, BRIEF)


def run(method: Method, fixed: torch.Tensor, moving: torch.Tensor, **options) -> list[Turn]:
    options.setdefault("count", length(method.card))
    return list(method.steps(fixed, moving, **options))


def without_graph(method: Method, fixed: torch.Tensor, moving: torch.Tensor, **options) -> torch.Tensor:
    with torch.no_grad():
        return run(method, fixed, moving, **options)[-1].displacement


@functools.cache
def awake_run(name: str, dimension: int) -> list[Turn]:
    """All steps of `awake` for two pairs, which several tests compare with."""
    method = awake(name, dimension)
    with torch.no_grad():
        return run(method, *pair(method.card, SHAPES[dimension], batch=2))


@functools.cache
def untouched_run(name: str, dimension: int) -> list[Turn]:
    """All steps of `untouched` for two pairs."""
    method = untouched(name, dimension)
    with torch.no_grad():
        return run(method, *pair(method.card, SHAPES[dimension], batch=2))


def loss_of(steps: list[Turn]) -> torch.Tensor:
    """A loss that no symmetry of the displacement can zero."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(steps[-1].displacement.shape, generator=generator)
    return sum((weight * step.displacement).mean() for step in steps)


def gradients_and_memory(method: Method, dimension: int) -> tuple[dict[str, torch.Tensor | None], int]:
    """Gradients of all parameters, and the bytes that the forward pass keeps for the backward pass."""
    kept: dict[tuple[int, int], int] = {}
    fixed, moving = pair(method.card, SHAPES[dimension], batch=2)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr(), tensor.numel()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(run(method, fixed, moving))
    loss.backward()
    return {name: parameter.grad for name, parameter in method.named_parameters()}, sum(kept.values())


@functools.cache
def as_usual(name: str, dimension: int) -> tuple[dict[str, torch.Tensor | None], int]:
    """`gradients_and_memory` without checkpointing."""
    return gradients_and_memory(awake(name, dimension), dimension)


@pytest.mark.parametrize("name", methods.names())
def test_card_is_complete(name):
    card = methods.card(name)
    assert card.name == name
    assert card.title
    assert re.fullmatch(r"[A-Z].*\.", card.summary), "one sentence"
    assert re.search(r"\b(19|20)\d\d\b", card.reference), "a year"
    assert set(card.dimensions) <= {2, 3}
    assert card.dimensions
    assert card.default_steps >= 1
    assert card.multiple >= 1
    assert card.intensities in ("unit", "zscore")
    assert card.bytes_per_voxel > 0


@for_cases(CASES)
def test_card_counts_the_parameters(name, dimension):
    card = methods.card(name)
    count = sum(parameter.numel() for parameter in untouched(name, dimension).parameters())
    assert card.parameters.get(dimension, 0) == count
    assert card.trained == (count > 0)


@for_cases(CASES)
def test_steps_are_whole(name, dimension):
    """Displacements of the working shape, counted from 1, finite, with what the card says that they carry."""
    card, steps = methods.card(name), untouched_run(name, dimension)
    assert [step.index for step in steps] == list(range(1, length(card) + 1))
    for step in steps:
        assert step.stage
        assert step.shape == SHAPES[dimension]
        assert step.displacement.shape == (2, dimension, *SHAPES[dimension])
        assert step.displacement.dtype == torch.float32
        assert step.displacement.isfinite().all()
        assert not step.displacement.requires_grad
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(steps))
    carried = {key for step in steps for key in step.attached}
    assert carried <= set(card.attaches)
    if card.trained:  # these steps passed through all stages
        assert carried == set(card.attaches)


@for_cases(STARTS_AT_IDENTITY)
def test_untrained_moves_nothing_where_the_card_says_so(name, dimension):
    assert untouched_run(name, dimension)[-1].displacement.abs().max() < 0.01


@for_cases([case for case in CASES if case not in TRAINED])
def test_without_weights_equal_images_stay(name, dimension):
    method = untouched(name, dimension)
    fixed, _ = pair(method.card, SHAPES[dimension])
    assert without_graph(method, fixed, fixed.clone()).abs().mean() < 0.02


@for_cases(CASES)
def test_any_size(name, dimension):
    method = untouched(name, dimension)
    for shape in ((16, 37), (33, 9)) if dimension == 2 else ((16, 9, 21),):
        displacement = without_graph(method, *pair(method.card, shape))
        assert displacement.shape == (1, dimension, *shape)
        assert displacement.isfinite().all()


@for_cases(CASES)
def test_batch_of_two_is_two_runs(name, dimension):
    method = awake(name, dimension)
    fixed, moving = pair(method.card, SHAPES[dimension], batch=2)
    together = awake_run(name, dimension)[-1].displacement
    for item in range(2):
        alone = without_graph(method, fixed[item : item + 1], moving[item : item + 1])
        torch.testing.assert_close(together[item : item + 1], alone, atol=1e-3, rtol=1e-3)


@for_cases(CASES)
def test_state_continues_where_it_stopped(name, dimension):
    """Any step's state, taken up again, gives the next step of the one long run, also after a run that was left."""
    method = awake(name, dimension)
    fixed, moving = pair(method.card, SHAPES[dimension], batch=2)
    before = fixed.clone(), moving.clone()
    whole = awake_run(name, dimension)
    with torch.no_grad():
        left = method.steps(fixed, moving, count=length(method.card))
        first = next(left)
        left.close()
        torch.testing.assert_close(first.displacement, whole[0].displacement)
        for step, after in itertools.pairwise(whole):
            following = next(iter(method.steps(fixed, moving, state=step.state, count=1)))
            assert following.index == after.index
            torch.testing.assert_close(following.displacement, after.displacement, atol=1e-3, rtol=1e-3)
    assert torch.equal(fixed, before[0]), "images stay as they were"
    assert torch.equal(moving, before[1])


@for_cases([case for case in CASES if methods.card(case[0]).recurrent])
def test_recurrence_goes_on_beyond_the_default(name, dimension):
    method, last = awake(name, dimension), awake_run(name, dimension)[-1]
    fixed, moving = pair(method.card, SHAPES[dimension], batch=2)
    with torch.no_grad():
        more = run(method, fixed, moving, state=last.state, count=2)
    assert [step.index for step in more] == [last.index + 1, last.index + 2]
    assert more[-1].displacement.isfinite().all()


@for_cases(CASES)
def test_masks_of_everything_change_nothing(name, dimension):
    method = awake(name, dimension)
    fixed, moving = pair(method.card, SHAPES[dimension])
    everywhere = torch.ones_like(fixed)
    masked = without_graph(method, fixed, moving, fixed_mask=everywhere, moving_mask=everywhere, count=BRIEF)
    torch.testing.assert_close(masked, without_graph(method, fixed, moving, count=BRIEF), atol=0.02, rtol=0)


@for_cases(FLAT)
def test_the_card_tells_what_masks_do(name, dimension):
    """What changes far outside of both masks changes the result of those methods alone that do not use masks."""
    method = awake(name, dimension)
    fixed, moving = pair(method.card, (24, 48))
    inside = torch.zeros_like(fixed)
    inside[..., :12] = 1
    changed = [image.clone() for image in (fixed, moving)]
    for image in changed:
        image[..., 36:] = image[..., 36:].flip(-2)

    def found(*images: torch.Tensor) -> torch.Tensor:
        return without_graph(method, *images, fixed_mask=inside, moving_mask=inside, count=BRIEF)

    difference = (found(fixed, moving) - found(*changed)).abs().max()
    assert (difference < 1e-4) == method.card.uses_masks


@for_cases(FLAT)
def test_empty_images_move_nothing_by_themselves(name, dimension):
    """No method is led anywhere, nor fails, where there is nothing to see."""
    method = untouched(name, dimension)
    empty = torch.zeros(1, 1, *SHAPES[dimension])
    found = without_graph(method, empty, empty.clone(), count=BRIEF)
    assert found.isfinite().all()
    assert method.card.trained or not found.any()


@for_cases(FLAT)
def test_displacements_stay_float32_in_half_precision(name, dimension):
    method = untouched(name, dimension)
    fixed, moving = pair(method.card, SHAPES[dimension])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = run(method, fixed, moving, count=BRIEF)
    whole = without_graph(method, fixed, moving, count=BRIEF)
    assert {step.values.dtype for step in half} == {torch.float32}
    assert (half[-1].displacement - whole).abs().mean() < 0.05 + 0.05 * whole.abs().max()


@for_cases(TRAINED)
def test_gradients_reach_every_parameter(name, dimension):
    found, _ = as_usual(name, dimension)
    unreached = [key for key, gradient in found.items() if gradient is None or not gradient.any()]
    assert not unreached
    assert all(gradient.isfinite().all() for gradient in found.values())


@for_cases([case for case in TRAINED if case in FLAT])
def test_checkpointing_changes_memory_only(name, dimension):
    method = awake(name, dimension)
    method.checkpoint = True
    recomputed, kept_less = gradients_and_memory(method, dimension)
    plain, kept = as_usual(name, dimension)
    assert kept_less < kept
    for key, gradient in plain.items():
        torch.testing.assert_close(recomputed[key], gradient, atol=1e-5, rtol=1e-3, msg=key)


@for_cases([case for case in TRAINED if case in FLAT])
def test_safetensors_bring_the_weights_back(name, dimension, tmp_path):
    method, other = awake(name, dimension, seed=0), awake(name, dimension, seed=1)
    fixed, moving = pair(method.card, SHAPES[dimension])
    expected = without_graph(method, fixed, moving, count=BRIEF)
    assert not torch.equal(without_graph(other, fixed, moving, count=BRIEF), expected)
    save_model(method, str(tmp_path / "weights.safetensors"))
    load_model(other, tmp_path / "weights.safetensors")
    torch.testing.assert_close(without_graph(other, fixed, moving, count=BRIEF), expected)
    restored = dict(other.named_parameters())
    assert all(torch.equal(restored[key], parameter) for key, parameter in method.named_parameters())


def test_unknown_names_and_dimensions_are_refused():
    with pytest.raises(InputError, match="no method 'magic'"):
        methods.create("magic")
    with pytest.raises(InputError, match="does not register 4D images"):
        methods.create(methods.names()[0], 4)
