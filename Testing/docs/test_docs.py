"""The documentation: it builds without a warning, its links lead somewhere, what it names exists, its example runs."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from RecurrentRegistrationLib import spatial

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
    assert "RecurrentRegistrationLib.registration.Options" in pages[Path("reference/pipeline.html")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_files_that_a_page_names_exist(page):
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|yaml|md))`", page.read_text(encoding="utf-8")))
    places = (ROOT, ROOT / "RecurrentRegistrationLib")
    missing = {name for name in named if not any((place / name).exists() for place in places)}
    assert not missing


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
