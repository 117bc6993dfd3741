"""What the building blocks cost, against plain torch and against their floors.

    python primitives.py [--side 192] [--threads 2] [--device auto] [--json FILE]

The floor of a primitive is the larger of two times: its bytes (inputs read once, outputs written once) at the measured
speed of a copy, and its floating point operations at the measured speed of a matrix product. The plain version is what
one writes first: a few calls of torch, no kernel of ours. Medians of repeated runs.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.conv_gru import ConvGRU
from RecurrentRegistrationLib.layers.linear_warp import linear_warp
from RecurrentRegistrationLib.layers.local_correlation import local_correlation
from RecurrentRegistrationLib.losses.similarity import LocalCorrelation, MutualInformation

FLOAT = 4  # bytes
FEATURES = (40, 48, 56)  # a brain at quarter resolution
CHANNELS = 32
RADIUS = 3  # of the local correlation
WINDOW = 2  # radius of the LNCC
SIGMA = 2.0  # voxels


@dataclass(frozen=True)
class Primitive:
    """A function to time, its plain version, the bytes it must move and the operations it must do."""

    name: str
    call: Callable[[], object]
    plain: Callable[[], object]
    bytes: float
    operations: float


@dataclass(frozen=True)
class Cost:
    """Seconds measured, floors in bytes and operations, and the ratio to the larger floor's seconds."""

    name: str
    seconds: float
    plain_seconds: float
    gigabytes: float
    gigaflop: float
    floor_seconds: float
    ratio: float
    bound: str


class Stopwatch:
    """Median times of calls on a device."""

    def __init__(self, device: torch.device, budget: float = 3.0) -> None:
        self._wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        self._budget = budget

    def __call__(self, call: Callable[[], object]) -> float:
        """Median seconds of a call, repeated for some seconds after one call that warms up."""
        call()
        times: list[float] = []
        while len(times) < 3 or (sum(times) < self._budget and len(times) < 50):
            self._wait()
            start = time.perf_counter()
            call()
            self._wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)


def copy_speed(seconds: Stopwatch, device: torch.device, count: int = 2**26) -> float:
    """Bytes per second of a copy, read and written."""
    source, target = torch.rand(2, count, device=device)
    return 2 * FLOAT * count / seconds(lambda: target.copy_(source))


def product_speed(seconds: Stopwatch, device: torch.device) -> float:
    """Floating point operations per second of a matrix product."""
    size = 2048 if device.type == "cpu" else 8192
    a, b = torch.rand(2, size, size, device=device)
    return 2 * size**3 / seconds(lambda: a @ b)


def plain_warp(image: Tensor, displacement: Tensor, padding: str = "zeros") -> Tensor:
    """A grid made by hand and `grid_sample`."""
    shape = displacement.shape[2:]
    axes = [torch.arange(n, dtype=torch.float32, device=image.device) for n in shape]
    coordinates = displacement + torch.stack(torch.meshgrid(*axes, indexing="ij"))
    unit = [2 * coordinates[:, c] / (n - 1) - 1 for c, n in enumerate(shape)]
    grid = torch.stack(unit[::-1], dim=-1)
    return F.grid_sample(image, grid, padding_mode=padding, align_corners=True)


def plain_linear_warp(image: Tensor, matrix: Tensor) -> Tensor:
    """`affine_grid` and `grid_sample`; the matrix is in their units."""
    return F.grid_sample(image, F.affine_grid(matrix, list(image.shape), align_corners=True), align_corners=True)


def plain_mutual_information(fixed: Tensor, warped: Tensor, bins: int = 32) -> Tensor:
    """Two linear shares of each voxel, added up by `index_add`."""
    rows = (fixed.flatten() * (bins - 1)).round().long() * bins
    position = warped.flatten() * (bins - 1)
    low = position.detach().floor().long().clamp_max(bins - 2)
    share = position - low
    table = share.new_zeros(bins * bins).index_add(0, rows + low, 1 - share).index_add(0, rows + low + 1, share)
    joint = table.view(bins, bins) / table.sum()
    entropies = [-torch.special.xlogy(p, p.clamp_min(1e-12)).sum() for p in (joint.sum(0), joint.sum(1), joint)]
    return 2 - (entropies[0] + entropies[1]) / entropies[2]


