"""`series`: register the frames of a 2D+t or 3D+t image to one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from RecurrentRegistrationLib.cli.progress import Display
from RecurrentRegistrationLib.cli.register import use_threads


def series(
    image: Annotated[str, typer.Argument(help="A 4D image, or with --slices a 3D image whose slices are frames.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")],
    template: Annotated[int, typer.Option(help="Number of the frame that stays, from 0.")] = 0,
    slices: Annotated[
        bool, typer.Option("--slices", help="Take the slices of a 3D image as frames over time.")
    ] = False,
    method: Annotated[str, typer.Option(help="A method's name (see 'methods'), or auto.")] = "auto",
    preset: Annotated[str, typer.Option(help="What the images show: ct, mr, …, or auto.")] = "auto",
    mask: Annotated[str | None, typer.Option(help="Where the template counts: non-zero.")] = None,
    initial: Annotated[str, typer.Option(help="Start of each frame: none, geometry, moments or auto.")] = "none",
    linear: Annotated[str, typer.Option(help="Linear stage before the deformation: none, rigid or affine.")] = "none",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the method (default: the method's own).")] = None,
    refine: Annotated[int | None, typer.Option(min=0, help="Steps of refinement of its result.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of a trained method: a name (see 'methods') or a .safetensors file.")
    ] = None,
    similarity: Annotated[str | None, typer.Option(help="lncc, mse, nmi or mind (default: the preset's).")] = None,
    spacing: Annotated[float | None, typer.Option(help="Working resolution in millimetres (default: it fits).")] = None,
    landmarks: Annotated[
        str | None, typer.Option(help="Landmark files, '{frame}' for the number: 'points_{frame:02d}.fcsv'.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads (default: all).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but warnings and errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Register every frame of a series to one of them.

    Writes transforms/frame_NNN.h5 (from the template to each frame), warped/frame_NNN.nrrd, all of these as one image
    over time in warped.nrrd, series.json with the principal component distances, similarity, folding and landmark
    errors before and after, and series.png.
    """
    from RecurrentRegistrationLib.io.documents import to_json
    from RecurrentRegistrationLib.io.files import complete
    from RecurrentRegistrationLib.pipeline import series as library
    from RecurrentRegistrationLib.pipeline.options import Options
    from RecurrentRegistrationLib.points import read_points
    from RecurrentRegistrationLib.report.series import draw
    from RecurrentRegistrationLib.volume import Volume

    if threads is not None:
        use_threads(threads)
    options = Options(
        method=method,
        preset=preset,
        initial=initial,
        linear=linear,
        steps=steps,
        refine=refine,
        weights=weights,
        similarity=similarity,
        spacing=spacing,
        device=device,
        seed=seed,
    )
    with Display(quiet=quiet) as display:
        display.phase("read")
        frames = Volume.read_sequence(image)
        frames = [each for frame in frames for each in library.slices(frame)] if slices else frames
        start, interval = library.timing(image)
        files = {} if landmarks is None else library.landmark_files(landmarks, len(frames))
        points = {n: read_points(file, frames[n].grid) for n, file in files.items()}
        if points:
            library.check_landmarks(points, template)
        region = None if mask is None else Volume.read_mask(mask)
        display.phase("register")
        found = []
        for frame in library.register(frames, template, options, mask=region):
            found.append(frame)
            display.step(len(found), len(frames), float("nan"))
            frame.warped.write(output / "warped" / f"frame_{frame.number:03d}.nrrd")
            if frame.report:
                frame.transform.write(output / "transforms" / f"frame_{frame.number:03d}.h5")
        library.write(found, output / "warped.nrrd", start=start, interval=interval)
        display.phase("evaluate")
        report = library.evaluate(found, landmarks=points)
        with complete(output / "series.json") as temporary:
            temporary.write_text(to_json(report, indent=2) + "\n", encoding="utf-8")
        with complete(output / "series.png") as temporary:
            draw(found, report).savefig(temporary, format="png")
    if as_json:
        print(to_json({"folder": str(output.absolute()), **report}))
    elif not quiet:
        print(_summary(report, output))


def _summary(report: dict[str, Any], output: Path) -> str:
    before, after = report["before"], report["after"]
    distances = [
        f"{title} {before[key]:.3f} to {after[key]:.3f}"
        for key, title in (("d_pca1", "D_PCA1"), ("d_pca2", "D_PCA2"))
        if before[key] is not None
    ]
    folding = f"folding {max(report['folding_percent']):.4f} % at most; look at {output / 'series.png'}"
    return f"{', '.join(distances)}\n{folding}"
