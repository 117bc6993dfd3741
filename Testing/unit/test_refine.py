import pytest
import torch
from geometry import smooth_displacement

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers.landmarks import Landmarks
from RecurrentRegistrationLib.losses.guidance import Guidance
from RecurrentRegistrationLib.methods.refine import SIMILARITIES, Refine


def pair(shape, voxels=2.5, batch=1):
    """A texture and the same seen through a known displacement: `warp(moving, known) = fixed`."""
    generator = torch.Generator().manual_seed(3)
    moving = spatial.gaussian_smooth(torch.rand(batch, 1, *shape, generator=generator), 1.5)
    moving = (moving - moving.amin()) / (moving.amax() - moving.amin())
    known = smooth_displacement(shape, voxels).expand(batch, -1, *shape)
    return spatial.warp(moving, known, padding="border"), moving, known


def error(found, known):
    inner = (..., *[slice(4, -4)] * (known.shape[1]))
    return (found - known)[inner].norm(dim=1).mean().item()


@pytest.mark.parametrize("similarity", sorted(SIMILARITIES))
@pytest.mark.parametrize("shape", [(48, 57), (28, 33, 30)])
def test_finds_a_known_displacement(similarity, shape):
    fixed, moving, known = pair(shape)
    before = error(torch.zeros_like(known), known)
    options = {"scales": (2, 1), "iterations": (40, 40), "similarity": similarity}
    after = error(Refine(**options)(fixed, moving), known)
    assert before > 1
    assert after < (0.5 if similarity in ("nmi", "mind") else 0.3) * before


@pytest.mark.parametrize("shape", [(48, 40), (26, 24, 28)])
def test_faint_noise_moves_little(shape):
    """One shape twice, with other noise of 1 % each: there is nothing to find."""
    generator = torch.Generator().manual_seed(0)
    places = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in shape], indexing="ij")
    blob = 0.1 + 0.8 * torch.sigmoid(20 * (0.4 - sum(place**2 for place in places)))[None, None]
    fixed, moving = (blob + 0.01 * torch.randn(blob.shape, generator=generator) for _ in range(2))
    assert Refine()(fixed, moving).norm(dim=1).mean() < 1.0


@pytest.mark.parametrize(
    ("shape", "stages"),
    [
        ((41, 45, 39), ["1/2", "full"]),
        ((98, 96, 100), ["1/4", "1/2", "full"]),
        ((120, 90, 20), ["1/2", "full"]),
        ((80, 70), ["1/2", "full"]),
        ((1, 128, 112), ["1/4", "1/2", "full"]),
    ],
)
def test_levels_that_leave_too_little_of_an_image_are_passed_over(shape, stages):
    image = torch.zeros(1, 1, *shape)
    found = [step.stage.split(" ")[0] for step in Refine().steps(image, image, count=7)]
    assert list(dict.fromkeys(found)) == stages
    assert len(found) == 7


def test_folds_nothing():
    fixed, moving, _ = pair((28, 33, 30), voxels=4.0)
    displacement = Refine(step=1.0, field_smoothing=0.3, iterations=(20, 20, 20))(fixed, moving)
    assert spatial.folding_fraction(displacement) == 0


def test_a_state_goes_on_where_it_was_left():
    fixed, moving, _ = pair((24, 26, 22))
    method = Refine(iterations=(6, 6, 6))
    steps = list(method.steps(fixed, moving, count=18))
    again = list(method.steps(fixed, moving, count=9, state=steps[8].state))
    torch.testing.assert_close(again[-1].displacement, steps[-1].displacement)
    beyond = list(method.steps(fixed, moving, count=5, state=steps[-1].state))
    assert len(beyond) == 5
    compare = SIMILARITIES["lncc"]()
    left = [
        compare(fixed, spatial.warp(moving, step.displacement, padding="border")) for step in (steps[-1], beyond[-1])
    ]
    assert left[1] < left[0]


