"""The documentation: it builds without a warning, its links lead somewhere, what it names exists, its example runs."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.cli import run
from RecurrentRegistrationLib.volume import Grid, Volume

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "Docs"
PAGES = sorted(DOCS.rglob("*.md"))


def test_strict_build_has_no_broken_link_and_no_raw_formula(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra 'docs'")
    pytest.importorskip("mkdocstrings", reason="needs the extra 'docs'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, encoding="utf-8", env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {
        path.relative_to(tmp_path / "site"): path.read_text(encoding="utf-8")
        for path in (tmp_path / "site").rglob("*.html")
    }
    assert len(pages) > len(PAGES)
    assert "<math" in pages[Path("methods.html")]
    for page in pages.values():
        assert not re.search(r"formula\d+mark", page)
    assert "RecurrentRegistrationLib.pipeline.options.Options" in pages[Path("reference/pipeline.html")]


def test_lists_follow_from_the_folders():
    """What CMake packages, and the tables of methods and rooms; `make lists` writes them."""
    outdated = runpy.run_path(str(ROOT / "Testing" / "lists.py"))["outdated"]()
    assert not [str(path.relative_to(ROOT)) for path in outdated]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_files_that_a_page_names_exist(page):
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|yaml|md))`", page.read_text(encoding="utf-8")))
    places = (ROOT, ROOT / "RecurrentRegistrationLib")
    missing = {name for name in named if not any((place / name).exists() for place in places)}
    assert not missing


def test_example_of_a_benchmark_runs(tmp_path, monkeypatch, capsys):
    page = (DOCS / "evaluation.md").read_text(encoding="utf-8")
    line = re.search(r"recurrent-registration (benchmark .*)\n", page)[1]
    (tmp_path / "manifest.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1], encoding="utf-8")
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(28.0), indexing="ij")
    for name, shift in (("a", 0), ("b", 2)):
        image = torch.exp(-((rows - 16 - shift) ** 2 + (columns - 14) ** 2) / 40)[None].numpy()
        grid = Grid((28, 32), (1.5, 1.5), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
        Volume(image, grid).write(tmp_path / "scans" / f"{name}.nii.gz")
        Volume((image > 0.5).astype("uint8"), grid).write(tmp_path / "scans" / f"{name}_labels.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert run(line.split()) == 0, capsys.readouterr().err
    assert run([*line.split(), "--methods", "few steps:steps=5"]) == 0, capsys.readouterr().err
    assert (tmp_path / "results" / "knees" / "report.html").exists()


def test_example_of_a_method_runs(tmp_path):
    code = re.search(r"```python\n(.*?)```", (DOCS / "extending.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    file = tmp_path / "descent.py"
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("descent", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(28.0), indexing="ij")
    fixed, moving = (torch.exp(-((rows - 16 - s) ** 2 + (columns - 14) ** 2) / 40)[None, None] for s in (0, 3))
    steps = list(module.create(2).steps(fixed, moving))
    assert [step.index for step in steps] == list(range(1, 21))
    left = [(spatial.warp(moving, step.displacement) - fixed).square().mean() for step in (steps[0], steps[-1])]
    assert left[1] < 0.5 * left[0]
