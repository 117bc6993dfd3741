"""The search over poses, which needs no overlap of the headers, and the parameters of linear maps.

A map is a homogeneous matrix from fixed to moving points, LPS millimetres. It is written as a pose times
`exp(skew(w)) exp(S)` and a translation, about the centres of mass; all parameters are in millimetres at the images'
radius, so that one learning rate serves them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from RecurrentRegistrationLib.pipeline.levels import Level
from RecurrentRegistrationLib.pipeline.preparation import Prepared, foreground_box

POSES = 432  # rotations that cover all postures about 30 degrees apart
THIN = 3  # slices that are too few to tell of motion across them
MARGIN = 1.2  # times the score of the best upright one that a turned pose must have to be believed; true turns had 1.9
FAINT = 0.1  # of `Level.scores`: images that share less tell of no posture


class Parameters:
    """Millimetre parameters `[B, P]` of matrices `[B, d+1, d+1]` around given poses."""

    def __init__(
        self, poses: np.ndarray, centre: np.ndarray, radius: float, kind: str, normal: np.ndarray | None = None
    ) -> None:
        self._d = poses.shape[1] - 1
        self._poses = torch.tensor(poses, dtype=torch.float32)
        self._centres = torch.tensor(poses[:, :-1, :-1] @ centre + poses[:, :-1, -1], dtype=torch.float32)
        self._radius = radius
        self._normal = None if normal is None else torch.tensor(normal, dtype=torch.float32)
        self._turns = self._d * (self._d - 1) // 2
        self._shapes = {"rigid": 0, "affine": self._d * (self._d + 1) // 2}[kind]
        self.values = torch.zeros(poses.shape[0], self._d + self._turns + self._shapes, requires_grad=True)

    def matrices(self) -> Tensor:
        """`[B, d+1, d+1]`, differentiable in `values`."""
        d, batch = self._d, self.values.shape[0]
        shift, turn, shape = self.values.split([d, self._turns, self._shapes], dim=1)
        rows, columns = zip(*itertools.combinations(range(d), 2), strict=True)
        skew = self.values.new_zeros(batch, d, d)
        skew[:, rows, columns] = turn / self._radius
        skew = self._in_plane(skew - skew.transpose(1, 2))
        if self._normal is not None:
            shift = shift - (shift @ self._normal)[:, None] * self._normal
        linear = torch.linalg.matrix_exp(skew)
        if self._shapes:
            rows, columns = zip(*itertools.combinations_with_replacement(range(d), 2), strict=True)
            stretch = self.values.new_zeros(batch, d, d)
            stretch[:, rows, columns] = shape / self._radius
            linear = linear @ torch.linalg.matrix_exp(self._in_plane((stretch + stretch.transpose(1, 2)) / 2))
        about = self._centres + shift - torch.einsum("bij,bj->bi", linear, self._centres)
        bottom = torch.zeros(batch, 1, d + 1)
        bottom[..., -1] = 1
        matrix = torch.cat([torch.cat([linear, about[..., None]], dim=2), bottom], dim=1)
        return matrix @ self._poses

    def _in_plane(self, matrix: Tensor) -> Tensor:
        """What of a matrix `[B, d, d]` stays in the slices, where there are too few to tell of anything else."""
        if self._normal is None:
            return matrix
        flat = torch.eye(self._d) - torch.outer(self._normal, self._normal)
        return flat @ matrix @ flat


class Adam:
    """The optimiser (Kingma and Ba, ICLR 2015); PyTorch's own loads its compiler, which takes longer than the search.

    Args:
        values: what is optimised, in place.
    """

    def __init__(self, values: Tensor) -> None:
        self._values, self._count = values, 0
        self._first, self._second = torch.zeros_like(values), torch.zeros_like(values)

    @torch.no_grad()
    def step(self, gradient: Tensor, rate: float) -> None:
        """Follow a gradient."""
        self._count += 1
        self._first.lerp_(gradient, 0.1)
        self._second.lerp_(gradient.square(), 0.001)
        mean, square = self._first / (1 - 0.9**self._count), self._second / (1 - 0.999**self._count)
        self._values -= rate * mean / (square.sqrt() + 1e-8)


def fade(iteration: int, iterations: int) -> float:
    """From 1 down to a twentieth along half a cosine."""
    return 0.05 + 0.95 * (1 + math.cos(math.pi * iteration / iterations)) / 2


def extent(image: Prepared) -> list[float]:
    """Millimetres along each axis of what is not air."""
    _, size = foreground_box(image, 0.0)
    return [n * s for n, s in zip(size, image.grid.spacing, strict=True)]


def radius(image: Prepared) -> float:
    return max(extent(image)) / 2


def centre_of_mass(image: Prepared) -> np.ndarray:
    """Physical point in the middle of an image's intensities (of its mask, where it has one)."""
    values = image.mask if image.mask is not None else image.values
    total = values.sum().clamp_min(1e-6)
    d = image.grid.dimension
    index = []
    for axis in range(d):  # i first, as the grid counts
        others = [a for a in range(2 + d) if a != 1 + d - axis]
        profile = values.sum(dim=others)
        index.append(float((profile * torch.arange(profile.numel(), device=profile.device)).sum() / total))
    return image.grid.physical(index)


