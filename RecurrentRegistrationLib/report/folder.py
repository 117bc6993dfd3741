"""The folder that a registration leaves behind: complete, or not there at all."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io import abandoned
from RecurrentRegistrationLib.io.documents import to_json
from RecurrentRegistrationLib.pipeline.inputs import Input
from RecurrentRegistrationLib.pipeline.registration import Registration
from RecurrentRegistrationLib.report.sequence import coarsened, write_sequence
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.volume import Grid, Volume, write_image

STEPS = 24  # that a sequence holds, about
LONGEST = 64  # voxels along the longest side of a sequence's grid: 24 steps take 75 MB at most
FILES = (
    "transform.h5",
    "inverse.h5",
    "displacement.nrrd",
    "warped.nrrd",
    "jacobian.nrrd",
    "report.json",
    "report.png",
    "steps.seq.nrrd",
)


@contextlib.contextmanager
def result_folder(folder: str | Path) -> Iterator[Path]:
    """Give an empty folder beside `folder`; when the block ends well its files move to where they belong.

    A folder that is there keeps its other files; results of an earlier registration are replaced, all of them. When
    the block fails, nothing is left behind, not even the folders above.

    Raises:
        InputError: the folder cannot be made or written.
    """
    folder = Path(folder).absolute()
    made = _missing_parents(folder)
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    try:
        if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise InputError(f"Cannot write into {folder}: it is not a folder, or it may not be written.")
        abandoned.clear(folder.parent, folder.name)
        temporary.mkdir(parents=True)
        with abandoned.held(temporary):
            yield temporary
            _move(temporary, folder)
    except OSError as error:
        raise InputError(
            f"Cannot write into {folder}: {error.strerror or error}. Free some space or choose another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:  # only those that stayed empty
            with contextlib.suppress(OSError):
                parent.rmdir()


def _missing_parents(folder: Path) -> list[Path]:
    """The folders above that do not exist yet, innermost first."""
    return [parent for parent in folder.parents if not parent.exists()]


def _move(temporary: Path, folder: Path) -> None:
    if not folder.exists():
        temporary.rename(folder)
        return
    written = {file.name for file in temporary.iterdir()}
    for name in set(FILES) - written:
        (folder / name).unlink(missing_ok=True)
    for name in written:
        os.replace(temporary / name, folder / name)


def write_results(
    registration: Registration,
    inputs: dict[str, Input],
    folder: Path,
    *,
    interpolation: str = "linear",
    background: float | None = None,
) -> dict[str, Any]:
    """Write transform, displacement, warped image, Jacobian, report and its picture; return the report.

    Args:
        registration: what was found.
        inputs: "fixed" and "moving", and the masks where there were any.
        folder: where to; it exists.
        interpolation: of the warped image.
        background: of the warped image outside the moving image; None for the moving image's lowest value.
    """
    field = registration.displacement()
    jacobian = Volume(spatial.jacobian_determinant(field.values)[0].numpy(), field.grid)
    length = field.millimetres().square().sum(dim=1).sqrt()
    report = {
        "inputs": {name: source.described() for name, source in inputs.items()},
        **registration.report,
        "displacement_mm": {"mean": length.mean().item(), "max": length.max().item()},
    }
    registration.transform.write(folder / "transform.h5")
    write_image(field.to_image(), folder / "displacement.nrrd")
    registration.warped(interpolation=interpolation, background=background).write(folder / "warped.nrrd")
    jacobian.write(folder / "jacobian.nrrd")
    (folder / "report.json").write_text(to_json(report, indent=2) + "\n", encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is not None:  # of the extra `cli`; a worker does without
        _write_picture(registration, inputs, jacobian, report, folder / "report.png")
    return report


def _write_picture(
    registration: Registration, inputs: dict[str, Input], jacobian: Volume, report: dict[str, Any], path: Path
) -> None:
    from RecurrentRegistrationLib.report.page import Pictured, write_report

    picture = Pictured(
        inputs["fixed"].volume,
        inputs["moving"].volume,
        jacobian,
        registration.transform,
        registration.steps,
        f"{inputs['fixed'].name}  ←  {inputs['moving'].name}",
        _facts(report),
    )
    write_report(picture, path)


def write_steps(fixed: Grid, steps: Sequence[Step], path: Path) -> None:
    """Write the displacement after each of some steps as a sequence for 3D Slicer."""
    grid = coarsened(fixed, LONGEST)
    fields = (step.transform.displacement_on(grid) for step in steps)
    write_sequence(grid, fields, [step.index for step in steps], path)


def _facts(report: dict[str, Any]) -> dict[str, str]:
    """What a reader asks first."""
    jacobian, displacement = report["jacobian"], report["displacement_mm"]
    similarity = report["steps"][-1]["similarity"]
    facts = {
        "Method": f"{report['method']}, preset {report['preset']}",
        "Device": report["device"],
        "Similarity": f"{similarity:.3f}",
        "Displacement": f"mean {displacement['mean']:.1f} mm, max {displacement['max']:.1f} mm",
        "Folding": f"{report['folded_voxels']} voxels ({report['folding']:.3f} %)",
        "Volume": f"{jacobian['min']:.2f}× to {jacobian['max']:.2f}×, mean {jacobian['mean']:.2f}×",
        "Time": f"{sum(report['seconds'].values()):.1f} s",
    }
    guide = report.get("guide", {})
    if rows := guide.get("landmarks"):
        before, after = (max(row[f"{when}_mm"] for row in rows) for when in ("before", "after"))
        facts["Landmarks"] = f"{len(rows)}, worst {after:.1f} mm (before: {before:.1f} mm)"
    if rows := guide.get("labels"):
        before, after = (sum(row[f"{when}_dice"] for row in rows) / len(rows) for when in ("before", "after"))
        facts["Labels"] = f"{len(rows)}, mean Dice {after:.2f} (before: {before:.2f})"
    if report["peak_memory_bytes"]:
        facts["Memory"] = f"{report['peak_memory_bytes'] / 2**30:.1f} GiB"
    return facts
