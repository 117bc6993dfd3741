"""Register one real brain to another with the default settings, and tell what came of it.

    python Testing/demo/brain.py --output demo

It runs the commands that anyone would: `register`, then `evaluate` with the tissue maps of both brains.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from scans import TISSUES, Brain, mni152, someone

from RecurrentRegistrationLib.errors import InputError

PROGRAM = [sys.executable, "-m", "RecurrentRegistrationLib"]


def main(output: Path) -> int:
    """Fetch, register, evaluate, print; returns the exit status."""
    console = Console()
    data, results = output / "data", output / "result"
    data.mkdir(parents=True, exist_ok=True)
    try:
        with console.status("Fetching two brains…"):
            fixed, moving = mni152(data), someone(data)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console.print(f"Registering {moving.name} (moving) to {fixed.name} (fixed), default settings.")
    began = time.perf_counter()
    status = subprocess.run([*PROGRAM, "register", str(fixed.image), str(moving.image), "-o", str(results)]).returncode
    seconds = time.perf_counter() - began
    if status != 0:
        return status
    with console.status("Comparing tissues…"):
        measured = evaluate(fixed, moving, results / "transform.h5")
    console.print(table(measured))
    folding = measured["folding"]["everywhere"]
    console.print(f"Folding:  {folding['voxels']} voxels ({folding['percent']:.4f} %)")
    console.print(f"Seconds:  {seconds:.0f}, from the command to the last file")
    console.print(f"Picture:  {results / 'report.png'}", soft_wrap=True)
    console.print(f"Files:    {results}: {', '.join(sorted(p.name for p in results.iterdir()))}", soft_wrap=True)
    return 0


def evaluate(fixed: Brain, moving: Brain, transform: Path) -> dict:
    """What the command `evaluate` measures inside the fixed brain."""
    inputs = {
        "--fixed": fixed.image,
        "--moving": moving.image,
        "--fixed-mask": fixed.image,
        "--fixed-labels": fixed.tissues,
        "--moving-labels": moving.tissues,
    }
    options = [str(word) for pair in inputs.items() for word in pair]
    command = [*PROGRAM, "evaluate", str(transform), *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def table(measured: dict) -> Table:
    """Similarity and overlap before and after."""
    view = Table("", "before", "after")
    before, after = measured["similarity"]["before"], measured["similarity"]["after"]
    view.add_row("correlation of intensities", f"{before['correlation']:.3f}", f"{after['correlation']:.3f}")
    before, after = (measured["overlap"][stage]["labels"] for stage in ("before", "after"))
    for label, name in TISSUES.items():
        view.add_row(f"Dice, {name}", f"{before[str(label)]['dice']:.3f}", f"{after[str(label)]['dice']:.3f}")
    return view


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for the scans and the results")
    sys.exit(main(parser.parse_args().output))
