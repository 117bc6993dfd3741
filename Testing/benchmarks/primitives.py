"""What the building blocks cost against their floors: python primitives.py [--side 192] [--threads 2] [--json FILE]

The floor of a primitive is the larger of two times: its bytes (inputs read once, outputs written once) at the measured
speed of a copy, and its floating point operations at the measured speed of a matrix product. Medians of repeated runs.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.conv_gru import ConvGRU
from RecurrentRegistrationLib.layers.local_correlation import local_correlation
from RecurrentRegistrationLib.losses.similarity import LocalCorrelation

FLOAT = 4  # bytes
FEATURES = (40, 48, 56)  # a brain at quarter resolution
CHANNELS = 32


@dataclass(frozen=True)
class Primitive:
    """A function to time, with the bytes it must move and the operations it must do."""

    name: str
    call: Callable[[], object]
    bytes: float
    operations: float


@dataclass(frozen=True)
class Cost:
    """Seconds measured, floors in bytes and operations, and the ratio to the larger floor's seconds."""

    name: str
    seconds: float
    gigabytes: float
    gigaflop: float
    floor_seconds: float
    ratio: float
    bound: str


def median_seconds(call: Callable[[], object], *, budget: float = 3.0) -> float:
    """Median time of a call, repeated for about `budget` seconds after one call that warms up."""
    call()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < 50):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def copy_speed(count: int = 2**26) -> float:
    """Bytes per second of a copy, read and written."""
    source, target = torch.rand(count), torch.empty(count)
    return 2 * FLOAT * count / median_seconds(lambda: target.copy_(source))


def product_speed(size: int = 2048) -> float:
    """Floating point operations per second of a matrix product."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    return 2 * size**3 / median_seconds(lambda: a @ b)


def smooth_displacement(side: int, voxels: float = 4.0) -> Tensor:
    """A smooth random displacement `[1, 3, side, side, side]` of some voxels."""
    coarse = voxels * torch.randn(1, 3, side // 16 + 2, side // 16 + 2, side // 16 + 2)
    return spatial.resize(coarse, (side, side, side))


def primitives(side: int) -> list[Primitive]:
    """The primitives at full resolution (`side` cubed) and, for networks, at quarter resolution."""
    torch.manual_seed(0)
    voxels, cells = side**3, FEATURES[0] * FEATURES[1] * FEATURES[2]
    image, other = torch.rand(2, 1, 1, side, side, side)
    displacement = smooth_displacement(side)
    lncc = LocalCorrelation(radius=2)
    warped = other.clone().requires_grad_()
    fixed, moving = torch.randn(2, 1, CHANNELS, *FEATURES)
    gru = ConvGRU(3, CHANNELS, CHANNELS).eval().requires_grad_(False)
    shifts = 7**3

    def lncc_with_gradient() -> None:
        torch.autograd.grad(lncc(image, warped), warped)

    return [
        # Trilinear: three sums and seven interpolations of three operations a channel.
        Primitive("warp", lambda: spatial.warp(image, displacement), voxels * 5 * FLOAT, voxels * (3 + 21)),
        Primitive(
            "compose", lambda: spatial.compose(displacement, displacement), voxels * 9 * FLOAT, voxels * (3 + 66)
        ),
        Primitive(
            "integrate, 7 squarings",
            lambda: spatial.integrate(displacement, steps=7),
            7 * voxels * 6 * FLOAT,
            7 * voxels * (3 + 66),
        ),
        # Nine differences of two operations and a determinant of fourteen.
        Primitive(
            "Jacobian determinant",
            lambda: spatial.jacobian_determinant(displacement),
            voxels * 4 * FLOAT,
            voxels * (9 * 2 + 14),
        ),
        # Five sums along three axes, one addition and one subtraction each where they run.
        Primitive("LNCC", lambda: lncc(image, other), voxels * 2 * FLOAT, voxels * (5 * 3 * 2 + 20)),
        Primitive("LNCC and gradient", lncc_with_gradient, voxels * 3 * FLOAT, voxels * 2 * (5 * 3 * 2 + 20)),
        Primitive(
            "local correlation, radius 3, 32 channels",
            lambda: local_correlation(fixed, moving, 3),
            cells * (2 * CHANNELS + shifts) * FLOAT,
            cells * shifts * CHANNELS * 2,
        ),
        Primitive(
            "ConvGRU 32 + 32",
            lambda: gru(fixed, moving),
            cells * 3 * CHANNELS * FLOAT,
            cells * 27 * (2 * CHANNELS) * (3 * CHANNELS) * 2,
        ),
    ]


def measure(primitive: Primitive, bandwidth: float, peak: float) -> Cost:
    """Time a primitive and compare it with its floor."""
    with torch.inference_mode(mode="gradient" not in primitive.name):
        seconds = median_seconds(primitive.call)
    by_bytes, by_operations = primitive.bytes / bandwidth, primitive.operations / peak
    floor = max(by_bytes, by_operations)
    return Cost(
        primitive.name,
        seconds,
        primitive.bytes / 1e9,
        primitive.operations / 1e9,
        floor,
        seconds / floor,
        "bytes" if by_bytes >= by_operations else "operations",
    )


def main(
    side: Annotated[int, typer.Option(help="Side of the full-resolution volumes")] = 192,
    threads: Annotated[int, typer.Option(help="Threads of torch")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers here")] = None,
) -> None:
    """Time warp, compose, Jacobian, LNCC, local correlation and ConvGRU on the CPU."""
    torch.set_num_threads(threads)
    bandwidth, peak = copy_speed(), product_speed()
    costs = [measure(primitive, bandwidth, peak) for primitive in primitives(side)]
    table = Table(
        title=f"{side}³, {threads} threads; copy {bandwidth / 1e9:.1f} GB/s, product {peak / 1e9:.0f} GFLOP/s"
    )
    for heading in ("primitive", "ms", "GB", "GFLOP", "floor ms", "× floor", "bound by"):
        table.add_column(heading, justify="left" if heading in ("primitive", "bound by") else "right")
    for cost in costs:
        table.add_row(
            cost.name,
            f"{1e3 * cost.seconds:.1f}",
            f"{cost.gigabytes:.2f}",
            f"{cost.gigaflop:.2f}",
            f"{1e3 * cost.floor_seconds:.1f}",
            f"{cost.ratio:.1f}",
            cost.bound,
        )
    Console().print(table)
    if json_file is not None:
        speeds = {"copy_bytes_per_second": bandwidth, "product_flops": peak, "side": side, "threads": threads}
        json_file.write_text(json.dumps(speeds | {"primitives": [asdict(cost) for cost in costs]}, indent=1))


if __name__ == "__main__":
    typer.run(main)
