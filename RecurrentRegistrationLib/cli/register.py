"""`register`: find the transform from a fixed to a moving image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from RecurrentRegistrationLib.cli.interruption import once_held
from RecurrentRegistrationLib.cli.progress import Display
from RecurrentRegistrationLib.errors import InputError

if TYPE_CHECKING:
    from RecurrentRegistrationLib.pipeline.kept_steps import History
    from RecurrentRegistrationLib.pipeline.run import Run


def register(
    fixed: Annotated[str, typer.Argument(help="Image that stays: a file, FILE#FRAME of a series, or a DICOM folder.")],
    moving: Annotated[str, typer.Argument(help="Image that is brought onto it.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")],
    method: Annotated[
        str, typer.Option(help="A method's name (see 'methods'), auto, or none for the linear stage alone.")
    ] = "auto",
    preset: Annotated[str, typer.Option(help="What the images show: ct, mr, …, or auto.")] = "auto",
    fixed_mask: Annotated[str | None, typer.Option(help="Where the fixed image counts: non-zero.")] = None,
    moving_mask: Annotated[str | None, typer.Option(help="Where the moving image counts: non-zero.")] = None,
    initial: Annotated[
        str, typer.Option(help="Start: none, geometry, moments, auto, or the file of a linear transform.")
    ] = "auto",
    linear: Annotated[
        str, typer.Option(help="Linear stage before the deformation: affine, rigid, none, or auto: as the images ask.")
    ] = "auto",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the method (default: the method's own).")] = None,
    refine: Annotated[int | None, typer.Option(min=0, help="Steps of refinement of its result.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of a trained method: a name (see 'methods') or a .safetensors file.")
    ] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="Try a trained method out without weights.")] = False,
    method_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An argument of the method's class; may be repeated."),
    ] = None,
    similarity: Annotated[str | None, typer.Option(help="lncc, mse, nmi or mind (default: the preset's).")] = None,
    stop: Annotated[str, typer.Option(help="auto ends the method once steps bring nothing, or off.")] = "off",
    spacing: Annotated[float | None, typer.Option(help="Working resolution in millimetres (default: it fits).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads (default: all).")] = None,
    fixed_points: Annotated[Path | None, typer.Option(help="Landmarks of the fixed image, to be brought onto")] = None,
    moving_points: Annotated[Path | None, typer.Option(help="those of the moving image: same names or order.")] = None,
    landmark_error: Annotated[float, typer.Option(min=0, help="How well landmarks are known, millimetres.")] = 1.0,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Measure each landmark by a registration that does not see it.")
    ] = False,
    fixed_labels: Annotated[
        str | None, typer.Option(help="Label map or segmentation of the fixed image, to overlap with")
    ] = None,
    moving_labels: Annotated[str | None, typer.Option(help="that of the moving image: same names or values.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A label to use (default: all of both); may be repeated.")
    ] = None,
    rigid: Annotated[
        str | None, typer.Option(help="Mask on the fixed image: each connected part of a value moves as a rigid body.")
    ] = None,
    rigid_label: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="The same for a label of the fixed image; may be repeated.")
    ] = None,
    still: Annotated[str | None, typer.Option(help="Mask on the fixed image: nothing deforms there.")] = None,
    interpolation: Annotated[str, typer.Option(help="Of warped.nrrd: linear, nearest, label or bspline.")] = "linear",
    background: Annotated[
        float | None, typer.Option(help="Value of warped.nrrd outside the moving image (default: its own lowest).")
    ] = None,
    save_steps: Annotated[bool, typer.Option("--save-steps", help="Also write steps.seq.nrrd for 3D Slicer.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but warnings and errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Register MOVING onto FIXED and write transform.h5, displacement.nrrd, warped.nrrd, jacobian.nrrd and a report.

    Results of an earlier run in DIR are replaced, once the new ones are complete. After Ctrl-C the last finished step
    is written.
    """
    from RecurrentRegistrationLib import pipeline
    from RecurrentRegistrationLib.io.documents import to_json
    from RecurrentRegistrationLib.pipeline.guide_files import GuideFiles
    from RecurrentRegistrationLib.pipeline.inputs import Input, notice
    from RecurrentRegistrationLib.pipeline.kept_steps import History
    from RecurrentRegistrationLib.pipeline.left_out import check_left_out, left_out
    from RecurrentRegistrationLib.report.folder import STEPS, result_folder, write_results, write_steps
    from RecurrentRegistrationLib.volume import INTERPOLATORS

    if interpolation not in INTERPOLATORS:
        raise InputError(f"Interpolation '{interpolation}' is not one of {', '.join(INTERPOLATORS)}.")
    if threads is not None:
        use_threads(threads)
    options = pipeline.Options(
        method=method,
        preset=preset,
        initial=initial,
        linear=linear,
        steps=steps,
        refine=refine,
        weights=weights,
        untrained=untrained,
        method_options=dict(map(_named, method_option or [])),
        similarity=similarity,
        stop=stop,
        spacing=spacing,
        device=device,
        seed=seed,
    )
    named = {"fixed": fixed, "moving": moving, "fixed_mask": fixed_mask, "moving_mask": moving_mask}
    with Display(quiet=quiet) as display:
        display.phase("read")
        inputs = {
            name: Input.read(path, mask=name.endswith("mask")) for name, path in named.items() if path is not None
        }
        volumes: dict[str, Any] = {name: source.volume for name, source in inputs.items()}
        files = GuideFiles(fixed_points, moving_points, fixed_labels, moving_labels, rigid, still)
        grids = volumes["fixed"].grid, volumes["moving"].grid
        guide, notes = files.read(*grids, error=landmark_error, labels=label, rigid_labels=rigid_label)
        if leave_out:
            check_left_out(guide)
        run = pipeline.start(**volumes, options=options, guide=guide)
        run.notes += notes
        if warning := notice(inputs):
            display.note(warning)
        history = History(keep=STEPS)
        left: list[float] = []

        def leave() -> None:
            display.phase("leave out")
            for found in left_out(guide, lambda known: pipeline.start(**volumes, options=options, guide=known)):
                left.append(found)

        with once_held() as hold, result_folder(output) as folder:
            cancelled = not _finished(run, history, display, leave if leave_out else None, hold)
            result = run.result()
            if guide:
                result.report["guide"]["files"] = files.named
            for row, found in zip(result.report["guide"]["landmarks"] if left else (), left, strict=False):
                row["left_out_mm"] = found
            display.phase("write")
            report = write_results(result, inputs, folder, interpolation=interpolation, background=background)
            if save_steps:
                write_steps(inputs["fixed"].volume.grid, history.kept, folder / "steps.seq.nrrd")
    if as_json:
        print(to_json({"folder": str(output.absolute()), **report}))
    elif not quiet:
        print(_summary(report, output))
    if cancelled:
        raise KeyboardInterrupt