def test_an_initial_displacement_is_improved_not_forgotten():
    fixed, moving, known = pair((24, 26, 22))
    near = 0.8 * known
    method = Refine(scales=(1,), iterations=(15,))
    *_, last = method.steps(fixed, moving, initial=near)
    assert error(last.displacement, known) < error(near, known)
    torch.testing.assert_close(near, 0.8 * known)


def test_count_is_shared_out_and_kept():
    fixed, moving, _ = pair((20, 22, 24))
    assert len(list(Refine().steps(fixed, moving, count=7))) == 7
    assert len(list(Refine().steps(fixed, moving, count=1))) == 1


def test_a_level_is_left_when_it_brings_no_more():
    fixed, _, _ = pair((20, 22, 24))
    steps = list(Refine(scales=(1,), iterations=(200,)).steps(fixed, fixed + 0.0))
    assert len(steps) <= 200
    still = list(Refine(scales=(1,), iterations=(40,), tolerance=0).steps(fixed, fixed + 0.0))
    assert len(still) == 40


def test_what_a_mask_hides_makes_no_difference():
    fixed, moving, known = pair((28, 33, 30))
    mask = torch.ones_like(fixed)
    mask[..., :14, :, :] = 0
    found = []
    for seed in range(2):
        spoilt = fixed.clone()
        spoilt[..., :14, :, :] = torch.rand(14, 33, 30, generator=torch.Generator().manual_seed(seed))
        found.append(Refine(scales=(1,), iterations=(40,))(spoilt, moving, fixed_mask=mask))
    torch.testing.assert_close(found[0], found[1])
    seen = (..., slice(15, -4), slice(4, -4), slice(4, -4))
    assert error(found[0][seen], known[seen]) < 0.2 * known[seen].norm(dim=1).mean()


def test_landmarks_pull_where_the_images_say_nothing():
    flat = torch.zeros(1, 1, 20, 22, 24)
    flat[..., 9:12, 10:13, 11:14] = 1.0
    points = torch.tensor([[4.0, 5.0, 6.0], [15.0, 16.0, 17.0]])
    targets = points + torch.tensor([2.0, -1.0, 1.0])
    landmarks = Landmarks(points, targets, torch.ones(3), torch.ones(2), torch.zeros(3))
    method = Refine(scales=(1,), iterations=(60,), tolerance=0)
    displacement = method(flat, flat.clone(), guide=lambda shape: Guidance(landmarks))
    index = points.round().long()
    found = points + torch.stack([displacement[0, :, k, j, i] for k, j, i in index.tolist()])
    assert (found - targets).norm(dim=1).mean() < 0.5 * (points - targets).norm(dim=1).mean()


def test_an_unknown_similarity_is_named_with_the_known_ones():
    with pytest.raises(InputError, match="lncc, mse, nmi, mind"):
        Refine(similarity="nonsense")


def test_learnt_regions_are_brought_together_where_the_image_says_nothing():
    """What the network tells from the image counts, also on coarser levels and where the image term is silent."""
    shape = (28, 33, 30)
    fixed, moving, known = pair(shape)
    options = {"scales": (2, 1), "iterations": (30, 30), "features": {"labels": 3, "width": 4, "coarsening": 1.5}}
    method = Refine(similarity=lambda fixed, warped, weight: 0 * warped.mean(), **options)
    method.features.describe = lambda image: 2 * image.expand(-1, 12, *image.shape[2:])
    assert error(method.eval()(fixed, moving), known) < 0.3 * error(torch.zeros_like(known), known)
    assert method.card.upright
    assert not Refine().card.upright


def test_regions_are_told_by_codes_that_lie_apart():
    network = Refine(features={"labels": 40, "width": 4, "channels": 12, "coarsening": 2}, dimension=2).features
    apart = torch.cdist(network.codes, network.codes).square()
    assert apart.sum() / (41 * 40) == pytest.approx(2, rel=0.05)
    assert apart[~torch.eye(41, dtype=torch.bool)].min() > 0.3
    told = network.describe(torch.rand(2, 1, 19, 27))
    assert told.shape == (2, 12, 19, 27)
    assert torch.equal(network.describe(torch.zeros(1, 1, 9, 9)), network.describe(torch.zeros(1, 1, 9, 9)))
