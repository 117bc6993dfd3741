"""What each method costs: parameters, operations, seconds and memory of one untrained run on two random volumes.

    python Testing/benchmarks/methods.py [METHOD …] [--size 96x112x96] [--threads 2] [--seconds 120] [--gigabytes 8]

Every method runs in a process of its own. One that does not fit in the memory, or takes longer than it may, says so;
what its steps took until then is reported. Linux and macOS.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from RecurrentRegistrationLib import methods, spatial
from RecurrentRegistrationLib.errors import is_out_of_memory

SIZES = ((96, 112, 96), (160, 192, 160))


@dataclass(frozen=True)
class Limits:
    """What one run may take: processor seconds and memory."""

    threads: int
    seconds: int
    gigabytes: float


def run(name: str, size: tuple[int, ...], limits: Limits) -> None:
    """Register here and print a line of JSON when the method is made, after each step, and at the end."""
    bound = int(limits.gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds + 1))
    torch.set_num_threads(limits.threads)
    torch.manual_seed(0)
    method = methods.create(name, 3).eval()
    print(json.dumps({"parameters": sum(p.numel() for p in method.parameters())}), flush=True)
    fixed, moving = spatial.gaussian_smooth(torch.rand(2, 1, *size), 2.0).split(1)
    began, processor = time.perf_counter(), time.process_time()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            for step in method.steps(fixed, moving):
                print(json.dumps({"step": step.index, "seconds": time.perf_counter() - began}), flush=True)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(json.dumps({"full": True}), flush=True)
        return
    spent = time.process_time() - processor
    cost = {"gmac": counter.get_total_flops() / 2e9, "gigabytes": _memory(), "processor": spent}
    print(json.dumps(cost), flush=True)


def _memory() -> float:
    """Peak of this process so far in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def measured(name: str, size: tuple[int, ...], limits: Limits) -> list[dict]:
    """The lines that a run in its own process printed."""
    text = "x".join(map(str, size))
    own = ["--threads", limits.threads, "--seconds", limits.seconds, "--gigabytes", limits.gigabytes]
    command = [sys.executable, __file__, name, "--size", text, "--here", *map(str, own)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8")
    if ended.returncode not in (0, -signal.SIGXCPU, -signal.SIGKILL):
        raise SystemExit(f"error: {name} failed")
    return [json.loads(line) for line in ended.stdout.splitlines()]


def row(name: str, size: tuple[int, ...], limits: Limits) -> str:
    """A line of the table."""
    lines = measured(name, size, limits)
    parameters = next((line["parameters"] for line in lines if "parameters" in line), 0)
    times = [0.0] + [line["seconds"] for line in lines if "step" in line]
    steps = [after - before for before, after in itertools.pairwise(times)]
    per_step = f"{statistics.median(steps):.2f}" if steps else ""
    end = lines[-1] if lines else {}
    if "gmac" in end:
        whole = f"{times[-1]:.1f} | {end['processor']:.1f}"
        rest = f"{len(steps)} | {per_step} | {whole} | {end['gmac']:.1f} | {end['gigabytes']:.2f}"
    elif "full" in end:
        rest = f"{len(steps)} | {per_step} | needs more than {limits.gigabytes:g} GiB | | |"
    else:
        rest = f"{len(steps)} | {per_step} | takes more than {limits.seconds} processor seconds | | |"
    return f"| {name} | {'×'.join(map(str, size))} | {parameters} | {rest} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="METHOD", help="all, if none is given")
    parser.add_argument("--size", action="append", help="96x112x96 and 160x192x160, if none is given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=120, help="of the processor that one run may take")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="that one run may take")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    limits = Limits(arguments.threads, arguments.seconds, arguments.gigabytes)
    sizes = [tuple(map(int, text.split("x"))) for text in arguments.size] if arguments.size else SIZES
    if arguments.here:
        run(arguments.names[0], sizes[0], limits)
        return
    names = [n for n in arguments.names or methods.names() if 3 in methods.card(n).dimensions]
    print("| method | size | parameters | steps | s a step | s a pair | processor s | GMAC | peak GiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size in sizes:
        for name in names:
            print(row(name, size, limits), flush=True)


if __name__ == "__main__":
    main()
