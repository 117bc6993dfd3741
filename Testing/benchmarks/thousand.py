"""A thousand pairs with a method that costs nothing: interrupted, resumed, and watched for memory.

    python Testing/benchmarks/thousand.py --out DIR [--pairs 1000] [--stops 3]

Starts the benchmark, kills it after random times, starts it again until all rows are there, and says how many rows were
lost or made twice and how the memory of the process grew.
"""

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import yaml

from RecurrentRegistrationLib.benchmark.ledger import Ledger
from RecurrentRegistrationLib.transform import DisplacementField
from RecurrentRegistrationLib.volume import Grid, Volume, write_image

TINY = """
import os, sys
here, output = os.path.dirname(os.path.abspath(__file__)), sys.argv[1]
with open(os.path.join(here, "calls.txt"), "a", encoding="utf-8") as calls:
    calls.write(output + "\\n")
os.link(os.path.join(here, "zero.nrrd"), os.path.join(output, "displacement.nrrd"))
"""


def write(folder: Path, pairs: int) -> Path:
    """Two small images with labels, the method, and a manifest that names them over and over."""
    folder.mkdir(parents=True, exist_ok=True)
    grid = Grid.regular((24, 22, 20), 2.0)
    place = np.indices(grid.shape)
    for name, centre in (("fixed", 10), ("moving", 12)):
        distance = np.sqrt(((place - centre) ** 2).sum(axis=0))
        Volume(np.clip(9 - distance, 0, None).astype(np.float32)[None], grid).write(folder / f"{name}.nrrd")
        Volume((distance < 6).astype(np.uint8)[None], grid).write(folder / f"{name}_labels.nrrd")
    write_image(DisplacementField.zero(grid).to_image(), folder / "zero.nrrd")
    (folder / "tiny.py").write_text(TINY, encoding="utf-8")
    content = {
        "name": "thousand",
        "methods": {"tiny": {"command": f"{sys.executable} -S {folder / 'tiny.py'} {{output}}"}},
        **{key: f"{key}.nrrd" for key in ("fixed", "moving", "fixed_labels", "moving_labels")},
        "pairs": [{"name": f"pair_{n:04d}"} for n in range(pairs)],
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder / "manifest.yaml"


def resident_mib(process: int) -> float:
    """Memory that a process holds now, 0 where it has ended; Linux."""
    status = Path(f"/proc/{process}/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def main(
    out: Annotated[Path, typer.Option(help="Folder for everything")],
    pairs: Annotated[int, typer.Option(help="How many")] = 1000,
    stops: Annotated[int, typer.Option(help="How often it is killed")] = 3,
    seed: Annotated[int, typer.Option(help="Of the moments at which it is killed")] = 0,
) -> None:
    """Run, kill, resume, and tell."""
    out = out.absolute()
    manifest = write(out / "data", pairs)
    command = [sys.executable, "-m", "RecurrentRegistrationLib", "benchmark", str(manifest)]
    command += ["-o", str(out / "results"), "--data", str(manifest.parent), "--discard"]
    draw, rows = random.Random(seed), out / "results" / "thousand" / "rows.csv"
    limits = [*sorted(draw.sample(range(pairs // 20, pairs), stops)), pairs]
    for limit in limits:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        memory: dict[int, float] = {}
        while process.poll() is None and (limit == pairs or count(rows) < limit):
            memory[count(rows)] = resident_mib(process.pid)
            time.sleep(0.2)
        if process.poll() is None:
            process.kill()
        process.wait()
        held = {n: mib for n, mib in memory.items() if n > min(memory) + 10 and mib > 50}
        told = ", ".join(f"{held[n]:.0f} MiB at {n}" for n in (min(held), max(held))) if held else "too short to tell"
        print(f"{'finished' if limit == pairs else 'killed'} with {count(rows)} rows; {told}", flush=True)
    keys = [row["key"] for row in Ledger(rows).rows()]
    calls = len((out / "data" / "calls.txt").read_text(encoding="utf-8").splitlines())
    print(f"{len(keys)} rows, {len(set(keys))} different, {calls} registrations for {pairs} pairs and {stops} stops")
    raise typer.Exit(not (len(keys) == len(set(keys)) == pairs and calls <= pairs + stops))


def count(rows: Path) -> int:
    """Rows in a file that may not be there yet."""
    return max(0, rows.read_bytes().count(b"\n") - 1) if rows.exists() else 0


if __name__ == "__main__":
    typer.run(main)
