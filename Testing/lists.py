"""Write the lists that follow from the folders: what CMake packages, the tables of methods and of rooms. `make lists`.

With `--check` nothing is written, and the status is 1 where something would be.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from RecurrentRegistrationLib import methods

ROOT = Path(__file__).resolve().parents[1]
LIBRARY, MODULE = ROOT / "RecurrentRegistrationLib", ROOT / "RecurrentRegistration"


def packaged(variable: str, folder: Path, *patterns: str) -> Callable[[str], str]:
    """A list of CMake with the files of a folder, sorted."""
    names = sorted({str(p.relative_to(folder).as_posix()) for pattern in patterns for p in folder.glob(pattern)})
    lines = "".join(f"  {name}\n" for name in names if "__pycache__" not in name)
    return lambda text: re.sub(rf"set\({variable}\n.*?\n  \)", f"set({variable}\n{lines}  )", text, flags=re.DOTALL)


def table(name: str, head: str, rows: Iterator[str]) -> Callable[[str], str]:
    """What stands between the marks of a table in a page."""
    body = "\n".join(["", head, re.sub(r"[^|]+", "---", head), *rows, ""])
    marks = rf"(<!-- {name}: written by `make lists` -->)\n.*?\n(<!-- end -->)"
    return lambda text: re.sub(marks, lambda found: f"{found[1]}\n{body}\n{found[2]}", text, flags=re.DOTALL)


def method_rows(page: str) -> Iterator[str]:
    """A line for each method, which leads to the section of the page that names it in its title."""
    titles = re.findall(r"^## (.+)$", page, re.MULTILINE)
    for name in methods.names():
        card = methods.card(name)
        title = next((t for t in titles if name in t.split(", ")), "Baselines")
        anchor = title.lower().replace(",", "").replace(" ", "-")
        counts = ", ".join(f"{card.parameters[d]:,}".replace(",", " ") for d in sorted(card.parameters))
        facts = "yes" if card.trained else "no", "used" if card.uses_masks else "not used", counts, card.default_steps
        yield f"| [`{name}`](#{anchor}) | " + " | ".join(map(str, facts)) + " |"


def reference(text: str) -> str:
    """The reference's page with every method's file."""
    names = ["", ".base", *("." + name.replace("-", "_") for name in methods.names())]
    return "\n\n".join(["# Methods", *(f"::: RecurrentRegistrationLib.methods{name}" for name in names)]) + "\n"


def room_rows() -> Iterator[str]:
    """A line for each floor of the contract: its rooms, and what the first line of each says."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    for floor in contract["contracts"][0]["layers"]:
        for room in floor.split(" | "):
            file = LIBRARY / f"{room}.py"
            file = file if file.exists() else LIBRARY / room / "__init__.py"
            first = file.read_text(encoding="utf-8").splitlines()[0].strip('"')
            yield f"| `{room}` | {first.replace('|', '/')} |"


def lists() -> dict[Path, list[Callable[[str], str]]]:
    """The files that hold lists, and what brings each of their lists up to date."""
    rooms = table("rooms", "| room, from the top down | holds |", room_rows())
    page = ROOT / "Docs" / "methods.md"
    rows = method_rows(page.read_text(encoding="utf-8"))
    return {
        LIBRARY / "CMakeLists.txt": [packaged("LIBRARY_SCRIPTS", LIBRARY, "**/*.py")],
        MODULE / "CMakeLists.txt": [
            packaged("MODULE_PYTHON_SCRIPTS", MODULE, "*.py", "RecurrentRegistrationSlicer/**/*.py"),
            packaged("MODULE_PYTHON_RESOURCES", MODULE, "Resources/*/*.*"),
        ],
        page: [table("methods", "| name | trained | masks | parameters 2D, 3D | steps |", rows)],
        ROOT / "Docs" / "reference" / "methods.md": [reference],
        ROOT / "CONTRIBUTING.md": [rooms],
        ROOT / "Docs" / "index.md": [rooms],
    }


def outdated() -> dict[Path, str]:
    """What would be written: the files whose lists are not those of the folders, with their text as it should be."""
    found = {}
    for path, updates in lists().items():
        text = new = path.read_text(encoding="utf-8")
        for update in updates:
            new = update(new)
        if new != text:
            found[path] = new
    return found


if __name__ == "__main__":
    changes = outdated()
    for path, text in changes.items():
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    sys.exit(bool(changes) and "--check" in sys.argv)