def plain_jacobian_determinant(displacement: Tensor) -> Tensor:
    """All derivatives in one tensor, then the determinant of every voxel's matrix."""
    matrix = torch.stack(torch.gradient(displacement, dim=(2, 3, 4)), dim=-1).movedim(1, -2)
    return torch.linalg.det(matrix + torch.eye(3, device=displacement.device))


def plain_lncc(fixed: Tensor, warped: Tensor) -> Tensor:
    """Window sums by convolutions with ones."""
    side = 2 * WINDOW + 1
    ones, count = torch.ones(1, 1, side, side, side, device=fixed.device), side**3
    f, w, ff, ww, fw = (
        F.conv3d(values, ones, padding=WINDOW) / count
        for values in (fixed, warped, fixed * fixed, warped * warped, fixed * warped)
    )
    return 1 - ((fw - f * w).square() / ((ff - f * f) * (ww - w * w) + 1e-5)).mean()


def plain_smoothing(image: Tensor) -> Tensor:
    """Three convolutions, one for each axis."""
    taps = spatial.gaussian_taps(SIGMA).to(image)
    radius = len(taps) // 2
    image = F.pad(image, (radius,) * 6, mode="replicate")
    for axis in range(3):
        image = F.conv3d(image, taps.view([-1 if a == axis else 1 for a in range(3)])[None, None])
    return image


def plain_local_correlation(fixed: Tensor, moving: Tensor) -> Tensor:
    """One shift after the other, stacked."""
    padded = F.pad(moving, (RADIUS,) * 6)
    rows = []
    for shift in itertools.product(range(2 * RADIUS + 1), repeat=3):
        region = [slice(s, s + n) for s, n in zip(shift, fixed.shape[2:], strict=True)]
        rows.append((fixed * padded[(..., *region)]).sum(1) / CHANNELS**0.5)
    return torch.stack(rows, dim=1)


