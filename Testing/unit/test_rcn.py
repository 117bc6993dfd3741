"""The recursive cascade's own facts: what is composed with what, and whose weights."""

import pytest
import torch

from RecurrentRegistrationLib import methods, spatial

SHAPE = (20, 24)


def smooth_field(seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return 4 * spatial.gaussian_smooth(torch.randn(1, 2, *SHAPE), 4.0)


class Answer(torch.nn.Module):
    """A network that answers the given residuals in turn and keeps what it was shown."""

    def __init__(self, *residuals: torch.Tensor) -> None:
        super().__init__()
        self.residuals, self.shown = list(residuals), []

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        self.shown.append(pair)
        return self.residuals.pop(0)


def test_residuals_compose_in_the_order_of_the_warps():
    first, second = smooth_field(1), smooth_field(2)
    method = methods.create("rcn", 2)
    method.cascades[0] = Answer(first, second)
    fixed, moving = torch.rand(2, 1, 1, *SHAPE)
    moving = spatial.gaussian_smooth(moving, 3.0)
    *_, last = method.steps(fixed, moving, count=2)
    once = spatial.warp(moving, first)
    torch.testing.assert_close(method.cascades[0].shown[1], torch.cat([fixed, once], dim=1))
    torch.testing.assert_close(last.displacement, second + spatial.warp(first, second, padding="border"))
    twice, inside = spatial.warp(once, second), (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(spatial.warp(moving, last.displacement)[inside], twice[inside], atol=0.01, rtol=0)
    assert torch.equal(last.attached["residual"], second)


@pytest.mark.parametrize(("width", "expected"), [(16, 355_875), (32, 1_416_771)])
def test_counts_of_both_widths(width, expected):
    assert sum(p.numel() for p in methods.create("rcn", 3, width=width).parameters()) == expected


def test_own_weights_for_each_cascade_then_the_last_again():
    method = methods.create("rcn", 2, width=4, cascades=2)
    calls = []
    for number, network in enumerate(method.cascades):
        network.register_forward_hook(lambda *_, number=number: calls.append(number))
    list(method.steps(*torch.rand(2, 1, 1, *SHAPE), count=4))
    assert calls == [0, 1, 1, 1]
