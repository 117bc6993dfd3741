import pytest
import torch
from monai.losses import LocalNormalizedCrossCorrelationLoss

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.kernels import volumes
from RecurrentRegistrationLib.losses.similarity import (
    LocalCorrelation,
    MeanSquaredError,
    MindSSC,
    MutualInformation,
    contrast_agreement,
    normalised_mutual_information,
)

SHAPES = [(15, 14), (14, 11, 9)]
LOSSES = [
    MeanSquaredError(),
    LocalCorrelation(2),
    LocalCorrelation(1, squared=False),
    MutualInformation(16),
    MindSSC(),
]


def images(shape, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    texture = torch.rand(batch, 2, *shape, generator=generator)
    texture = spatial.gaussian_smooth(texture, 0.8)
    return texture[:, :1].contiguous(), texture[:, 1:].contiguous()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
class TestEverySimilarity:
    def test_is_lowest_for_equal_images(self, loss, shape):
        fixed, other = images(shape)
        assert loss(fixed, fixed) < loss(fixed, other)

    def test_batch_is_the_mean_of_single_runs(self, loss, shape):
        fixed, other = images(shape)
        single = [loss(fixed[b : b + 1], other[b : b + 1]) for b in range(2)]
        assert loss(fixed, other).item() == pytest.approx(torch.stack(single).mean().item(), abs=2e-6)

    def test_weight_of_zero_hides_what_lies_there(self, loss, shape):
        fixed, other = images(shape)
        weight = torch.ones_like(fixed)
        weight[:, :, shape[0] // 2 :] = 0
        changed = other.clone()
        changed[:, :, shape[0] // 2 + 4 :] = 0.123  # beyond the reach of the windows
        before, after = loss(fixed, other, weight), loss(fixed, changed, weight)
        assert before.item() == pytest.approx(after.item(), abs=1e-6)
        assert loss(fixed, changed).item() != pytest.approx(loss(fixed, other).item(), abs=1e-6)

    def test_gradient_descends(self, loss, shape):
        fixed, other = images(shape)
        other.requires_grad_()
        value = loss(fixed, other)
        (gradient,) = torch.autograd.grad(value, other)
        step = 1e-3 * gradient / gradient.abs().max()
        assert loss(fixed, other - step) < value < loss(fixed, other + step)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("radius", [1, 2, 4])
@pytest.mark.parametrize("weighted", [True, False])
def test_fused_local_correlation_equals_torch(monkeypatch, squared, radius, weighted):
    pytest.importorskip("numba")
    fixed, other = images((9, 10, 11))
    weight = torch.rand_like(fixed) if weighted else None
    found = []
    for usable in (True, False):
        monkeypatch.setattr(volumes, "_usable", usable)
        warped = other.clone().requires_grad_()
        value = LocalCorrelation(radius, squared=squared)(fixed, warped, weight)
        found.append((value.item(), torch.autograd.grad(value, warped)[0]))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], atol=2e-6, rtol=1e-3)


def test_local_correlation_agrees_with_monai_inside():
    fixed, other = images((14, 15, 13), batch=1)
    inner = torch.zeros_like(fixed)
    inner[..., 4:-4, 4:-4, 4:-4] = 1  # MONAI fills windows at the border with zeros
    theirs = LocalNormalizedCrossCorrelationLoss(kernel_size=5, reduction="none", smooth_nr=0, smooth_dr=1e-12)
    expected = (theirs(other, fixed) * inner).sum() / inner.sum()
    ours = LocalCorrelation(2, epsilon=1e-12)._correlation(fixed, other, torch.ones_like(fixed))
    assert ((ours * inner).sum() / inner.sum()).item() == pytest.approx(-expected.item(), abs=1e-4)


def test_mutual_information_knows_a_map_between_intensities():
    fixed, other = images((20, 22, 18), batch=1)
    inverted = 1 - fixed**2
    assert MutualInformation()(fixed, inverted) < MutualInformation()(fixed, other) - 0.1


def test_normalised_mutual_information_of_known_tables():
    independent = torch.full((1, 4, 4), 1 / 16)
    equal = torch.eye(4).unsqueeze(0) / 4
    assert normalised_mutual_information(independent).item() == pytest.approx(1)
    assert normalised_mutual_information(equal).item() == pytest.approx(2)


def test_descriptors_do_not_see_a_change_of_contrast():
    fixed, _ = images((12, 14, 13), batch=1)
    mind = MindSSC()
    assert mind.describe(fixed).shape[1] == 12
    assert mind.describe(fixed[:, :, 0]).shape[1] == 4
    torch.testing.assert_close(mind.describe(fixed), mind.describe(1 - fixed), atol=1e-5, rtol=1e-5)


def test_agreement_of_contrast_has_the_sign_of_the_contrast():
    fixed, _ = images((16, 18, 17), batch=1)
    assert contrast_agreement(fixed, 0.2 + 0.5 * fixed) == pytest.approx(1, abs=1e-3)
    assert contrast_agreement(fixed, 1 - fixed) == pytest.approx(-1, abs=1e-3)


def test_edges_against_air_do_not_make_contrasts_agree():
    fixed = torch.zeros(1, 1, 24, 24, 24)
    tissue = fixed[..., 4:20, 4:20, 4:20]
    tissue += 0.8
    tissue[..., 6:10, 6:10, 6:10] = 0.5
    moving = torch.where(fixed > 0, 1.3 - fixed, fixed)
    assert contrast_agreement(fixed, fixed) == pytest.approx(1, abs=1e-3)
    assert contrast_agreement(fixed, moving) < 0
