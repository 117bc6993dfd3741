"""How alike two images on one grid are: callables `(fixed, warped, weight=None) -> loss`, lower is better.

Images are `[B, C, *S]`, 2D or 3D; `weight [B, 1, *S]` says how much each voxel counts. The loss is a scalar, the mean
over the batch, differentiable in `warped`.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.kernels import volumes
from RecurrentRegistrationLib.losses.histogram import joint_histogram

AIR = 0.1  # of the highest intensity: below it a voxel shows no tissue
RELATED = 0.3  # correlation of tissues above which two images may have one contrast (one modality: 0.57 and more)


class Similarity(Protocol):
    """What the callables of this module have in common."""

    def __call__(self, fixed: Tensor, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss, a scalar."""


class MeanSquaredError(nn.Module):
    """Mean over voxels and channels of the squared difference."""

    def forward(self, fixed: Tensor, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss, a scalar."""
        error = (fixed - warped).square().mean(dim=1, keepdim=True)
        if weight is None:
            return error.mean()
        axes = tuple(range(1, error.ndim))
        return ((error * weight).sum(axes) / weight.sum(axes).clamp_min(1e-6)).mean()


class LocalCorrelation(nn.Module):
    """One minus the local normalised cross-correlation in windows of `2 radius + 1` voxels, zero weight outside.

    Each window's means, variances and covariance are weighted; the mean over windows is weighted by their centres.
    `squared` takes cov^2 / (var var) (Avants et al., Medical Image Analysis 2008), blind to an inversion of contrast;
    otherwise cov / sqrt(var var). `epsilon` is added to both variances and to the covariance, as if both images carried
    the same faint texture: equal images are then at their best, and windows that are flat in both count as equal.
    """

    def __init__(self, radius: int = 2, *, squared: bool = True, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.radius, self.squared, self.epsilon = radius, squared, epsilon

    def forward(self, fixed: Tensor, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss, a scalar."""
        weight = torch.ones_like(fixed[:, :1]) if weight is None else weight.to(fixed.dtype)
        if volumes.can_correlate(fixed, warped) and not (fixed.requires_grad or weight.requires_grad):
            return _FusedCorrelation.apply(fixed, warped, weight, self)
        return self.by_torch(fixed, warped, weight)

    def by_torch(self, fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
        """The same loss without the kernels, differentiable twice."""
        correlation = self._correlation(fixed, warped, weight)
        axes = tuple(range(2, fixed.ndim))
        mean = (weight * correlation).sum(axes) / weight.sum(axes).clamp_min(1e-6)
        return 1 - mean.mean()

    def _correlation(self, fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
        count = box_sum(weight, self.radius).clamp_min(1e-6)

        def mean(values: Tensor) -> Tensor:
            return box_sum(weight * values, self.radius) / count

        mean_fixed, mean_warped = mean(fixed), mean(warped)
        variance_fixed = (mean(fixed * fixed) - mean_fixed.square()).clamp_min(0) + self.epsilon
        variance_warped = (mean(warped * warped) - mean_warped.square()).clamp_min(0) + self.epsilon
        covariance = mean(fixed * warped) - mean_fixed * mean_warped + self.epsilon
        if self.squared:
            return covariance.square() / (variance_fixed * variance_warped)
        return covariance * (variance_fixed * variance_warped).rsqrt()


def contrast_agreement(fixed: Tensor, warped: Tensor, weight: Tensor | None = None) -> float:
    """How alike the contrasts of roughly aligned images are, -1 to 1: near 1 where bright is bright in both.

    It is the signed share of the squared local correlation; edges against air agree in any two images, so that images
    whose tissues hardly correlate are judged by that correlation instead.

    Args:
        fixed: `[1, 1, *S]`, not negative, air near 0.
        warped: the same of the moving image.
        weight: where to look; None for everywhere.
    """
    measure = LocalCorrelation(2, squared=False)
    weight = torch.ones_like(fixed[:, :1]) if weight is None else weight.expand_as(fixed)
    correlation = measure._correlation(fixed, warped, weight)
    total = (weight * correlation.square()).sum()
    local = ((weight * correlation * correlation.abs()).sum() / total.clamp_min(1e-6)).item()
    tissue = (weight > 0.5) & (fixed > AIR * fixed.amax()) & (warped > AIR * warped.amax())
    inside = torch.corrcoef(torch.stack([fixed[tissue], warped[tissue]]))[0, 1].item() if tissue.sum() > 100 else 1.0
    return min(local, inside) if inside < RELATED else local


def box_sum(values: Tensor, radius: int) -> Tensor:
    """Sum over windows of `2 radius + 1` voxels along every axis of `[B, C, *S]`; nothing lies outside."""
    dimension, size = values.ndim - 2, 2 * radius + 1
    pool = F.avg_pool2d if dimension == 2 else F.avg_pool3d
    for axis in range(dimension):
        window = [size if a == axis else 1 for a in range(dimension)]
        padding = [radius if a == axis else 0 for a in range(dimension)]
        if values.shape[axis + 2] < size:  # torch pads no axis that is shorter than its window
            values = F.pad(values, [p for p in reversed(padding) for _ in range(2)])
            padding = [0] * dimension
        values = pool(values, window, 1, padding) * size
    return values


class _FusedCorrelation(torch.autograd.Function):
    """`LocalCorrelation` by the fused CPU kernels; the backward pass keeps three volumes and no graph."""

    @staticmethod
    def forward(ctx: Any, fixed: Tensor, warped: Tensor, weight: Tensor, loss: LocalCorrelation) -> Tensor:
        weight = weight.expand_as(fixed)
        total, mass, coefficients = volumes.local_correlation(
            fixed, warped, weight, loss.radius, loss.epsilon, loss.squared
        )
        mass = mass.clamp_min(1e-6)
        ctx.save_for_backward(fixed, warped, weight, coefficients, mass)
        ctx.loss = loss
        return 1 - (total / mass).mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        fixed, warped, weight, coefficients, mass = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative will follow
            loss = ctx.loss.by_torch(fixed, warped, weight)
            return None, torch.autograd.grad(loss, warped, grad, create_graph=True)[0], None, None
        slope = volumes.local_correlation_gradient(fixed, warped, weight, coefficients, ctx.loss.radius)
        scale = -grad / (mass * mass.numel())
        return None, slope * scale.view(-1, *[1] * (slope.ndim - 1)), None, None


class MutualInformation(nn.Module):
    """Two minus the normalised mutual information `(H(f) + H(w)) / H(f, w)` of intensities in [0, 1].

    A cubic B-spline Parzen window on the warped image and whole bins for the fixed one (Mattes et al., IEEE TMI 2003),
    with the normalisation of Studholme et al., Pattern Recognition 1999. Raises InputError for fewer than 4 bins.
    """

    def __init__(self, bins: int = 32) -> None:
        super().__init__()
        if bins < 4:  # the window's width
            raise InputError(f"A joint histogram has 4 bins or more, not {bins}.")
        self.bins = bins

    def forward(self, fixed: Tensor, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss, a scalar."""
        joint = self.joint_histogram(fixed, warped, weight)
        return 2 - normalised_mutual_information(joint).mean()

    def joint_histogram(self, fixed: Tensor, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """Joint probabilities `[B, bins, bins]`."""
        weight = torch.ones_like(fixed) if weight is None else weight.expand(-1, *warped.shape[1:])
        joint = joint_histogram(fixed.flatten(1), warped.flatten(1), weight.flatten(1), self.bins)
        return joint / joint.sum((1, 2), keepdim=True).clamp_min(1e-6)


def normalised_mutual_information(joint: Tensor) -> Tensor:
    """`(H(f) + H(w)) / H(f, w)` of joint probabilities `[B, K, K]`: from 1 (independent) to 2 (equal)."""

    def entropy(p: Tensor) -> Tensor:
        return -torch.special.xlogy(p, p.clamp_min(1e-12)).flatten(1).sum(1)

    return (entropy(joint.sum(2)) + entropy(joint.sum(1))) / entropy(joint).clamp_min(1e-6)


class MindSSC(nn.Module):
    """Mean squared difference of self-similarity descriptors (Heinrich et al., MICCAI 2013), blind to modality.

    `describe` gives 12 channels in 3D and 4 in 2D: how alike the patches are at each two
    neighbours of a voxel that do not lie opposite.
    """

    def __init__(self, radius: int = 1, dilation: int = 2) -> None:
        super().__init__()
        self.radius, self.dilation = radius, dilation

    def describe(self, image: Tensor) -> Tensor:
        """Descriptors `[B, K, *S]` in [0, 1] of an image `[B, 1, *S]`."""
        dimension = image.ndim - 2
        neighbours = [_shifted(image, axis, sign * self.dilation) for axis in range(dimension) for sign in (-1, 1)]
        pairs = [(a, b) for a in range(2 * dimension) for b in range(a) if a // 2 != b // 2]
        size = (2 * self.radius + 1) ** dimension
        distance = torch.cat(
            [box_sum((neighbours[a] - neighbours[b]).square(), self.radius) / size for a, b in pairs], 1
        )
        distance = distance - distance.amin(dim=1, keepdim=True)
        variance = distance.mean(dim=1, keepdim=True)
        mean = variance.mean(dim=tuple(range(1, variance.ndim)), keepdim=True)
        return torch.exp(-distance / variance.clamp(mean * 1e-3, mean * 1e3).clamp_min(1e-8))

    def forward(self, fixed: Tensor, warped: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss, a scalar."""
        return MeanSquaredError()(self.describe(fixed), self.describe(warped), weight)


def _shifted(image: Tensor, axis: int, steps: int) -> Tensor:
    """The image moved by `steps` voxels along an axis, edges repeated."""
    n = image.shape[axis + 2]
    index = (torch.arange(n, device=image.device) + steps).clamp(0, n - 1)
    return image.index_select(axis + 2, index)
