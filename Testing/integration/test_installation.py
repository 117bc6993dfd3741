"""What an installation of the package holds, beside its code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIST = (
    "from RecurrentRegistrationLib import weights; "
    "print(*[m.name for m in weights.models()], weights.home(), sep='\\n')"
)


def test_the_weights_are_installed_with_the_package(tmp_path):
    shipped = sorted(card.parent.name for card in (ROOT / "Resources" / "Models").glob("*/card.json"))
    if not shipped:
        pytest.skip("no weights ship")
    build = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    environment = {name: value for name, value in os.environ.items() if name != "RECURRENT_REGISTRATION_MODELS"}
    line = [sys.executable, "-c", LIST]  # the folder it runs in is looked at first
    found = subprocess.run(line, cwd=tmp_path, check=True, capture_output=True, encoding="utf-8", env=environment)
    *names, home = found.stdout.split("\n")[:-1]
    assert names == shipped
    assert Path(home).resolve() == tmp_path.resolve() / "RecurrentRegistrationLib" / "Models"
    for name in shipped:
        copies = (folder / name / "weights.safetensors" for folder in (ROOT / "Resources" / "Models", Path(home)))
        assert len({copy.read_bytes() for copy in copies}) == 1
