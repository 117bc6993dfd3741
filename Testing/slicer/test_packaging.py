"""The extension as Slicer's build and catalog read it: one line a literal, pictures of a size."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "RecurrentRegistration"
CATALOG = ROOT / "Resources/ExtensionsIndex/RecurrentRegistration.json"
ICONS = [ROOT / "Resources/Icons/RecurrentRegistration.png", MODULE / "Resources/Icons/RecurrentRegistration.png"]


def tracked(folder: str) -> set[str]:
    """Files of a folder that git knows, relative to it."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", folder], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout
    return {name.removeprefix(f"{folder}/") for name in listed.splitlines() if (ROOT / name).exists()}


def size(picture: Path) -> tuple[int, int]:
    """Width and height of a PNG."""
    head = picture.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_what_the_catalog_reads_is_literal():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert text.startswith("cmake_minimum_required(VERSION 3.28.0...3.28.0 FATAL_ERROR)\n")
    found = dict(re.findall(r'^set\(EXTENSION_(\w+) "([^"$]+)"\)$', text, re.MULTILINE))
    assert set(found) == {"HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"}
    assert found["DEPENDS"] == "PyTorch"
    for url in [found["ICONURL"], *found["SCREENSHOTURLS"].split()]:
        assert url.startswith("https://")
        assert (ROOT / url.partition("/main/")[2]).is_file()


def test_the_catalog_entry():
    entry = json.loads(CATALOG.read_text(encoding="utf-8"))
    assert entry.pop("$schema").endswith("/slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert set(entry) == {"build_dependencies", "build_subdirectory", "category", "scm_revision", "scm_url", "tier"}
    assert (entry["category"], entry["build_dependencies"]) == ("Registration", ["PyTorch"])
    assert re.fullmatch(r"https://github\.com/[\w-]+/Slicer\w+\.git", entry["scm_url"])


@pytest.mark.parametrize("picture", ICONS, ids=lambda path: path.parts[-4])
def test_icons(picture):
    assert size(picture) == (128, 128)
    assert picture.stat().st_size < 50_000


def test_screenshots_are_small_enough_for_a_web_page():
    pictures = list((ROOT / "Resources/Screenshots").glob("*.png"))
    assert pictures
    for picture in pictures:
        assert 300 <= max(size(picture)) <= 2000
        assert picture.stat().st_size < 1_000_000


def test_designer_s_file():
    tree = ElementTree.parse(MODULE / "Resources/UI/RecurrentRegistration.ui")
    names = [widget.get("name") for widget in tree.iter("widget")]
    assert len(names) == len(set(names))
    selectors = {widget.get("name") for widget in tree.iter("widget") if widget.get("class") == "qMRMLNodeComboBox"}
    told = {c.findtext("receiver") for c in tree.iter("connection") if "setMRMLScene" in c.findtext("slot", "")}
    assert selectors == told
    declared = {each.findtext("class") for each in tree.iter("customwidget")}
    assert {widget.get("class") for widget in tree.iter("widget")} - declared <= {
        *("QLabel", "QPushButton", "QToolButton", "QCheckBox", "QComboBox", "QSpinBox", "QDoubleSpinBox", "QLineEdit"),
        *("QProgressBar", "QPlainTextEdit", "QTableWidget", "QWidget"),
    }


def test_the_module_s_file_loads_nothing_but_what_slicer_has():
    allowed = {"importlib", "sys", "numpy", "qt", "slicer", "vtk", "RecurrentRegistrationSlicer"}
    lines = (MODULE / "RecurrentRegistration.py").read_text(encoding="utf-8").splitlines()
    roots = {line.split()[1].partition(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert roots <= allowed


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
@pytest.mark.parametrize("folder", ["RecurrentRegistration", "RecurrentRegistrationLib"])
@pytest.mark.parametrize("stray", [False, True])
def test_a_file_that_is_not_listed_stops_the_build(folder, stray, tmp_path):
    for name in tracked(folder):
        copy = tmp_path / folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / folder / name, copy)
    if stray:
        (tmp_path / folder / "stray.py").touch()
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(Packaging NONE)\n"
        "macro(slicerMacroBuildScriptedModule)\nendmacro()\n"
        f"add_subdirectory({folder})\n",
        encoding="utf-8",
    )
    command = ["cmake", "-S", str(tmp_path), "-B", str(tmp_path / "build")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode != 0) == stray, done.stderr
    assert ("stray.py" in done.stderr) == stray


def test_line_ends():
    for name in tracked("RecurrentRegistration") | {"CMakeLists.txt"}:
        path = MODULE / name
        if path.suffix in (".py", ".ui", ".txt") and path.is_file():
            assert b"\r" not in path.read_bytes(), name
