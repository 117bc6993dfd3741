"""A folder of results is complete or not there."""

from __future__ import annotations

import pytest

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.report.folder import result_folder


def test_files_appear_together_at_the_end(tmp_path):
    folder = tmp_path / "deep" / "results"
    with result_folder(folder) as temporary:
        (temporary / "report.json").write_text("new", encoding="utf-8")
        assert not folder.exists()
    assert [file.name for file in folder.iterdir()] == ["report.json"]
    assert [file.name for file in folder.parent.iterdir()] == ["results"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_when_the_work_fails(tmp_path, error):
    with pytest.raises(error), result_folder(tmp_path / "deep" / "results") as temporary:  # noqa: PT012
        (temporary / "report.json").write_text("half", encoding="utf-8")
        raise error
    assert not list(tmp_path.iterdir())


def test_earlier_results_stay_until_the_new_ones_are_complete(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("report.json", "steps.seq.nrrd", "notes of mine.txt"):
        (folder / name).write_text("old", encoding="utf-8")
    with pytest.raises(ValueError, match="broken"), result_folder(folder) as temporary:  # noqa: PT012
        (temporary / "report.json").write_text("half", encoding="utf-8")
        raise ValueError("broken")
    assert {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()} == dict.fromkeys(
        ("report.json", "steps.seq.nrrd", "notes of mine.txt"), "old"
    )
    with result_folder(folder) as temporary:
        (temporary / "report.json").write_text("new", encoding="utf-8")
    assert {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()} == {
        "report.json": "new",
        "notes of mine.txt": "old",  # the sequence belonged to the earlier registration
    }


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for folder in (tmp_path / "file", tmp_path / "file" / "results"):
        with pytest.raises(InputError, match="Cannot write"), result_folder(folder):
            pytest.fail("the work has begun")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
