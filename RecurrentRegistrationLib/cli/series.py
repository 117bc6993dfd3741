"""`series`: register the frames of a 2D+t or 3D+t image to one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from RecurrentRegistrationLib.cli.progress import Display


def series(
    image: Annotated[str, typer.Argument(help="A 4D image, or with --slices a 3D image whose slices are frames.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")],
    template: Annotated[int, typer.Option(help="Number of the frame that stays, from 0.")] = 0,
    slices: Annotated[
        bool, typer.Option("--slices", help="Take the slices of a 3D image as frames over time.")
    ] = False,
    method: Annotated[str, typer.Option(help="A method's name (see 'methods'), or auto.")] = "auto",
    preset: Annotated[str, typer.Option(help="What the images show: ct, mr, …, or auto.")] = "auto",
    initial: Annotated[str, typer.Option(help="Start of each frame: none, geometry, moments or auto.")] = "none",
    linear: Annotated[str, typer.Option(help="Linear stage before the deformation: none, rigid or affine.")] = "none",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the method (default: the method's own).")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of a trained method: a safetensors file.")] = None,
    landmarks: Annotated[
        str | None, typer.Option(help="Landmark files, '{frame}' for the number: 'points_{frame:02d}.fcsv'.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Register every frame of a series to one of them.

    Writes transforms/frame_NNN.h5 (from the template to each frame), warped/frame_NNN.nrrd, series.json with the
    principal component distances, similarity, folding and landmark errors before and after, and series.png.
    """
    from RecurrentRegistrationLib import series as library
    from RecurrentRegistrationLib.documents import to_json
    from RecurrentRegistrationLib.files import complete
    from RecurrentRegistrationLib.points import read_points
    from RecurrentRegistrationLib.registration import Options
    from RecurrentRegistrationLib.series_report import draw
    from RecurrentRegistrationLib.volume import Volume

    options = Options(
        method=method,
        preset=preset,
        initial=initial,
        linear=linear,
        steps=steps,
        weights=weights,
        device=device,
        seed=seed,
    )
    with Display(quiet=quiet) as display:
        display.phase("read")
        frames = Volume.read_sequence(image)
        frames = library.slices(frames[0]) if slices and len(frames) == 1 else frames
        files = {} if landmarks is None else {n: Path(landmarks.format(frame=n)) for n in range(len(frames))}
        points = {n: read_points(file, frames[n].grid) for n, file in files.items() if file.exists()}
        display.phase("register")
        found = []
        for frame in library.register(frames, template, options):
            found.append(frame)
            display.step(len(found), len(frames), float("nan"))
            frame.warped.write(output / "warped" / f"frame_{frame.number:03d}.nrrd")
            if frame.report:
                frame.transform.write(output / "transforms" / f"frame_{frame.number:03d}.h5")
        display.phase("evaluate")
        report = library.evaluate(found, landmarks=points)
        with complete(output / "series.json") as temporary:
            temporary.write_text(to_json(report, indent=2) + "\n", encoding="utf-8")
        with complete(output / "series.png") as temporary:
            draw(found, report).savefig(temporary, format="png")
    if not quiet:
        names = {"d_pca1": "D_PCA1", "d_pca2": "D_PCA2"}
        print(", ".join(f"{n} {report['before'][k]:.3f} to {report['after'][k]:.3f}" for k, n in names.items()))
        print(f"folding {max(report['folding_percent']):.4f} % at most; look at {output / 'series.png'}")
