"""Losses: each term in one place, weighted over steps and over the training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from RecurrentRegistrationLib import methods, spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.methods.base import Turn
from RecurrentRegistrationLib.train.judged import Judged
from RecurrentRegistrationLib.train.module import Training, doubled, measured, seen
from RecurrentRegistrationLib.train.objective import LossTerm, Objective
from RecurrentRegistrationLib.train.optimisation import Optimisation
from RecurrentRegistrationLib.train.schedule import Fading, Ramp, Schedule, Unrolling, step_weights
from RecurrentRegistrationLib.train.terms import PAIRED, TERMS, create

pytestmark = pytest.mark.filterwarnings("ignore")

SHAPE = (16, 20)
SMALL = {"riir": {"width": 4, "hidden": [4, 4]}, "rcn": {"width": 4}}


def batch(shape: tuple[int, ...] = SHAPE) -> dict:
    generator = torch.Generator().manual_seed(0)
    moving = spatial.gaussian_smooth(torch.rand(2, 1, *shape, generator=generator), 1.5)
    truth = 15 * spatial.gaussian_smooth(torch.randn(2, len(shape), *shape, generator=generator), 3.0)
    labels = (moving > moving.median()).int()
    places = torch.rand(2, 4, len(shape), generator=generator) * 8 + 4
    return {
        "fixed": spatial.warp(moving, truth),
        "moving": moving,
        "fixed_labels": spatial.warp(labels.float(), truth, mode="nearest").int(),
        "moving_labels": labels,
        "fixed_keypoints": places,
        "moving_keypoints": places
        + spatial.sample_at(truth, places.transpose(1, 2)[..., None])[..., 0].transpose(1, 2),
        "displacement": truth,
        "spacing": torch.tensor([[1.0, 2.0]] * 2),
        "names": ["a", "b"],
    }


def step(values: Tensor, index: int = 1, stage: str = "step", **attached: Tensor) -> Turn:
    return Turn(index, stage, values, SHAPE, attached=attached)


@pytest.mark.parametrize(
    "name", [n for n in TERMS if n not in ("affine_deviation", "affine_symmetry", "momentum_energy")]
)
def test_every_term_is_a_number_with_a_gradient(name: str) -> None:
    values = (0.5 * batch()["displacement"] + 0.01).requires_grad_()
    steps = [step(values, backward=-0.9 * values)]
    options = {"mk_lncc": {"kernels": [(1.0, 0.5)]}, "folding": {"margin": 2.0}}.get(name, {})
    total, parts = Objective([LossTerm(name, options=options)])(steps, batch())
    assert torch.isfinite(total)
    assert list(parts) == [name]
    if name != "out_of_range":
        total.backward()
        assert values.grad is not None
        assert values.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["mse", "lncc", "mk_lncc", "nmi", "ncc", "dice", "keypoints", "displacement"])
def test_the_truth_is_better_than_nothing(name: str) -> None:
    pair = batch()
    loss = Objective([LossTerm(name)])
    truth, nothing = (loss([step(u)], pair)[0] for u in (pair["displacement"], torch.zeros_like(pair["displacement"])))
    assert truth < nothing


def test_terms_of_affine_and_momentum_steps() -> None:
    affine = torch.tensor([[[1.1, 0, 0], [0, 1, 0.2]], [[1 / 1.1, 0, 0], [0, 1, -0.2]]])
    steps = [
        step(torch.zeros(2, 2, *SHAPE), stage="affine 1/1", affine=affine),
        step(torch.zeros(2, 2, *SHAPE), stage="vSVF 1/1", energy=torch.tensor([1.0, 3.0])),
    ]
    terms = [
        LossTerm("affine_deviation", stage="affine"),
        LossTerm("affine_symmetry", stage="affine"),
        LossTerm("momentum_energy", stage="vSVF", weight=10),
    ]
    _, parts = Objective(terms)(steps, batch())
    assert parts["momentum_energy"] == pytest.approx(20.0)
    assert parts["affine_symmetry"] == pytest.approx(0.0, abs=1e-6)
    assert parts["affine_deviation"] > 0.01
    assert Objective(terms).paired
    assert set(PAIRED) <= TERMS.keys()


def test_what_a_batch_does_not_have_does_not_count() -> None:
    pair = {k: v for k, v in batch().items() if k in ("fixed", "moving", "spacing")}
    names = ("dice", "keypoints", "displacement", "affine_deviation", "inverse_consistency", "momentum_energy")
    total, parts = Objective([LossTerm(name) for name in names])([step(torch.zeros(2, 2, *SHAPE))], pair)
    assert (total, parts) == (0, {})


def test_a_term_that_does_not_count_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    pair = {k: v for k, v in batch().items() if k in ("fixed", "moving", "spacing")}
    later = LossTerm("displacement", curriculum=Ramp(first=5))
    objective = Objective([LossTerm("mse"), LossTerm("dice"), LossTerm("bending", stage="vSVF"), later])
    for _ in range(2):
        objective([step(torch.zeros(2, 2, *SHAPE), n) for n in (1, 2)], pair)
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().endswith(": bending, dice.")


def test_key_points_count_in_millimetres_and_gaps_do_not() -> None:
    pair = batch()
    pair["fixed_keypoints"] = torch.tensor([[[3.0, 4.0], [torch.nan, torch.nan]]] * 2)
    pair["moving_keypoints"] = torch.tensor([[[3.0, 6.0], [9.0, 9.0]]] * 2)
    distances = Judged(step(torch.zeros(2, 2, *SHAPE)), pair).landmark_distances
    assert distances is not None
    assert distances.tolist() == pytest.approx([4.0, 4.0])


def test_weights_of_steps() -> None:
    assert step_weights("last", 3) == [0, 0, 1]
    assert step_weights("uniform", 4) == [0.25] * 4
    assert step_weights("exponential", 6) == pytest.approx([1, 1.5849, 2.5119, 3.9811, 6.3096, 10], rel=1e-4)
    assert step_weights("exponential", 1) == [1]
    assert step_weights("rising", 2) == pytest.approx([1 / 11, 10 / 11])
    assert step_weights("sequence", 3) == pytest.approx([0.64, 0.8, 1])


def test_each_step_counts_by_its_weight() -> None:
    pair = batch()
    steps = [step(torch.zeros(2, 2, *SHAPE)), step(pair["displacement"], 2)]
    first, last = (Objective([LossTerm("mse")])([s], pair)[0] for s in steps)
    total, _ = Objective([LossTerm("mse", weight=3)], over="exponential")(steps, pair)
    assert total == pytest.approx((3 * (first + 10 * last)).item(), rel=1e-5)
    mixed, _ = Objective([LossTerm("mse", over="uniform"), LossTerm("diffusion", over="last")])(steps, pair)
    rough = Objective([LossTerm("diffusion")])(steps[1:], pair)[0]
    assert mixed == pytest.approx(((first + last) / 2 + rough).item(), rel=1e-5)


def test_curricula() -> None:
    assert [round(10 * Fading(epoch=1)(n), 3) for n in (0, 5, 10, 20)] == [8.0, 5.340, 2.472, 0.262]
    assert [Ramp(first=2, length=1)(n) for n in range(5)] == [0, 0, 0.5, 1, 1]
    assert [Schedule("halving", 10)(n) for n in (0, 9, 10, 25)] == [1, 1, 0.5, 0.25]
    cosine = Schedule("cosine", 10, floor=0.1, warm_up=1)
    assert cosine(0) == 0.5
    assert cosine(5) == pytest.approx(0.5)
    assert cosine(10) == 0.1
    with pytest.raises(InputError, match="length"):
        Schedule("cosine")
    pair, steps = batch(), [step(torch.zeros(2, 2, *SHAPE))]
    term = Objective([LossTerm("mse", curriculum=Ramp(first=5))])
    assert term(steps, pair, 4)[1] == {}
    assert term(steps, pair, 5)[1].keys() == {"mse"}


def test_a_coarse_stage_is_judged_on_its_own_grid() -> None:
    coarse = Turn(1, "1/4", torch.zeros(2, 2, 4, 5), SHAPE)
    judged = Judged(coarse, batch(), own_grid=True)
    assert judged.fixed.shape == judged.warped.shape == (2, 1, 4, 5)
    assert Judged(coarse, batch()).warped.shape == (2, 1, *SHAPE)


@pytest.mark.parametrize(("name", "options", "word"), [("mes", {}, "choose one of"), ("lncc", {"radios": 2}, "radius")])
def test_a_mistyped_term_is_told(name: str, options: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        create(name, options)


def test_both_directions_exchange_all_that_belongs_to_an_image() -> None:
    twice = doubled(batch())
    assert torch.equal(twice["fixed"][2:], batch()["moving"])
    assert torch.equal(twice["moving_keypoints"][2:], batch()["fixed_keypoints"])
    assert len(twice["spacing"]) == len(twice["names"]) == 4
    assert "displacement" not in twice


def test_validation_measures_what_can_be_known() -> None:
    pair = {key: value[:1] for key, value in batch().items()}
    found = measured(step(pair["displacement"]), pair)
    assert found["displacement_error"] == 0
    assert found["dice"] > 0.99
    assert found["distance"] < 1e-3


def test_intensities_are_those_of_a_registration() -> None:
    image = torch.rand(2, 1, 12, 14)
    method = methods.create("r2n2", 2, channels=(2, 2, 2, 4))
    values = seen(method, image)
    assert values.mean(dim=(1, 2, 3)).abs().max() < 0.1
    assert values.abs().max() <= 2
    assert seen(methods.create("riir", 2), image) is image


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"method": "demons"}, "no weights"),
        ({"method": "riir", "options": {"depth": 3}}, "depth"),
        ({"method": "riir", "frozen": ["head"]}, "cell"),
    ],
)
def test_a_module_that_cannot_be_is_told(settings: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        Training(losses=[LossTerm("mse")], dimension=2, **settings)


def test_frozen_parts_are_left_to_rest() -> None:
    module = Training("riir", [LossTerm("mse")], 2, frozen=["cell.memories"], optimisation=Optimisation(kind="amsgrad"))
    optimiser = module.configure_optimizers()["optimizer"]
    assert sum(p.numel() for g in optimiser.param_groups for p in g["params"]) < sum(
        p.numel() for p in module.parameters()
    )
    with pytest.raises(InputError, match="frozen"):
        Training("riir", [LossTerm("mse")], 2, frozen=["cell"]).configure_optimizers()


def test_both_directions_count_half_where_a_step_attaches_the_other() -> None:
    pair = {key: value for key, value in batch().items() if key != "displacement"}
    there, back = 0.5 * batch()["displacement"], -0.2 * batch()["displacement"]
    losses = [LossTerm("mse"), LossTerm("diffusion", 0.3)]
    exchanged = pair | {"fixed": pair["moving"], "moving": pair["fixed"]}
    ways = [Objective(losses)([step(u)], b)[0] for u, b in ((there, pair), (back, exchanged))]
    both, _ = Objective(losses, backward=True)([step(there, backward=back)], pair)
    torch.testing.assert_close(both, sum(ways) / 2)
    torch.testing.assert_close(Objective(losses, backward=True)([step(there)], pair)[0], ways[0])


def test_smoothed_maps_of_labels_are_judged_by_their_squares() -> None:
    maps = {
        f"{side}_maps": torch.rand(2, 3, *SHAPE, generator=torch.Generator().manual_seed(n))
        for n, side in enumerate(("fixed", "moving"))
    }
    a, b = maps["fixed_maps"].flatten(2), maps["moving_maps"].flatten(2)
    wanted = 1 - ((2 * (a * b).sum(2) + 1) / ((a**2).sum(2) + (b**2).sum(2) + 1)).mean()
    judged = Judged(step(torch.zeros(2, 2, *SHAPE)), maps)
    found = create("dice", {"squared": True})(judged)
    torch.testing.assert_close(found, wanted)
    assert (
        measured(
            step(torch.zeros(2, 2, *SHAPE)), {"fixed_maps": maps["fixed_maps"], "moving_maps": maps["fixed_maps"]}
        )["dice"]
        == 1
    )


@pytest.mark.parametrize("name", ["voxelmorph", "riir", "rcn"])
def test_a_gradient_through_the_last_steps_is_that_of_a_recurrence_that_begins_there(name: str) -> None:
    torch.manual_seed(0)
    unrolling = Unrolling(gradient=2)
    training = Training(name, [LossTerm("mse")], 2, options=SMALL.get(name), steps=5, unrolling=unrolling, over="sum")
    with torch.no_grad():
        for parameter in training.method.parameters():  # networks that move nothing have no gradient beyond the head
            parameter.add_(0.02 * torch.randn_like(parameter))
    pair = batch((32, 32))
    images = [seen(training.method, pair[side]) for side in ("fixed", "moving")]
    judged, whole = training.registration(pair), list(training.method.steps(*images, count=5))
    assert [s.index for s in judged] == [4, 5]
    torch.testing.assert_close(judged[-1].values, whole[-1].values)
    with torch.no_grad():
        *_, third = training.method.steps(*images, count=3)
    again = list(training.method.steps(*images, count=2, state=third.state))

    def slopes(steps: list[Turn]) -> list[Tensor]:
        training.zero_grad()
        training.objective(steps, pair)[0].backward()
        return [p.grad.clone() for p in training.method.parameters() if p.grad is not None]

    short, begun, full = slopes(judged), slopes(again), slopes(whole[3:])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(short, begun, strict=True))
    assert any(not torch.allclose(a, b, atol=1e-6) for a, b in zip(short, full, strict=True))
    training.eval()
    assert len(training.registration(pair)) == 5, "validation makes the nominal number"


def test_the_number_of_steps_is_drawn_between_the_nominal_and_the_longest() -> None:
    torch.manual_seed(0)
    drawn = [Unrolling(longest=3, gradient=2)(4) for _ in range(200)]
    assert {free + judged for free, judged in drawn} == set(range(4, 13))
    assert {judged for _, judged in drawn} == {2}
    assert Unrolling()(4) == (0, 4)
    assert Unrolling(gradient=9)(4) == (0, 4)
    for wrong in ({"longest": 0.5}, {"gradient": 0}):
        with pytest.raises(InputError):
            Unrolling(**wrong)
    with pytest.raises(InputError, match="fixed number"):
        Training("ran", [LossTerm("mse")], 2, unrolling=Unrolling(longest=2))
