import numpy as np
import pytest
import torch

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.methods.convex import Convex
from RecurrentRegistrationLib.pipeline.guide import Guide, LandmarkPairs, label_pairs, labels_of
from RecurrentRegistrationLib.pipeline.guide_on_grid import on_grid
from RecurrentRegistrationLib.points import Points
from RecurrentRegistrationLib.volume import Grid, Volume


def texture(shape, seed=0, batch=1):
    """Blobs about 5 voxels wide."""
    torch.manual_seed(seed)
    image = spatial.gaussian_smooth(torch.randn(batch, 1, *shape), 2.0)
    return (image / image.std() * 0.2 + 0.5).clamp(0, 1)


def moved(image, shift):
    """`image(p - shift)`: what is found again at `p + shift`, edges repeated."""
    shift = torch.as_tensor(shift, dtype=torch.float32)
    shift = shift.expand(image.shape[0], -1).reshape(image.shape[0], -1, *[1] * (image.ndim - 2))
    return spatial.warp(image, -shift.expand(-1, -1, *image.shape[2:]).contiguous(), padding="border")


def inner(values, margin=12):
    return values[(..., *[slice(margin, -margin)] * (values.ndim - 2))]


@pytest.mark.parametrize(("shape", "shift"), [((63, 80), (13.0, -9.5)), ((40, 57, 48), (9.0, -11.0, 7.5))])
def test_a_shift_of_several_blobs_is_found_in_both_items_of_a_batch(shape, shift):
    fixed = texture(shape, batch=2)
    both = torch.tensor([shift, [-s / 2 for s in shift]])
    found = Convex(pitches=(4, 2), radii=(4, 2))(fixed, moved(fixed, both))
    error = (found - both.view(2, -1, *[1] * len(shape))).norm(dim=1, keepdim=True)
    assert inner(error, 14).mean() < 0.5
    assert inner(error, 14).quantile(0.95) < 2


def test_one_slice_is_searched_in_its_plane():
    fixed = texture((63, 80))
    shift = (13.0, -9.5)
    search = Convex(pitches=(4, 2), radii=(4, 2))
    found = search(fixed[:, :, None], moved(fixed, shift)[:, :, None])
    assert found[:, 0].abs().max() == 0
    error = (found[:, 1:, 0] - torch.tensor(shift).view(1, 2, 1, 1)).norm(dim=1, keepdim=True)
    assert inner(error, 14).mean() < 0.5


def test_equal_images_stay_where_they_are():
    image = texture((30, 36, 33))
    assert Convex()(image, image).abs().max() < 0.01


def test_what_lies_outside_the_masks_has_no_say():
    fixed = texture((64, 72))
    moving = moved(fixed, (8.0, -6.0))
    fixed_mask, moving_mask = torch.zeros(2, 1, 1, 64, 72)
    fixed_mask[..., 16:48, 20:52] = 1
    moving_mask[..., 22:58, 10:48] = 1
    spoilt = torch.where(moving_mask > 0, moving, texture((64, 72), seed=1))
    method = Convex(pitches=(3, 2), radii=(4, 2))
    found = method(fixed, spoilt, fixed_mask=fixed_mask, moving_mask=moving_mask)[..., 22:42, 26:46]
    assert (found.mean((0, 2, 3)) - torch.tensor([8.0, -6.0])).abs().max() < 0.5


def test_every_round_is_a_turn_with_its_residual():
    fixed = texture((48, 52))
    turns = list(Convex(pitches=(4, 2), radii=(3, 2), couplings=(0.01, 1.0)).steps(fixed, moved(fixed, (6.0, 0.0))))
    assert [turn.stage for turn in turns] == [f"1/{p} res {n}/2" for p in (4, 2) for n in (1, 2)]
    residual = turns[-1].attached["residual"]
    assert residual.shape == (1, 1, *turns[-1].values.shape[2:])
    assert inner(residual, 6).mean() < 0.5


def test_the_residual_shows_where_the_search_is_lost():
    fixed = texture((64, 64))
    moving = moved(fixed, (5.0, 5.0))
    moving[..., :30] = texture((64, 64), seed=3)[..., :30]  # nothing there is found again
    *_, last = Convex(pitches=(4, 2), radii=(3, 2)).steps(fixed, moving)
    residual = spatial.resize(last.attached["residual"], (64, 64))
    assert residual[..., 10:-10, 4:20].mean() > 3 * residual[..., 10:-10, 40:54].mean()


def test_features_may_be_handed_in_and_it_goes_on_from_a_displacement():
    fixed = texture((48, 56))
    moving = moved(fixed, (20.0, 0.0))
    start = torch.zeros(1, 2, 48, 56)
    start[:, 0] = 18.0
    method = Convex(features=lambda image: torch.cat([image, image**2], 1), pitches=(2,), radii=(2,))
    *_, last = method.steps(fixed, moving, initial=start)
    found = last.displacement[..., 10:20, 10:-10]
    assert (found.mean((0, 2, 3)) - torch.tensor([20.0, 0.0])).abs().max() < 0.3


def test_levels_need_a_pitch_and_a_radius_each():
    with pytest.raises(InputError, match="one pitch and one radius"):
        Convex(pitches=(4, 2), radii=(3,))


def test_structures_and_landmarks_lead_where_the_images_show_nothing():
    grid, flat = Grid.regular((60, 64)), torch.full((1, 1, 60, 64), 0.5)
    maps = [np.zeros((1, 60, 64), np.uint8) for _ in range(2)]
    maps[0][0, 20:32, 20:32] = 3
    maps[1][0, 28:40, 14:26] = 3
    labels = label_pairs(*(labels_of(Volume(array, grid)) for array in maps))
    pairs = LandmarkPairs.of(Points(np.array([[50.0, 40]]), ("a",)), Points(np.array([[50.0, 44]]), ("a",)))
    guide = on_grid(Guide(pairs, labels), grid, np.eye(3), torch.device("cpu"))
    *_, last = Convex(pitches=(3, 2), radii=(4, 2)).steps(flat, flat, guide=guide)
    found = last.displacement
    assert (found[0, :, 23:29, 23:29].mean((1, 2)) - torch.tensor([8.0, -6.0])).abs().max() < 1.5
    assert (found[0, :, 40, 50] - torch.tensor([4.0, 0.0])).abs().max() < 1
    assert spatial.folding_fraction(found) == 0