def _named(option: str) -> tuple[str, Any]:
    """Name and value of "name=value": a value of JSON is that, anything else is text."""
    import json

    name, equals, value = option.partition("=")
    if not equals:
        raise InputError(f"An option of the method is NAME=VALUE, not '{option}'.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _finished(
    run: Run, history: History, display: Display, further: Callable[[], None] | None, hold: Callable[[], None]
) -> bool:
    """Make all steps and what is further to do, then `hold` off the next Ctrl-C; False where it came after a step."""
    told = 0
    history.expect(run.plan.planned_steps)
    display.phase(run.phase)
    try:
        for step in run:
            history.offer(step)
            display.phase(run.phase)
            display.step(step.index, run.plan.planned_steps, step.similarity)
            for note in run.notes[told:]:
                display.note(note)
            told = len(run.notes)
        for note in run.notes[told:]:
            display.note(note)
        if further is not None:
            further()
        hold()
    except KeyboardInterrupt:
        if run.last is None:
            raise
        display.note("cancelled: the last finished step is written; press Ctrl-C again to write nothing")
        return False
    return True


def use_threads(count: int) -> None:
    """For PyTorch, the kernels that follow it, and ITK."""
    import SimpleITK as sitk
    import torch

    torch.set_num_threads(count)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)


def guide_lines(report: dict[str, Any]) -> list[str]:
    """What became of the landmarks and labels of a guide."""
    guide = report.get("guide", {})
    lines = []
    for title, unit, form in (("landmarks", "mm", "{:.2f} mm"), ("labels", "dice", "Dice {:.3f}")):
        if rows := guide.get(title):
            means = [
                form.format(sum(row[f"{when}_{unit}"] for row in rows) / len(rows)) for when in ("before", "after")
            ]
            lines.append(f"{len(rows)} {title}: {means[0]} before, {means[1]} after, on average")
    known = [row["left_out_mm"] for row in guide.get("landmarks", ()) if "left_out_mm" in row]
    if known:
        lines.append(f"left out one by one, landmarks are {sum(known) / len(known):.2f} mm off on average")
    return lines


def _summary(report: dict[str, Any], output: Path) -> str:
    jacobian = report["jacobian"]
    return "\n".join(
        [
            f"{len(report['steps'])} steps in {sum(report['seconds'].values()):.1f} s, "
            f"displacement {report['displacement_mm']['mean']:.1f} mm on average",
            f"folding {report['folded_voxels']} voxels ({report['folding']:.3f} %), "
            f"Jacobian {jacobian['min']:.2f} to {jacobian['max']:.2f}",
            *guide_lines(report),
            f"results in {output}: look at report.png",
        ]
    )
