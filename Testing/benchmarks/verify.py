"""Recover known mappings with every peer, because an adapter that mixes up axes or units cannot.

    python Testing/benchmarks/verify.py --data DIR --out DIR --peers-python .venv-peers/bin/python

At most a quarter of the known mapping may be left, which no linear registration does; exit status 1 where more is.
"""

from pathlib import Path
from typing import Annotated

import synthetic
import typer

from RecurrentRegistrationLib.benchmark import manifest, page, table
from RecurrentRegistrationLib.benchmark.programs import Programs
from RecurrentRegistrationLib.benchmark.runner import Benchmark

HERE = Path(__file__).parent
PEERS = "greedy,ants_syn,sitk_demons,sitk_bspline,elastix,convexadam"


def main(
    data: Annotated[Path, typer.Option(help="Folder of the scans that are deformed")],
    out: Annotated[Path, typer.Option(help="Folder of results")],
    peers_python: Annotated[Path, typer.Option(help="Python of the peers' environment")],
    methods: Annotated[str, typer.Option(help="Comma-separated; NAME[:option=value…]")] = PEERS,
) -> None:
    """Register the synthetic pairs and compare with the mappings that made them."""
    file = synthetic.write(data.absolute(), out.absolute() / "synthetic-pairs")
    pairs = manifest.read(file, file.parent, methods=["none", *methods.split(",")])
    benchmark = Benchmark(pairs, Programs(HERE / "peers", peers_python.absolute()), out.absolute() / pairs.name)
    for row in benchmark.run():
        print(row["pair"], row["method"], row["status"], row.get("distance_mm", row.get("message")))
    page.write(benchmark)
    wrong = not_recovered(benchmark)
    print("\n".join(wrong) or "all mappings recovered")
    raise typer.Exit(bool(wrong))


def not_recovered(benchmark: Benchmark) -> list[str]:
    """A line for each registration that left a quarter of the mapping or more."""
    frame = table.load(benchmark)
    before = frame[frame["method"] == "none"].set_index("pair")["distance_mm"]
    tried = frame[(frame["method"] != "none") & (frame["status"] != "declined")]
    left = tried["distance_mm"] / tried["pair"].map(before)
    return [
        f"not recovered: {row.pair}: {row.method}: {row.distance_mm:.2f} mm of {before[row.pair]:.2f} mm"
        for row in tried[~(left < 0.25)].itertuples()
    ]


if __name__ == "__main__":
    typer.run(main)
