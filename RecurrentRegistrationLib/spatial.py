"""Pure tensor functions on grids: sample, warp, compose, invert, integrate, differentiate, smooth.

`u` stands for the map `id + u`. A displacement is `[B, d, *S]` in **voxels of its own grid**; channel `c` moves
along tensor axis `c` (2D: y, x; 3D: z, y, x). It pulls: `warp(image, u)(p) = image(p + u(p))`. Corners are aligned
everywhere, so index 0 and index N-1 are the centres of the first and the last voxel. All functions serve 2D and 3D,
any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from RecurrentRegistrationLib.kernels import volumes

Padding = Literal["zeros", "border"]
Mode = Literal["bilinear", "nearest"]
SWEEPS = 5  # of an inversion over all points; few are left after them
Device = torch.device | str | None


def dimension_of(displacement: Tensor) -> int:
    """Number of spatial axes of `[B, C, *S]`."""
    return displacement.ndim - 2


def identity_grid(shape: Sequence[int], *, dtype: torch.dtype = torch.float32, device: Device = None) -> Tensor:
    """Voxel coordinates `[1, d, *S]` of a grid; channel `c` counts along tensor axis `c`."""
    axes = [torch.arange(n, dtype=dtype, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0)


def linear_displacement(matrix: np.ndarray, shape: Sequence[int], *, device: Device = None) -> Tensor:
    """`matrix p - p` at every voxel `p` of a grid, `[1, d, *S]`; a homogeneous matrix in voxels, tensor order."""
    d = len(shape)
    columns = torch.from_numpy(matrix[:-1] - np.eye(d, d + 1)).to(device=device, dtype=torch.float32)
    displacement = columns[:, d].view(1, d, *[1] * d).expand(1, d, *shape)
    for axis, size in enumerate(shape):
        steps = torch.arange(size, dtype=torch.float32, device=device).view([-1 if a == axis else 1 for a in range(d)])
        displacement = displacement + columns[:, axis].view(1, d, *[1] * d) * steps
    return displacement


def follow_linear(displacement: Tensor, matrix: np.ndarray) -> Tensor:
    """The displacement `[B, d, *S]` of `matrix o (id + u)`; a homogeneous matrix in voxels, tensor order."""
    linear = torch.from_numpy(matrix[:-1, :-1]).to(displacement)
    moved = torch.einsum("ct,bt...->bc...", linear, displacement)
    return moved + linear_displacement(matrix, displacement.shape[2:], device=displacement.device)


def zero_displacement(like: Tensor) -> Tensor:
    """A displacement of zero `[B, d, *S]` on the grid of an image `[B, C, *S]`."""
    return like.new_zeros(like.shape[0], dimension_of(like), *like.shape[2:])


def warp(image: Tensor, displacement: Tensor, *, mode: Mode = "bilinear", padding: Padding = "zeros") -> Tensor:
    """Pull an image `[B, C, *M]` through a displacement `[B, d, *S]` (voxels): `image(p + u(p))`, `[B, C, *S]`.

    The image may lie on a grid of another size than the displacement; both count in the same voxels from the same
    first voxel. Outside the image the value is 0 (`zeros`) or that of the nearest edge (`border`). Differentiable in
    both arguments, twice. This is the only sampler of the library.
    """
    batch = max(image.shape[0], displacement.shape[0])
    if image.shape[0] != batch:
        image = image.expand(batch, *image.shape[1:])
    if displacement.shape[0] != batch:
        displacement = displacement.expand(batch, *displacement.shape[1:])
    if mode == "bilinear" and volumes.can_warp(image, displacement):
        return _FusedWarp.apply(image, displacement, padding)
    return _sample(image, displacement, mode, padding)


def sample_at(image: Tensor, coordinates: Tensor, *, mode: Mode = "bilinear", padding: Padding = "zeros") -> Tensor:
    """Values of an image `[B, C, *M]` at voxel coordinates `[B, d, *S]`: `[B, C, *S]`."""
    grid = identity_grid(coordinates.shape[2:], dtype=coordinates.dtype, device=coordinates.device)
    return warp(image, coordinates - grid, mode=mode, padding=padding)


def move_points(displacement: Tensor, points: Tensor) -> Tensor:
    """`p + u(p)` of points `[N, d]` in voxels, through `[1, d, *S]`; beyond the grid it goes on as at its border."""
    d = points.shape[1]
    at = points.T.reshape(1, d, *[1] * (d - 1), -1)
    return points + sample_at(displacement, at, padding="border").reshape(d, -1).T


def _sample(image: Tensor, displacement: Tensor, mode: Mode, padding: Padding) -> Tensor:
    """`warp` by torch's own sampler: works everywhere, differentiable twice."""
    dimension, shape = dimension_of(displacement), displacement.shape[2:]
    coordinates = displacement + identity_grid(shape, dtype=displacement.dtype, device=displacement.device)
    if padding == "zeros":
        image, coordinates = _widen(image, coordinates)
    scale = displacement.new_tensor([2 / max(n - 1, 1) for n in image.shape[2:]]).view(1, -1, *[1] * dimension)
    # torch's sampler crashes on NaN; 5 lies more than a voxel outside an image of any size.
    grid = (coordinates * scale - 1).nan_to_num(nan=5.0).clamp(-5, 5).flip(1).movedim(1, -1)
    slabs = _slabs(image, displacement)
    # grid_sample runs one thread per batch item: slabs of the grid become batch items, with identical values.
    if slabs > 1:
        grid = grid.reshape(slabs, shape[0] // slabs, *grid.shape[2:])
        image = image.expand(slabs, *image.shape[1:])
    values = F.grid_sample(image, grid.to(image.dtype), mode=mode, padding_mode=padding, align_corners=True)
    if slabs > 1:
        values = values.movedim(1, 0).reshape(1, values.shape[1], *shape)
    return values


def _widen(image: Tensor, coordinates: Tensor) -> tuple[Tensor, Tensor]:
    """Put zeros around axes of one voxel: they have no extent, so torch's sampler cannot see what lies outside."""
    single = [int(n == 1) for n in image.shape[2:]]
    if not any(single):
        return image, coordinates
    image = F.pad(image, [width for n in reversed(single) for width in (n, n)])
    return image, coordinates + coordinates.new_tensor(single).view(1, -1, *[1] * len(single))


def _slabs(image: Tensor, displacement: Tensor) -> int:
    """How many slabs to cut a grid of batch size one into on a CPU."""
    if displacement.shape[0] > 1 or displacement.is_cuda or image.requires_grad:
        return 1
    threads = torch.get_num_threads()
    return next((n for n in range(threads, 1, -1) if displacement.shape[2] % n == 0), 1)


class _FusedWarp(torch.autograd.Function):
    """`warp` by the fused CPU kernel, with the kernel's own first derivative and torch's second."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, displacement: Tensor, padding: Padding) -> Tensor:
        ctx.save_for_backward(image, displacement)
        ctx.padding = padding
        return volumes.warp(image, displacement, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, displacement = ctx.saved_tensors
        wants_image, wants_displacement = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # a second derivative will follow
            values = _sample(image, displacement, "bilinear", ctx.padding)
            wanted = [t for t in (image, displacement) if t.requires_grad]
            found = iter(torch.autograd.grad(values, wanted, grad, create_graph=True))
            return next(found) if wants_image else None, next(found) if wants_displacement else None, None
        grad_image = _image_gradient(image, displacement, grad, ctx.padding) if wants_image else None
        if wants_displacement:
            return grad_image, volumes.warp_gradient(image, displacement, grad, ctx.padding), None
        return grad_image, None, None


def _image_gradient(image: Tensor, displacement: Tensor, grad: Tensor, padding: Padding) -> Tensor:
    with torch.enable_grad():
        image = image.detach().requires_grad_()
        values = _sample(image, displacement, "bilinear", padding)
    return torch.autograd.grad(values, image, grad)[0]


def compose(new: Tensor, old: Tensor) -> Tensor:
    """Follow `new`, then `old`: `u(p) = new(p) + old(p + new(p))`, the displacement of `old o new`.

    An image pulled through the result equals `warp(warp(image, old), new)` without the second interpolation.
    """
    return new + warp(old, new, padding="border")


@dataclass(frozen=True)
class Inverse:
    """An inverse displacement `[B, d, *S]` and how far `u(p + v(p)) + v(p)` is from zero (voxels)."""

    displacement: Tensor
    mean_residual: float
    max_residual: float


def preimage(
    displacement: Tensor,
    coordinates: Tensor,
    *,
    start: Tensor | None = None,
    iterations: int = 50,
    tolerance: float = 1e-3,
) -> Tensor:
    """Where each point came from: `x` with `x + u(x) = p`.

    The fixed point `x <- p - u(x)`: a few sweeps over all points, then steps for those that are left, halved wherever
    they do not lead closer. Where `u` is steep, whole steps would jump to and fro for ever.

    Args:
        displacement: `u`, `[B, d, *M]` in voxels; beyond the grid it goes on as at its border.
        coordinates: `p`, `[B, d, *S]` in voxels of that grid.
        start: where to begin, like `coordinates`; None for `p` itself.
        iterations: at most, sweeps included.
        tolerance: voxels by which `x + u(x)` may miss `p`.

    Returns:
        `x`, `[B, d, *S]`.
    """
    grid = identity_grid(coordinates.shape[2:], dtype=coordinates.dtype, device=coordinates.device)
    target = (coordinates - grid).expand(displacement.shape[0], *coordinates.shape[1:])
    shift = target if start is None else start - grid
    for _ in range(min(SWEEPS, iterations)):
        shift = target - warp(displacement, shift, padding="border")
    miss = (shift + warp(displacement, shift, padding="border") - target).norm(dim=1)
    found = grid + shift
    for item, left in enumerate(miss > tolerance):
        u, p = displacement[item : item + 1], (grid[0] + target[item])[:, left]
        found[item][:, left] = _settled(u, p, found[item][:, left], iterations - SWEEPS, tolerance)
    return found


def _settled(displacement: Tensor, points: Tensor, start: Tensor, iterations: int, tolerance: float) -> Tensor:
    """`preimage` of points `[d, N]` by careful steps, of those alone that still miss."""
    found, pace = start.clone(), torch.ones_like(start[0])
    before, left = torch.full_like(pace, torch.inf), torch.arange(len(pace), device=pace.device)
    as_image = (1, len(points), *[1] * (len(points) - 1), -1)
    for _ in range(iterations):
        if not len(left):
            break
        here = found[:, left]
        moved = sample_at(displacement, here.reshape(as_image), padding="border").reshape_as(here)
        miss = here + moved - points[:, left]
        distance = miss.norm(dim=0)
        pace[left] = torch.where(distance > 0.8 * before[left], (pace[left] / 2).clamp(min=1 / 16), pace[left])
        found[:, left], before[left] = here - pace[left] * miss, distance
        left = left[distance > tolerance]
    return found


def invert(displacement: Tensor, *, iterations: int = 50, tolerance: float = 1e-3) -> Inverse:
    """Invert `id + u` on its own grid by `preimage`, until no voxel misses by more than `tolerance`."""
    shape = displacement.shape[2:]
    identity = identity_grid(shape, dtype=displacement.dtype, device=displacement.device)
    inverse = preimage(displacement, identity, iterations=iterations, tolerance=tolerance) - identity
    residual = (inverse + warp(displacement, inverse, padding="border")).norm(dim=1)
    return Inverse(inverse, residual.mean().item(), residual.max().item())


def integrate(velocity: Tensor, *, steps: int = 7) -> Tensor:
    """Displacement at time 1 of the flow of a stationary velocity `[B, d, *S]` by scaling and squaring."""
    displacement = velocity / 2**steps
    for _ in range(steps):
        displacement = compose(displacement, displacement)
    return displacement


def resize(image: Tensor, shape: Sequence[int], *, mode: Mode = "bilinear") -> Tensor:
    """Resample `[B, C, *S]` to another number of voxels over the same extent between corner voxels' centres."""
    if tuple(image.shape[2:]) == tuple(shape):
        return image
    if mode == "nearest":
        for axis, (old, new) in enumerate(zip(image.shape[2:], shape, strict=True), start=2):
            nearest = torch.linspace(0, old - 1, new, device=image.device).round().long()
            image = image.index_select(axis, nearest)
        return image
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[dimension_of(image)]
    return F.interpolate(image, size=tuple(shape), mode=linear, align_corners=True)


def resize_displacement(displacement: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample a displacement to another number of voxels; its values scale by `(N_new - 1) / (N_old - 1)` per axis."""
    old = displacement.shape[2:]
    if tuple(old) == tuple(shape):
        return displacement
    ratio = [(n - 1) / (o - 1) if o > 1 else 1.0 for n, o in zip(shape, old, strict=True)]
    scale = displacement.new_tensor(ratio).view(1, -1, *[1] * len(ratio))
    return resize(displacement, shape) * scale


def difference(values: Tensor, axis: int) -> Tensor:
    """Derivative per voxel along a spatial axis: central differences, one-sided at the two ends."""
    axis += 2
    if values.shape[axis] == 1:
        return torch.zeros_like(values)
    return torch.gradient(values, dim=axis)[0]


def jacobian(displacement: Tensor) -> Tensor:
    """Matrix `I + du_c/dp_a`, `[B, c, a, *S]`, of a displacement in voxels."""
    dimension = dimension_of(displacement)
    matrix = torch.stack([difference(displacement, axis) for axis in range(dimension)], dim=2)
    return matrix + torch.eye(dimension, dtype=matrix.dtype, device=matrix.device).view(
        1, dimension, dimension, *[1] * dimension
    )


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """`det(I + grad u)`, `[B, 1, *S]`: above 1 a fixed voxel covers more of the moving image; 0 or less is a folding.

    The value is the same in voxels and in millimetres, whatever the spacing and the direction of the grid.
    """
    if volumes.can_differentiate(displacement):
        return volumes.jacobian_determinant(displacement)
    d = dimension_of(displacement)
    rows = [[difference(displacement[:, c : c + 1], a) + float(a == c) for a in range(d)] for c in range(d)]
    if d == 2:
        (a, b), (c, e) = rows
        return a * e - b * c
    (a, b, c), (e, f, g), (h, i, j) = rows
    return a * (f * j - g * i) - b * (e * j - g * h) + c * (e * i - f * h)


def folding_fraction(displacement: Tensor, mask: Tensor | None = None) -> float:
    """Share of voxels (of a mask `[B, 1, *S]`) where the Jacobian determinant is 0 or less."""
    folded = jacobian_determinant(displacement) <= 0
    if mask is not None:
        folded = folded[(mask > 0).expand_as(folded)]
    return folded.double().mean().item() if folded.numel() else 0.0


def gaussian_taps(sigma: float) -> Tensor:
    """A normalised Gaussian of standard deviation `sigma` voxels, cut at three of them; `[1]` for `sigma` 0."""
    radius = int(3 * sigma + 0.5)
    steps = torch.arange(-radius, radius + 1, dtype=torch.float64)
    taps = torch.exp(-0.5 * (steps / max(sigma, 1e-6)) ** 2)
    return taps / taps.sum()


def gaussian_smooth(image: Tensor, sigma: float | Sequence[float]) -> Tensor:
    """Smooth `[B, C, *S]` by a Gaussian of `sigma` voxels (one value, or one for each axis), edges repeated."""
    dimension = dimension_of(image)
    sigmas = [sigma] * dimension if isinstance(sigma, (int, float)) else list(sigma)
    taps = [gaussian_taps(s) for s in sigmas]
    for axis, weights in enumerate(taps):
        if weights.numel() > 1:
            image = _filter(image, weights.to(image), axis + 2)
    return image


def _filter(image: Tensor, taps: Tensor, axis: int) -> Tensor:
    """Filter along one axis, edges repeated.

    A product with a banded matrix: on a CPU ten times as fast as `conv1d`, whose rows have one channel.
    """
    size, radius = image.shape[axis], taps.numel() // 2
    steps = torch.arange(-radius, radius + 1, device=image.device)
    sources = (torch.arange(size, device=image.device)[:, None] + steps).clamp(0, size - 1)
    matrix = taps.new_zeros(size, size).scatter_add_(1, sources, taps.expand(size, -1))
    with torch.autocast(image.device.type, enabled=False):  # displacements are smoothed too: never in half precision
        if axis == image.ndim - 1:
            return image @ matrix.T
        return (matrix @ image.flatten(axis + 1)).view(image.shape)


def remove_folding(displacement: Tensor, *, minimum: float = 0.01, rounds: int = 60) -> Tensor:
    """Smooth a displacement around its foldings until every Jacobian determinant is above `minimum`.

    Nothing changes where nothing is folded. The neighbourhood that is smoothed grows with the rounds.
    """
    for attempt in range(rounds):
        folded = (jacobian_determinant(displacement) <= minimum).to(displacement.dtype)
        if not folded.any():
            return displacement
        reach = 1 + attempt // 10
        near = F.max_pool2d if dimension_of(displacement) == 2 else F.max_pool3d
        blend = gaussian_smooth(near(folded, 4 * reach + 1, 1, 2 * reach), float(reach))
        displacement = displacement + blend * (gaussian_smooth(displacement, float(reach)) - displacement)
    return displacement
