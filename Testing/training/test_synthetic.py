"""Made pairs: their displacement is the one they were made with, in 2D and 3D."""

from __future__ import annotations

import pytest
import torch

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.train.anatomy import Heart, Shapes
from RecurrentRegistrationLib.train.appearance import RandomContrast
from RecurrentRegistrationLib.train.deformation import Breathing, Deformation, thin_plate, turning_ball
from RecurrentRegistrationLib.train.draws import together
from RecurrentRegistrationLib.train.saturation_recovery import SaturationRecovery, signal
from RecurrentRegistrationLib.train.synthetic import SyntheticPairs

pytestmark = pytest.mark.filterwarnings("ignore")

SHAPES = {2: (40, 48), 3: (20, 24, 22)}
CLEAN = RandomContrast(bias=0, noise=0, gamma=0, same=True)
PARTS = {
    "rotation": {"rotation": 45.0},
    "translation": {"translation": 6.0},
    "scale": {"scale": 0.2},
    "smooth": {"smooth": 4.0},
    "bumps": {"bumps": 20, "bump_height": 4.0, "bump_width": (3.0, 6.0)},
    "thin_plate": {"thin_plate": 3.0},
    "sliding": {"sliding": 30.0},
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(data: SyntheticPairs, *numbers: int) -> dict:
    data.setup()
    return data.made(together([data.training[n] for n in numbers]))


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("part", PARTS)
def test_the_displacement_is_known(part: str, dimension: int) -> None:
    data = SyntheticPairs(SHAPES[dimension], deformation=Deformation(**PARTS[part]), appearance=CLEAN)
    pair = draws(data, 1, 2)
    u = pair["displacement"]
    assert u.shape == (2, dimension, *SHAPES[dimension])
    assert torch.equal(pair["fixed"], spatial.warp(pair["moving"], u).clamp(0, 1))
    assert torch.equal(
        pair["fixed_labels"], spatial.warp(pair["moving_labels"].float(), u, mode="nearest").round().int()
    )
    assert u.norm(dim=1).amax() > 0.5, "it really deforms"
    assert not torch.equal(u[0], u[1])


@pytest.mark.parametrize("dimension", [2, 3])
def test_smooth_deformations_do_not_fold(dimension: int) -> None:
    for seed in range(4):
        u = Deformation(smooth=5, rotation=20, scale=0.1)(SHAPES[dimension], generator(seed))
        assert spatial.folding_fraction(u) == 0


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_ball_slides_along_its_surface_alone(dimension: int) -> None:
    shape = SHAPES[dimension]
    u = max((turning_ball(shape, 40.0, generator(n)) for n in range(6)), key=lambda u: u.norm())
    inside = u.norm(dim=1)[0] > 0
    assert 0.02 < inside.float().mean() < 0.4
    places = spatial.identity_grid(shape)
    centre = places[0][:, inside].mean(dim=1).view(1, dimension, *[1] * dimension)
    before, after = (places - centre).norm(dim=1), (places + u - centre).norm(dim=1)
    assert (after - before).abs().max() < 0.5, "no voxel leaves its sphere"
    jump = max((u.diff(dim=axis)).norm(dim=1).max() for axis in range(2, 2 + dimension))
    assert jump > 1.5, "neighbours on both sides move apart"


def test_bumps_reach_the_stated_height() -> None:
    heights = [
        Deformation(bumps=20, bump_height=12.0)((48, 48, 48), generator(n)).norm(dim=1).max().item() for n in range(3)
    ]
    assert max(heights) > 3
    assert max(heights) <= 12.01


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_thin_plate_goes_through_its_control_points(dimension: int) -> None:
    shape = (25,) * dimension  # whose coarse grid has the corners in common with the fine one
    u = thin_plate(shape, 3.0, generator())
    moved = 3.0 * (2 * torch.rand((3**dimension, dimension), generator=generator()) - 1)
    assert torch.allclose(u[(0, slice(None), *[0] * dimension)], moved[0], atol=1e-3)
    assert torch.allclose(u[(0, slice(None), *[24] * dimension)], moved[-1], atol=1e-3)


def test_contrasts_differ_and_anatomies_repeat() -> None:
    data = SyntheticPairs((24, 20), subjects=3, appearance=RandomContrast(bias=0, noise=0, gamma=0))
    pair = draws(data, *range(12))
    anatomies = {labels.numpy().tobytes() for labels in pair["moving_labels"]}
    assert len(anatomies) == 3
    fewer = SyntheticPairs((24, 20), subjects=1)
    assert {labels.numpy().tobytes() for labels in draws(fewer, 0, 1)["moving_labels"]} <= anatomies
    warped = spatial.warp(pair["moving"], pair["displacement"])
    assert (pair["fixed"] - warped).abs().mean() > 0.05


def test_draws_repeat_and_validation_is_held_back() -> None:
    data = SyntheticPairs((24, 20))
    first, second = draws(data, 5, 6), draws(data, 6, 5)
    assert torch.equal(first["fixed"][0], second["fixed"][1])
    held = data.made(together([data.validating[n] for n in range(2)]))
    assert not any(torch.equal(held["moving"][0], image) for image in first["moving"])


def test_images_are_between_zero_and_one() -> None:
    pair = draws(SyntheticPairs((24, 20), appearance=RandomContrast(bias=1.0, noise=0.2)), 0, 1, 2)
    for side in ("fixed", "moving"):
        assert pair[side].min() >= 0
        assert pair[side].max() <= 1


def test_the_saturation_recovery_signal() -> None:
    tissue = torch.tensor([1.0, 1000.0, 50.0])
    assert signal(tissue, 1e9, 0.0, 0.0).item() == pytest.approx(1.0)
    assert signal(tissue, 1000.0, 0.0, 0.0).item() == pytest.approx(1 - torch.exp(torch.tensor(-1.0)).item())
    assert signal(tissue, 1e9, 50.0, 0.0).item() == pytest.approx(torch.exp(torch.tensor(-1.0)).item())
    assert signal(tissue, 0.0, 30.0, 0.0).item() == pytest.approx(0.0)
    recovered = signal(tissue, 0.0, 30.0, 1000.0).item()
    assert recovered == pytest.approx(1 - torch.exp(torch.tensor(-1.0)).item()), "the delay lets it recover"


def test_breathing_moves_the_middle_and_leaves_the_wall() -> None:
    u = Breathing(depth=8.0, sideways=1.0)((64, 60), generator(2))
    assert u[0, 0, 32, 30].abs() > 1
    assert u[0, :, 0, :].abs().max() < 0.1 * u[0, 0, 32, 30].abs()


def test_a_heart_series_has_the_template_of_its_last_frame() -> None:
    data = SyntheticPairs(
        (48, 48), anatomy=Heart(), appearance=SaturationRecovery(noise=0, bias=0, gamma=0), deformation=Breathing()
    )
    pair = draws(data, 0, 1, 2)
    assert set(pair["moving_labels"].unique().tolist()) >= {0, 1, 2, 3, 4, 5}
    assert pair["fixed"].mean() > pair["moving"].mean(), "the template has recovered longest"


def test_shapes_fill_their_outline() -> None:
    labels = Shapes(regions=5)((30, 34, 32), generator())
    assert labels.max() == 5
    assert (labels[0, 0, 0] == 0).all()
    assert Shapes(regions=5, outline=False)((20, 20), generator()).min() == 1