class PlainGRU(nn.Module):
    """A convolution for each gate."""

    def __init__(self) -> None:
        super().__init__()
        self.z, self.r, self.q = (nn.Conv3d(2 * CHANNELS, CHANNELS, 3, padding=1) for _ in range(3))

    def forward(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        """The next hidden state."""
        z = torch.sigmoid(self.z(torch.cat([hidden, inputs], 1)))
        r = torch.sigmoid(self.r(torch.cat([hidden, inputs], 1)))
        q = torch.tanh(self.q(torch.cat([r * hidden, inputs], 1)))
        return (1 - z) * hidden + z * q


def gradient_of(function: Callable[..., Tensor], *arguments: Tensor) -> Callable[[], object]:
    """A call that computes a function and its derivative by the last argument, or by all that require one."""
    wanted = [argument for argument in arguments if argument.requires_grad]
    return lambda: torch.autograd.grad(function(*arguments).sum(), wanted)


def primitives(side: int, device: torch.device) -> list[Primitive]:
    """The primitives at full resolution (`side` cubed) and, for networks, at quarter resolution."""
    torch.manual_seed(0)
    voxels, cells = side**3, FEATURES[0] * FEATURES[1] * FEATURES[2]
    image, other = torch.rand(2, 1, 1, side, side, side, device=device)
    coarse = 4 * torch.randn(1, 3, *[side // 16 + 2] * 3, device=device)
    u = spatial.resize(coarse, (side, side, side))  # a smooth displacement of some voxels
    lncc = LocalCorrelation(radius=WINDOW)
    warped = other.clone().requires_grad_()
    mutual = MutualInformation()
    turn = torch.tensor([[0.99, 0.1, 0.05, 0.0], [-0.1, 0.99, 0.02, 0.0], [-0.05, -0.02, 0.99, 0.0]], device=device)
    turn = turn[None].requires_grad_()
    fixed, moving = torch.randn(2, 1, CHANNELS, *FEATURES, device=device)
    leaves = fixed.clone().requires_grad_(), moving.clone().requires_grad_()
    gru, plain_gru = (
        net.to(device).eval().requires_grad_(False) for net in (ConvGRU(3, CHANNELS, CHANNELS), PlainGRU())
    )
    shifts = (2 * RADIUS + 1) ** 3
    mixing = nn.Conv3d(shifts, 8, 1).to(device).requires_grad_(False)
    taps = len(spatial.gaussian_taps(SIGMA))
    volume_bytes, feature_bytes = voxels * FLOAT, cells * CHANNELS * FLOAT
    products = cells * shifts * CHANNELS * 2

    def turned(volume: Tensor, matrix: Tensor) -> Tensor:
        return linear_warp(volume, matrix, volume.shape[2:])[0]

    def correlate(f: Tensor, m: Tensor) -> Tensor:
        return local_correlation(f, m, RADIUS)

    def correlate_and_mix(f: Tensor, m: Tensor) -> Tensor:
        return local_correlation(f, m, RADIUS, projection=mixing)

    def plain_and_mix(f: Tensor, m: Tensor) -> Tensor:
        return mixing(plain_local_correlation(f, m))

    return [
        # Trilinear: three sums and seven interpolations of three operations a channel.
        Primitive(
            "warp", lambda: spatial.warp(image, u), lambda: plain_warp(image, u), 5 * volume_bytes, voxels * (3 + 21)
        ),
        Primitive(
            "compose",
            lambda: spatial.compose(u, u),
            lambda: u + plain_warp(u, u, "border"),
            9 * volume_bytes,
            voxels * (3 + 66),
        ),
        # The nine products of a point, made anew for each voxel, and the interpolation.
        Primitive(
            "linear warp",
            lambda: turned(image, turn),
            lambda: plain_linear_warp(image, turn),
            2 * volume_bytes,
            voxels * (18 + 21),
        ),
        Primitive(
            "linear warp and gradient",
            gradient_of(turned, image, turn),
            gradient_of(plain_linear_warp, image, turn),
            3 * volume_bytes,
            voxels * (18 + 21 + 18 + 40),
        ),
        # Nine differences of two operations and a determinant of fourteen.
        Primitive(
            "Jacobian determinant",
            lambda: spatial.jacobian_determinant(u),
            lambda: plain_jacobian_determinant(u),
            4 * volume_bytes,
            voxels * (9 * 2 + 14),
        ),
        # Five sums along three axes, one addition and one subtraction each where they run.
        Primitive(
            "LNCC",
            lambda: lncc(image, other),
            lambda: plain_lncc(image, other),
            2 * volume_bytes,
            voxels * (5 * 3 * 2 + 20),
        ),
        Primitive(
            "LNCC and gradient",
            gradient_of(lncc, image, warped),
            gradient_of(plain_lncc, image, warped),
            3 * volume_bytes,
            voxels * 2 * (5 * 3 * 2 + 20),
        ),
        # Four shares of a voxel, some fifteen operations, and their four additions.
        Primitive(
            "mutual information",
            lambda: mutual(image, other),
            lambda: plain_mutual_information(image, other),
            2 * volume_bytes,
            voxels * 19,
        ),
        Primitive(
            "mutual information and gradient",
            gradient_of(mutual, image, warped),
            gradient_of(plain_mutual_information, image, warped),
            3 * volume_bytes,
            voxels * 2 * 19,
        ),
        Primitive(
            f"Gaussian smoothing, sigma {SIGMA:g}",
            lambda: spatial.gaussian_smooth(image, SIGMA),
            lambda: plain_smoothing(image),
            2 * volume_bytes,
            voxels * 3 * taps * 2,
        ),
        Primitive(
            f"local correlation, radius {RADIUS}, {CHANNELS} channels",
            lambda: correlate(fixed, moving),
            lambda: plain_local_correlation(fixed, moving),
            2 * feature_bytes + cells * shifts * FLOAT,
            products,
        ),
        Primitive(
            "the same, mixed to 8 channels",
            lambda: correlate_and_mix(fixed, moving),
            lambda: plain_and_mix(fixed, moving),
            2 * feature_bytes + cells * 8 * FLOAT,
            products + cells * shifts * 8 * 2,
        ),
        Primitive(
            "the same, mixed, and gradient",
            gradient_of(correlate_and_mix, *leaves),
            gradient_of(plain_and_mix, *leaves),
            6 * feature_bytes + cells * 8 * FLOAT,
            3 * products + 2 * cells * shifts * 8 * 2,
        ),
        Primitive(
            f"ConvGRU {CHANNELS} + {CHANNELS}",
            lambda: gru(fixed, moving),
            lambda: plain_gru(fixed, moving),
            3 * feature_bytes,
            cells * 27 * (2 * CHANNELS) * (3 * CHANNELS) * 2,
        ),
    ]


def measure(primitive: Primitive, seconds: Stopwatch, bandwidth: float, peak: float) -> Cost:
    """Time a primitive and its plain version, and compare it with its floor."""
    with torch.inference_mode(mode="gradient" not in primitive.name):
        ours, plain = seconds(primitive.call), seconds(primitive.plain)
    by_bytes, by_operations = primitive.bytes / bandwidth, primitive.operations / peak
    floor = max(by_bytes, by_operations)
    return Cost(
        primitive.name,
        ours,
        plain,
        primitive.bytes / 1e9,
        primitive.operations / 1e9,
        floor,
        ours / floor,
        "bytes" if by_bytes >= by_operations else "operations",
    )


def main(
    side: Annotated[int, typer.Option(help="Side of the full-resolution volumes")] = 192,
    threads: Annotated[int, typer.Option(help="Threads of torch on the CPU")] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto for a GPU where there is one")] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers here")] = None,
) -> None:
    """Time warps, compose, Jacobian, LNCC, mutual information, smoothing, local correlation and ConvGRU."""
    torch.set_num_threads(threads)
    place = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    seconds = Stopwatch(place)
    bandwidth, peak = copy_speed(seconds, place), product_speed(seconds, place)
    costs = [measure(primitive, seconds, bandwidth, peak) for primitive in primitives(side, place)]
    where = torch.cuda.get_device_name() if place.type == "cuda" else f"CPU, {threads} threads"
    table = Table(title=f"{side}³, {where}; copy {bandwidth / 1e9:.1f} GB/s, product {peak / 1e9:.0f} GFLOP/s")
    for heading in (
        "primitive",
        "ms",
        "plain torch ms",
        "times faster",
        "GB",
        "GFLOP",
        "floor ms",
        "× floor",
        "bound by",
    ):
        table.add_column(heading, justify="left" if heading in ("primitive", "bound by") else "right")
    for cost in costs:
        table.add_row(
            cost.name,
            f"{1e3 * cost.seconds:.1f}",
            f"{1e3 * cost.plain_seconds:.1f}",
            f"{cost.plain_seconds / cost.seconds:.1f}",
            f"{cost.gigabytes:.2f}",
            f"{cost.gigaflop:.2f}",
            f"{1e3 * cost.floor_seconds:.1f}",
            f"{cost.ratio:.1f}",
            cost.bound,
        )
    Console().print(table)
    if json_file is not None:
        settings = {"copy_bytes_per_second": bandwidth, "product_flops": peak, "side": side, "device": where}
        json_file.write_text(
            json.dumps(settings | {"primitives": [asdict(cost) for cost in costs]}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    typer.run(main)