def thin_normal(*images: Prepared) -> np.ndarray | None:
    """The direction across the slices of 3D images that all have three or fewer, in one direction; otherwise None."""
    normals = []
    for image in images:
        thin = [axis for axis, n in enumerate(image.grid.size) if n <= THIN]
        if image.grid.dimension != 3 or len(thin) != 1:
            return None
        a, b = [image.grid.cosines[:, axis] for axis in range(3) if axis != thin[0]]
        normals.append(np.cross(a, b) / np.linalg.norm(np.cross(a, b)))
    return normals[0] if abs(normals[0] @ normals[-1]) > 0.999 else None


def rotations(dimension: int, normal: np.ndarray | None = None) -> np.ndarray:
    """Matrices `[N, d, d]` spread evenly over all rotations, the identity first; about a normal alone if there is one.

    In 3D a super-Fibonacci spiral of unit quaternions (Alexa, CVPR 2022).
    """
    if dimension == 2:
        angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
        return np.stack([[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in angles])
    if normal is not None:
        x, y, z = normal
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
        return np.stack([np.eye(3) + np.sin(a) * cross + (1 - np.cos(a)) * cross @ cross for a in angles])
    steps = np.arange(POSES) + 0.5
    first, second = 2 * np.pi * steps / math.sqrt(2), 2 * np.pi * steps / 1.533751168755204288118041
    inner, outer = np.sqrt(steps / POSES), np.sqrt(1 - steps / POSES)
    x, y, z, w = inner * np.sin(first), inner * np.cos(first), outer * np.sin(second), outer * np.cos(second)
    spread = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    halves = [np.diag(s) for s in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))]
    return np.concatenate([halves, spread.transpose(2, 0, 1)])


def _about(rotation: np.ndarray, fixed_centre: np.ndarray, moving_centre: np.ndarray) -> np.ndarray:
    """Turn about the fixed centre, then carry it to the moving centre."""
    d = len(fixed_centre)
    matrix = np.eye(d + 1)
    matrix[:d, :d] = rotation
    matrix[:d, d] = moving_centre - rotation @ fixed_centre
    return matrix


def search_poses(fixed: Prepared, moving: Prepared, level: Level, header: np.ndarray) -> tuple[np.ndarray, float, str]:
    """The best pose: of the header's posture if that is nearly as good as any other."""
    centres = centre_of_mass(fixed), centre_of_mass(moving)
    d = fixed.grid.dimension
    normal = thin_normal(fixed, moving)
    upright = {
        "the header's positions": header,
        "the centres of the images": _about(np.eye(d), fixed.grid.centre, moving.grid.centre),
        "the centres of mass": _about(np.eye(d), *centres),
    }
    turned = np.stack([_about(rotation, *centres) for rotation in rotations(d, normal)])
    keep = 24
    scores = torch.cat([level.scores(torch.tensor(p, dtype=torch.float32)) for p in np.array_split(turned, 16)])
    turned = turned[scores.topk(min(keep, len(turned))).indices.cpu().numpy()]
    poses = np.concatenate([np.stack(list(upright.values())), turned])
    size = radius(fixed)
    poses, values = _descend_all(level, poses, centres[0], size, iterations=40, normal=normal)
    fine = Level(fixed, moving, level.spacing / 1.5)
    best = np.concatenate([np.arange(len(upright)), len(upright) + np.argsort(-values[len(upright) :])[:6]])
    poses, values = _descend_all(fine, poses[best], centres[0], size, iterations=20, normal=normal)
    first = int(np.argmax(values[: len(upright)]))
    other = len(upright) + int(np.argmax(values[len(upright) :]))
    angle = _angle(poses[other])
    if values[other] > max(MARGIN * values[first], FAINT) or (angle < 25 and values[other] > values[first]):
        return poses[other], float(values[other]), f"Start: a search over all postures; turned by {angle:.0f} degrees."
    return poses[first], float(values[first]), f"Start: {list(upright)[first]}."


def _angle(matrix: np.ndarray) -> float:
    d = matrix.shape[0] - 1
    cosine = (np.trace(matrix[:d, :d]) - (d - 2)) / 2
    return math.degrees(math.acos(float(np.clip(cosine, -1, 1))))


def _descend_all(
    level: Level, poses: np.ndarray, centre: np.ndarray, radius: float, *, iterations: int, normal: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Improve many poses at once by mutual information; the best matrix and score met by each."""
    parameters = Parameters(poses, centre, radius, "rigid", normal)
    optimiser = Adam(parameters.values)
    best, matrices = torch.full((len(poses),), -torch.inf), torch.tensor(poses, dtype=torch.float32)
    for iteration in range(iterations):
        with torch.enable_grad():
            current = parameters.matrices()
            scores = level.scores(current.to(level.fixed.values.device)).cpu()
            (gradient,) = torch.autograd.grad(-scores.sum(), parameters.values)
        better = scores.detach() > best
        best = torch.where(better, scores.detach(), best)
        matrices = torch.where(better[:, None, None], current.detach(), matrices)
        optimiser.step(gradient, level.spacing * fade(iteration, iterations))
    return matrices.double().numpy(), best.numpy()


def named_start(fixed: Prepared, moving: Prepared, mode: str) -> np.ndarray:
    """Matrix of a named start: "none", "geometry" (centres of the grids), "moments" (centres of mass)."""
    d = fixed.grid.dimension
    centres: dict[str, Sequence[np.ndarray]] = {
        "none": (np.zeros(d), np.zeros(d)),
        "geometry": (fixed.grid.centre, moving.grid.centre),
    }
    pair = centres[mode] if mode in centres else (centre_of_mass(fixed), centre_of_mass(moving))
    return _about(np.eye(d), *pair)
