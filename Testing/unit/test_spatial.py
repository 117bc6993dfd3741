"""Sampling, composing, inverting, integrating and differentiating displacements, on grids that are not cubes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from geometry import smooth_displacement
from scipy import ndimage
from torch.autograd import gradcheck, gradgradcheck

from RecurrentRegistrationLib import spatial

SHAPES = [(9, 7), (5, 8, 6)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
paddings = pytest.mark.parametrize("padding", ["zeros", "border"])


def random_image(shape, channels: int = 1, batch: int = 1, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, *shape, generator=generator, dtype=torch.float64).to(dtype)


def linear_map(shape, matrix, shift) -> torch.Tensor:
    """The displacement in voxels of `p -> p + matrix p + shift`."""
    points = spatial.identity_grid(shape, dtype=torch.float64)[0]
    matrix = torch.as_tensor(matrix, dtype=torch.float64)
    shift = torch.as_tensor(shift, dtype=torch.float64).view(-1, *[1] * len(shape))
    return (torch.einsum("ij,j...->i...", matrix, points) + shift).unsqueeze(0)


def inside(displacement: torch.Tensor, margin: float = 0.0) -> torch.Tensor:
    """Where `p + u(p)` lies within the grid."""
    shape = displacement.shape[2:]
    points = displacement + spatial.identity_grid(shape, dtype=displacement.dtype)
    last = torch.tensor(shape).view(1, -1, *[1] * len(shape)) - 1
    return ((points >= margin) & (points <= last - margin)).all(dim=1)


class TestWarp:
    @shapes
    def test_zero_moves_nothing(self, shape):
        image = random_image(shape, 2)
        assert torch.allclose(spatial.warp(image, spatial.zero_displacement(image)), image, atol=1e-6)

    @shapes
    def test_a_shift_along_an_axis_moves_that_axis(self, shape):
        image = random_image(shape, dtype=torch.float64)
        for axis in range(len(shape)):
            shift = spatial.zero_displacement(image)
            shift[:, axis] = 1
            expected = torch.roll(image, -1, dims=axis + 2)
            expected.select(axis + 2, shape[axis] - 1).zero_()
            assert torch.allclose(spatial.warp(image, shift), expected)
            expected.select(axis + 2, shape[axis] - 1).copy_(image.select(axis + 2, shape[axis] - 1))
            assert torch.allclose(spatial.warp(image, shift, padding="border"), expected)

    @shapes
    @paddings
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_agrees_with_scipy(self, shape, padding, dtype):
        image = random_image(shape)
        displacement = smooth_displacement(shape, 3.0)
        points = (displacement + spatial.identity_grid(shape))[0].double().numpy()
        mode = "grid-constant" if padding == "zeros" else "nearest"
        expected = ndimage.map_coordinates(image[0, 0].double().numpy(), points, order=1, mode=mode)
        found = spatial.warp(image.to(dtype), displacement.to(dtype), padding=padding)
        assert np.allclose(found[0, 0], expected, atol=1e-5)

    @shapes
    def test_nearest_takes_whole_values(self, shape):
        image = (random_image(shape) * 5).round()
        warped = spatial.warp(image, smooth_displacement(shape, 1.4), mode="nearest", padding="border")
        assert set(warped.unique().tolist()) <= set(image.unique().tolist())

    @shapes
    @paddings
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_the_image_may_have_another_size(self, shape, padding, dtype):
        image = random_image([n + 3 for n in shape], 2, dtype=dtype)
        displacement = smooth_displacement(shape, 1.0, dtype)
        corner = (..., *[slice(n) for n in shape])
        whole = spatial.warp(image, F.pad(displacement, [0, 3] * len(shape)), padding=padding)
        assert torch.allclose(spatial.warp(image, displacement, padding=padding), whole[corner], atol=1e-6)

    @shapes
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_batch_is_its_items(self, shape, dtype):
        image = random_image(shape, 2, batch=2, dtype=dtype)
        displacement = torch.cat([smooth_displacement(shape, 1.5, dtype), -smooth_displacement(shape, 0.7, dtype)])
        both = spatial.warp(image, displacement)
        for n in range(2):
            assert torch.allclose(both[n : n + 1], spatial.warp(image[n : n + 1], displacement[n : n + 1]))

    @shapes
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_one_image_serves_a_batch_and_gets_the_sum_of_gradients(self, shape, dtype):
        image = random_image(shape, dtype=dtype).requires_grad_()
        displacement = torch.cat([smooth_displacement(shape, 1.5, dtype), -smooth_displacement(shape, 0.7, dtype)])
        spatial.warp(image, displacement).square().sum().backward()
        found, image.grad = image.grad, None
        for n in range(2):
            spatial.warp(image, displacement[n : n + 1]).square().sum().backward()
        assert torch.allclose(found, image.grad, atol=1e-5)

    @pytest.mark.parametrize("shape", [(1, 6, 5), (6, 1, 5), (1, 1, 4), (1, 1, 1), (1, 5), (1, 1)], ids=str)
    @paddings
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_an_axis_of_one_voxel_ends_half_way_as_any(self, shape, padding, dtype):
        image = random_image(shape, dtype=dtype)
        displacement = smooth_displacement(shape, 0.8, dtype)
        points = (displacement + spatial.identity_grid(shape, dtype=dtype))[0].numpy()
        mode = "grid-constant" if padding == "zeros" else "nearest"
        expected = ndimage.map_coordinates(image[0, 0].double().numpy(), points, order=1, mode=mode)
        assert np.allclose(spatial.warp(image, displacement, padding=padding)[0, 0], expected, atol=1e-6)

    @pytest.mark.parametrize("shape", [(4, 3), (3, 4, 2)], ids=str)
    @paddings
    def test_first_and_second_derivatives(self, shape, padding):
        # The step keeps every sample away from voxel centres, where linear interpolation has a kink.
        image = random_image(shape, 2, dtype=torch.float64).requires_grad_()
        displacement = (0.3 + 0.1 * random_image(shape, len(shape), dtype=torch.float64, seed=1)).requires_grad_()

        def warp(image, displacement):
            return spatial.warp(image, displacement, padding=padding)

        assert gradcheck(warp, (image, displacement))
        assert gradgradcheck(warp, (image, displacement))

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
    @shapes
    @paddings
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_displacement_that_is_no_number_spoils_no_neighbour(self, bad, shape, padding, dtype):
        image = random_image(shape, dtype=dtype)
        displacement = torch.zeros(1, len(shape), *shape, dtype=dtype)
        there = (0, slice(None), *[1] * len(shape))
        displacement[there] = bad
        displacement.requires_grad_()
        warped = spatial.warp(image, displacement, padding=padding)
        warped.sum().backward()
        expected = image.clone()
        expected[there] = warped[there].detach()
        assert torch.allclose(warped.detach(), expected, atol=1e-6, equal_nan=True)
        others = torch.ones_like(displacement, dtype=torch.bool)
        others[there] = False
        assert displacement.grad[others].isfinite().all()

    def test_sample_at_reads_coordinates(self):
        image = spatial.identity_grid((4, 5, 6))
        coordinates = torch.tensor([[1.5, 2.0], [0.25, 3.0], [4.0, 0.5]]).view(1, 3, 1, 1, 2)
        assert torch.allclose(spatial.sample_at(image, coordinates), coordinates, atol=1e-6)


class TestCompose:
    @shapes
    def test_linear_maps_compose_as_matrices(self, shape):
        d = len(shape)
        generator = np.random.default_rng(0)
        a, b = generator.uniform(-0.08, 0.08, (2, d, d))
        s, t = generator.uniform(-0.5, 0.5, (2, d))
        new, old = linear_map(shape, a, s), linear_map(shape, b, t)
        both = (np.eye(d) + b) @ (np.eye(d) + a) - np.eye(d)
        expected = linear_map(shape, both, (np.eye(d) + b) @ s + t)
        where = inside(new).expand(1, d, *shape)
        assert where.double().mean() > 0.4
        found = spatial.compose(new, old)
        assert torch.allclose(found[where], expected[where], atol=1e-9)

    @shapes
    def test_is_one_warp_after_the_other_on_a_linear_image(self, shape):
        image = (spatial.identity_grid(shape, dtype=torch.float64) * 0.7).sum(1, keepdim=True) + 1
        new, old = smooth_displacement(shape, 0.6, torch.float64), smooth_displacement(shape, -0.8, torch.float64)
        twice = spatial.warp(spatial.warp(image, old), new)
        once = spatial.warp(image, spatial.compose(new, old))
        where = inside(new, 1) & inside(spatial.compose(new, old)) & inside(spatial.compose(new, old), 1)
        assert where.any()
        assert torch.allclose(twice[:, 0][where], once[:, 0][where], atol=0.05)
        assert not torch.allclose(spatial.compose(new, old), spatial.compose(old, new), atol=0.02)

    @shapes
    def test_zero_is_neutral(self, shape):
        displacement = smooth_displacement(shape, 1.3)
        zero = torch.zeros_like(displacement)
        assert torch.allclose(spatial.compose(displacement, zero), displacement)
        assert torch.allclose(spatial.compose(zero, displacement), displacement, atol=1e-6)


class TestLinear:
    @shapes
    def test_a_matrix_becomes_its_displacement(self, shape):
        d = len(shape)
        matrix = np.eye(d + 1)
        matrix[:d] += np.random.default_rng(2).uniform(-0.3, 0.3, (d, d + 1))
        expected = linear_map(shape, matrix[:d, :d] - np.eye(d), matrix[:d, d])
        assert torch.allclose(spatial.linear_displacement(matrix, shape).double(), expected, atol=1e-5)

    @shapes
    def test_a_matrix_after_a_displacement_is_their_composition(self, shape):
        d = len(shape)
        matrix = np.eye(d + 1)
        matrix[:d] += np.random.default_rng(2).uniform(-0.05, 0.05, (d, d + 1))
        displacement = smooth_displacement(shape, 0.7)
        composed = spatial.compose(displacement, spatial.linear_displacement(matrix, shape))
        where = inside(displacement).expand(1, d, *shape)
        assert where.any()
        found = spatial.follow_linear(displacement, matrix)
        assert torch.allclose(found[where], composed[where], atol=1e-5)


class TestInvert:
    @pytest.mark.parametrize("shape", [(20, 16), (14, 18, 12)], ids=str)
    def test_a_smooth_displacement(self, shape):
        displacement = smooth_displacement(shape, 1.5)
        inverse = spatial.invert(displacement)
        assert inverse.mean_residual < 1e-3
        there_and_back = spatial.compose(inverse.displacement, displacement)
        assert there_and_back.norm(dim=1).mean().item() == pytest.approx(inverse.mean_residual, abs=1e-6)
        back_and_there = spatial.compose(displacement, inverse.displacement)
        core = (..., *[slice(3, -3)] * len(shape))
        assert back_and_there[core].norm(dim=1).mean() < 0.05

    @shapes
    def test_a_linear_map(self, shape):
        d = len(shape)
        matrix = 0.1 * np.arange(d * d).reshape(d, d) / d**2
        inverse = spatial.invert(linear_map(shape, matrix, [0.2] * d)).displacement
        back = np.linalg.inv(np.eye(d) + matrix)
        expected = linear_map(shape, back - np.eye(d), -back @ np.full(d, 0.2))
        where = inside(expected).expand(1, d, *shape)
        assert torch.allclose(inverse[where], expected[where], atol=1e-3)

    @shapes
    def test_the_residual_tells_of_a_folding_map(self, shape):
        found = spatial.invert(8 * random_image(shape, len(shape)), iterations=20)
        assert found.max_residual > 0.3
        assert found.max_residual >= found.mean_residual > 0.1

    @pytest.mark.parametrize("shape", [(40, 9), (40, 7, 5)], ids=str)
    @pytest.mark.parametrize("steepness", [1.5, 3.0, 6.0])
    def test_a_steep_map(self, shape, steepness):
        along = steepness * torch.tanh(torch.arange(40.0) - 19.5)  # its derivative is `steepness` in the middle
        displacement = torch.zeros(1, len(shape), *shape)
        displacement[:, 0] = along.view(-1, *[1] * (len(shape) - 1))
        assert spatial.jacobian_determinant(displacement).min() > 0
        assert spatial.invert(displacement).max_residual < 2e-3

    def test_a_batch_is_its_items(self):
        pair = torch.cat([smooth_displacement((8, 9, 7), 1.0), smooth_displacement((8, 9, 7), -0.5)])
        both = spatial.invert(pair, tolerance=1e-6).displacement
        for n in range(2):
            alone = spatial.invert(pair[n : n + 1], tolerance=1e-6).displacement
            assert torch.allclose(both[n : n + 1], alone, atol=1e-5)


class TestIntegrate:
    @shapes
    def test_a_constant_velocity_is_a_shift(self, shape):
        velocity = torch.ones(1, len(shape), *shape) * 0.9
        assert torch.allclose(spatial.integrate(velocity), velocity, atol=1e-5)

    @pytest.mark.parametrize("plane", [(0, 1), (1, 2), (0, 2)])
    def test_a_turning_velocity_is_a_rotation(self, plane):
        shape, angle = (15, 17, 13), 0.5
        generator = np.zeros((3, 3))
        generator[plane[0], plane[1]], generator[plane[1], plane[0]] = -angle, angle
        centre = (np.array(shape) - 1) / 2
        turn = np.eye(3)
        turn[np.ix_(plane, plane)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        found = spatial.integrate(linear_map(shape, generator, -generator @ centre), steps=12)
        expected = linear_map(shape, turn - np.eye(3), centre - turn @ centre)
        points = spatial.identity_grid(shape, dtype=torch.float64)[0]
        near = (points - torch.tensor(centre).view(3, 1, 1, 1)).norm(dim=0) < min(centre) - 2
        assert torch.allclose(found[0][:, near], expected[0][:, near], atol=2e-3)

    @shapes
    def test_the_opposite_velocity_is_the_inverse(self, shape):
        big = tuple(2 * n for n in shape)
        velocity = smooth_displacement(big, 1.2)
        there_and_back = spatial.compose(spatial.integrate(velocity), spatial.integrate(-velocity))
        core = (..., *[slice(4, -4)] * len(shape))
        assert there_and_back[core].norm(dim=1).max() < 0.05

    def test_never_folds_a_smooth_velocity(self):
        displacement = spatial.integrate(smooth_displacement((12, 10, 11), 6.0), steps=9)
        assert spatial.folding_fraction(displacement) == 0


class TestResize:
    @shapes
    def test_a_linear_image_stays_linear(self, shape):
        new = tuple(2 * n + 1 for n in shape)
        image = spatial.identity_grid(shape, dtype=torch.float64)
        ratio = torch.tensor([(n - 1) / (o - 1) for n, o in zip(new, shape, strict=True)], dtype=torch.float64)
        expected = spatial.identity_grid(new, dtype=torch.float64) / ratio.view(1, -1, *[1] * len(shape))
        assert torch.allclose(spatial.resize(image, new), expected, atol=1e-9)

    @shapes
    @pytest.mark.parametrize("factor", [0.5, 1.7, 2])
    def test_a_linear_displacement_stays_the_same_map(self, shape, factor):
        d = len(shape)
        new = tuple(max(2, int(n * factor)) for n in shape)
        matrix, shift = 0.05 * np.arange(1, d * d + 1).reshape(d, d) / d, np.arange(1, d + 1) / d
        ratio = np.array([(n - 1) / (o - 1) for n, o in zip(new, shape, strict=True)])
        expected = linear_map(new, np.diag(ratio) @ matrix @ np.diag(1 / ratio), ratio * shift)
        found = spatial.resize_displacement(linear_map(shape, matrix, shift), new)
        assert torch.allclose(found, expected, atol=1e-9)

    @shapes
    def test_there_and_back_keeps_a_smooth_displacement(self, shape):
        displacement = smooth_displacement(shape, 1.0)
        fine = spatial.resize_displacement(displacement, [3 * n - 2 for n in shape])
        assert torch.allclose(spatial.resize_displacement(fine, shape), displacement, atol=1e-5)

    def test_warping_commutes_with_resizing(self):
        shape, fine = (9, 7, 11), (17, 13, 21)
        image = spatial.identity_grid(shape).sum(1, keepdim=True)
        displacement = linear_map(shape, 0.05 * np.eye(3), [0.3, 0.2, 0.4]).float()
        coarse_first = spatial.warp(spatial.resize(image, fine), spatial.resize_displacement(displacement, fine))
        fine_last = spatial.resize(spatial.warp(image, displacement), fine)
        core = (..., *[slice(0, n - 4) for n in fine])
        assert torch.allclose(coarse_first[core], fine_last[core], atol=1e-4)

    @pytest.mark.parametrize(("old", "new"), [((4, 5), (6, 7)), ((7, 9, 5), (4, 5, 3)), ((1, 4, 5), (1, 6, 7))])
    def test_labels_stay_with_their_image(self, old, new):
        labels = (spatial.identity_grid(old).sum(1, keepdim=True) % 3).round()
        found = spatial.resize(labels, new, mode="nearest")
        rows = [(np.arange(n) * (o - 1) / max(n - 1, 1)).round().astype(int) for n, o in zip(new, old, strict=True)]
        assert np.array_equal(found[0, 0], labels[0, 0][np.ix_(*rows)])

    def test_an_axis_of_one_voxel_is_repeated(self):
        displacement = smooth_displacement((1, 4, 5), 1.0)
        assert torch.allclose(spatial.resize_displacement(displacement, (3, 4, 5)), displacement.expand(1, 3, 3, 4, 5))

    def test_the_same_shape_is_the_same_tensor(self):
        image = random_image((3, 4))
        assert spatial.resize(image, [3, 4]) is image
        assert spatial.resize_displacement(image.expand(1, 2, 3, 4), (3, 4)).shape == (1, 2, 3, 4)


class TestJacobian:
    @shapes
    def test_a_linear_map_has_its_matrix_everywhere(self, shape):
        d = len(shape)
        matrix = 0.1 * np.random.default_rng(3).uniform(-1, 1, (d, d))
        displacement = linear_map(shape, matrix, [0.4] * d)
        expected = torch.tensor(np.eye(d) + matrix).view(1, d, d, *[1] * d).expand(1, d, d, *shape)
        assert torch.allclose(spatial.jacobian(displacement), expected)
        determinant = spatial.jacobian_determinant(displacement)
        assert determinant.shape == (1, 1, *shape)
        assert torch.allclose(determinant, torch.full_like(determinant, np.linalg.det(np.eye(d) + matrix)))

    @shapes
    def test_the_determinant_is_that_of_the_matrix(self, shape):
        displacement = smooth_displacement(shape, 2.0, torch.float64)
        matrix = spatial.jacobian(displacement).movedim((1, 2), (-2, -1))
        assert torch.allclose(torch.linalg.det(matrix), spatial.jacobian_determinant(displacement)[:, 0])

    @shapes
    def test_is_numpy_gradient(self, shape):
        displacement = random_image(shape, len(shape), dtype=torch.float64)
        for axis in range(len(shape)):
            expected = np.gradient(displacement[0, 0].numpy(), axis=axis)
            assert np.allclose(spatial.difference(displacement, axis)[0, 0], expected)

    @shapes
    def test_a_mirrored_axis_folds_everywhere(self, shape):
        displacement = linear_map(
            shape, np.diag([-2.0] + [0] * (len(shape) - 1)), [shape[0] - 1] + [0] * (len(shape) - 1)
        )
        assert spatial.folding_fraction(displacement) == 1

    def test_an_axis_of_one_voxel_has_no_slope(self):
        displacement = linear_map((1, 5, 6), 0.2 * np.eye(3), [0.0] * 3)
        assert torch.allclose(spatial.jacobian_determinant(displacement), torch.tensor(1.44, dtype=torch.float64))

    def test_folding_is_counted_inside_a_mask(self):
        displacement = torch.zeros(1, 2, 6, 8)
        displacement[:, 1, :, 4:] = -3  # the columns 3 and 4 cross
        folded = spatial.jacobian_determinant(displacement) <= 0
        assert folded.sum() == 12
        assert spatial.folding_fraction(displacement) == pytest.approx(12 / 48)
        assert spatial.folding_fraction(displacement, folded.float()) == 1
        assert spatial.folding_fraction(displacement, (~folded).float()) == 0
        assert spatial.folding_fraction(displacement, torch.zeros(1, 1, 6, 8)) == 0


class TestSmoothing:
    @shapes
    @pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_agrees_with_scipy(self, shape, sigma, dtype):
        image = random_image(shape, 2, batch=2, dtype=dtype)
        found = spatial.gaussian_smooth(image, sigma)
        for b in range(2):
            for c in range(2):
                expected = ndimage.gaussian_filter(image[b, c].double().numpy(), sigma, mode="nearest", truncate=3)
                assert np.allclose(found[b, c], expected, atol=1e-5)

    @shapes
    def test_each_axis_has_its_width(self, shape):
        image = random_image(shape)
        sigmas = [0.0, 1.5, 0.7][: len(shape)]
        expected = ndimage.gaussian_filter(image[0, 0].numpy(), sigmas, mode="nearest", truncate=3)
        assert np.allclose(spatial.gaussian_smooth(image, sigmas)[0, 0], expected, atol=1e-5)

    @shapes
    def test_no_width_changes_nothing(self, shape):
        image = random_image(shape)
        assert torch.equal(spatial.gaussian_smooth(image, 0), image)

    def test_is_differentiable(self):
        image = random_image((3, 4, 3), dtype=torch.float64).requires_grad_()
        assert gradcheck(lambda image: spatial.gaussian_smooth(image, 0.8), (image,))
        small = random_image((3, 4, 3)).requires_grad_()
        spatial.gaussian_smooth(small, 0.8).sum().backward()
        assert small.grad.sum().item() == pytest.approx(36, rel=1e-5)


class TestRemoveFolding:
    @pytest.mark.parametrize("shape", [(24, 20), (16, 18, 14)], ids=str)
    def test_a_folded_displacement_is_unfolded_and_the_rest_left_alone(self, shape):
        displacement = smooth_displacement(shape, 0.5)
        spike = (0, 0, *[n // 2 for n in shape])
        displacement[spike] += 6
        unfolded = spatial.remove_folding(displacement)
        assert spatial.folding_fraction(displacement) > 0
        assert (spatial.jacobian_determinant(unfolded) > 0.01).all()
        corner = (..., *[slice(4)] * len(shape))
        assert torch.equal(unfolded[corner], displacement[corner])

    def test_random_noise_is_unfolded(self):
        noise = 3 * torch.randn(1, 3, 12, 10, 11, generator=torch.Generator().manual_seed(0))
        assert (spatial.jacobian_determinant(spatial.remove_folding(noise)) > 0.01).all()

    @shapes
    def test_what_does_not_fold_is_the_same_tensor(self, shape):
        displacement = smooth_displacement(shape, 0.2)
        assert spatial.remove_folding(displacement) is displacement
