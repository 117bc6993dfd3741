"""The recurrent unit of R2N2: gates, noise, proposals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from RecurrentRegistrationLib.layers.gr2u import GR2U, NoisyConvolution, NoisyGRU, PositionHead, instance_norm


def quiet_gru(channels: int = 3) -> NoisyGRU:
    torch.manual_seed(0)
    return NoisyGRU(2, channels, noise=0.0, dropconnect=0.0)


def test_gru_is_its_equations():
    gru = quiet_gru()
    features, state = torch.randn(2, 3, 5, 6), torch.randn(2, 3, 5, 6)
    w, b, u = gru.input.weight.chunk(3), gru.input.bias.chunk(3), gru.gates.weight.chunk(2)

    def convolve(x, weight, bias=None):
        return F.conv2d(x, weight, bias, padding=1)

    reset = torch.sigmoid(convolve(features, w[0], b[0]) + convolve(state, u[0]))
    update = torch.sigmoid(convolve(features, w[1], b[1]) + convolve(state, u[1]))
    candidate = torch.tanh(convolve(features, w[2], b[2]) + convolve(reset * state, gru.candidate.weight))
    torch.testing.assert_close(gru(features, state), (1 - update) * state + update * candidate)


def test_no_state_is_a_state_of_zero():
    gru = quiet_gru()
    features = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(gru(features, None), gru(features, torch.zeros_like(features)))


def test_biases_start_as_published():
    reset, update, candidate = quiet_gru().input.bias.chunk(3)
    assert not reset.any()
    assert not update.any()
    assert (candidate == 1).all()


@pytest.mark.parametrize(("noise", "dropconnect"), [(1.4, 0.0), (0.0, 0.5)])
def test_weights_shake_in_training_only_and_around_their_mean(noise, dropconnect):
    torch.manual_seed(0)
    layer = NoisyConvolution(2, 1, 1, noise=noise, dropconnect=dropconnect)
    torch.nn.init.ones_(layer.weight)
    point = torch.zeros(1, 1, 3, 3)
    point[0, 0, 1, 1] = 1  # the output shows the weights
    drawn = torch.stack([layer(point) for _ in range(2000)])
    assert drawn.mean().item() == pytest.approx(1, abs=0.05)
    assert drawn.std().item() == pytest.approx(noise or 1.0, rel=0.05)
    if dropconnect:
        assert set(drawn.unique().tolist()) == {0.0, 2.0}
    layer.eval()
    assert (layer(point) == 1).all()


def test_agreeing_maps_are_certain_and_disjoint_ones_are_not():
    head = PositionHead(2, 2)
    with torch.no_grad():
        head.maps.weight.copy_(torch.eye(2).view(2, 2, 1, 1))
    here, there = torch.full((1, 1, 8, 8), -50.0), torch.full((1, 1, 8, 8), -50.0)
    here[0, 0, 2, 5], there[0, 0, 6, 1] = 50, 50
    same, other = head(torch.cat([here, here], 1)), head(torch.cat([here, there], 1))
    assert same.certainty.item() == pytest.approx(2)
    assert other.certainty.item() == pytest.approx(0)
    assert same.entropy.item() == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(same.position, torch.tensor([[2 * 2 / 7 - 1, 2 * 5 / 7 - 1]]))
    flat = head(torch.zeros(1, 2, 8, 8))
    assert flat.entropy.item() == pytest.approx(1)
    torch.testing.assert_close(flat.position, torch.zeros(1, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(9, 12), (5, 6, 7)])
def test_unit_halves_its_features_and_keeps_its_state(shape):
    unit = GR2U(len(shape), 4, 6, blocks=1)
    features, state, proposal = unit(torch.randn(2, 4, *shape), None)
    assert features.shape == (2, 6, *[-(-n // 2) for n in shape])
    assert state.shape == (2, 4, *shape)
    assert proposal.position.shape == (2, len(shape))
    assert proposal.certainty.shape == proposal.entropy.shape == (2,)


def test_norm_is_that_of_torch_and_takes_a_single_voxel():
    features = 3 + 2 * torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(instance_norm(features), F.instance_norm(features))
    assert not instance_norm(torch.randn(2, 4, 1, 1)).any()
