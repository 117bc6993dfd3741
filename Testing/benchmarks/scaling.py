"""What a training costs: steps a second and memory, on one and two processes, with and without saving memory.

    python Testing/benchmarks/scaling.py [--config FILE] [--steps 12] [--devices 1 2] [--accelerator cpu]

Each row trains anew in a process of its own on synthetic pairs; the batch is per process, so that two processes see
twice as many pairs in a step. Memory is that of one process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "synthetic" / "contrast_agnostic.yaml"
PRECISIONS = ("32-true", "bf16-mixed")


def trained(config: Path, settings: list[str]) -> dict[str, Any]:
    """The cost that a training with these settings reports."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "RecurrentRegistrationLib", "train", str(config), "-o", folder, *settings]
        subprocess.run(line, check=True, capture_output=True)
        last = max(Path(folder).rglob("model.json"), key=lambda path: path.stat().st_mtime)
        return json.loads(last.read_text(encoding="utf-8"))["cost"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--override", action="append", default=[], help="a further setting, as for 'train'")
    arguments = parser.parse_args()
    print("| processes | precision | steps recomputed | steps/s | pairs/s | GiB |\n|---|---|---|---|---|---|")
    for devices, precision, checkpoint in itertools.product(arguments.devices, PRECISIONS, (False, True)):
        settings = [
            f"--trainer.max_steps={arguments.steps}",
            f"--trainer.devices={devices}",
            f"--trainer.strategy={'ddp' if devices > 1 else 'auto'}",
            f"--trainer.accelerator={arguments.accelerator}",
            f"--trainer.precision={precision}",
            f"--model.checkpoint={str(checkpoint).lower()}",
            "--trainer.enable_progress_bar=false",
            "--data.init_args.validation_pairs=0",
            *arguments.override,
        ]
        recomputed = "yes" if checkpoint else "no"
        try:
            cost = trained(arguments.config, settings)
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip().splitlines()[-1]
            print(f"| {devices} | {precision} | {recomputed} | {reason} | | |", flush=True)
            continue
        speed, held = cost["steps_per_second"], cost["peak_memory_bytes"] / 2**30
        print(
            f"| {devices} | {precision} | {recomputed} | {speed:.2f} | {devices * speed:.2f} | {held:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
