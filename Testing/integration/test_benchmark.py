"""The command `benchmark`: plan, run, interruption, resumption, and what is written."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from RecurrentRegistrationLib.cli import run
from RecurrentRegistrationLib.transform import DisplacementField
from RecurrentRegistrationLib.volume import Volume, write_image

# A method that costs nothing to start: it links a stored field of zeros into its folder, and notes that it ran.
SCRIPT = """
import os, sys
fixed, output = sys.argv[1:]
folder = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(folder, "calls.txt"), "a", encoding="utf-8") as calls:
    calls.write(fixed + "\\n")
os.link(os.path.join(folder, "zero.nrrd"), os.path.join(output, "displacement.nrrd"))
"""


@pytest.fixture
def folder(images: Path, tmp_path: Path) -> Path:
    """A folder with the tiny method's script and its answer."""
    field = DisplacementField.zero(Volume.read(images / "fixed2d.nrrd").grid)
    write_image(field.to_image(), tmp_path / "zero.nrrd")
    (tmp_path / "tiny.py").write_text(SCRIPT, encoding="utf-8")
    return tmp_path


def manifest(folder: Path, images: Path, *, pairs: int = 2, methods: dict | None = None, **entries: object) -> Path:
    tiny = {"command": f"{sys.executable} -S {folder / 'tiny.py'} {{fixed}} {{output}}"}
    content = {
        "name": "set",
        "methods": {"tiny": tiny} if methods is None else methods,
        "fixed_labels": str(images / "labels2d.nrrd"),
        "moving_labels": str(images / "labels2d.nrrd"),
        "pairs": [
            {"name": f"p{n}", "fixed": str(images / "fixed2d.nrrd"), "moving": str(images / "moving2d.nrrd")}
            for n in range(pairs)
        ],
        **entries,
    }
    file = folder / "manifest.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "out" / "set" / "rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_command_gives_rows_tables_tests_figures_and_a_page(command, folder, images):
    ours = {"method": "demons", "steps": 2, "linear": "none", "initial": "none"}
    tiny = {"command": f"{sys.executable} -S {folder / 'tiny.py'} {{fixed}} {{output}}"}
    wrong = {"command": f"{sys.executable} -c 'raise SystemExit(3)'"}
    file = manifest(folder, images, methods={"none": tiny, "ours": ours, "wrong": wrong}, motion=True)
    out, document = folder / "out", folder / "results.md"
    done = command("benchmark", file, "-o", out, "--document", document)
    assert done.returncode == 1, done.stderr  # everything is written, and a method failed
    assert "p0: wrong: failed: exit status 3: no output" in done.stderr
    found = rows(folder)
    assert [(r["pair"], r["method"], r["status"]) for r in found] == [
        (pair, method, "failed" if method == "wrong" else "done")
        for pair in ("p0", "p1")
        for method in ("none", "ours", "wrong")
    ]
    nothing, moved = found[0], found[1]
    assert float(nothing["dice"]) == 1  # the labels are one file
    assert 0.5 < float(moved["dice"]) < 1
    assert float(moved["correlation"]) > float(nothing["correlation"])
    assert float(moved["seconds"]) > 0
    assert int(moved["steps"]) == 2
    steps = json.loads((out / "set" / "runs" / "p0" / "ours" / "steps.json").read_text(encoding="utf-8"))
    assert [step["index"] for step in steps] == [1, 2]
    assert steps[-1]["dice"] == pytest.approx(float(moved["dice"]))
    page = (out / "set" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 5  # boxes, time, steps, two worst cases and more
    assert 'src="data:' in page
    assert "http" not in page.replace("http-equiv", "")  # needs nothing from outside
    assert "ours" in document.read_text(encoding="utf-8")
    for name in (
        "summary.md",
        "summary.tex",
        "summary.csv",
        "tests.csv",
        "figures/boxes.png",
        "figures/steps.png",
        "figures/motion.png",
    ):
        assert (out / "set" / name).stat().st_size > 0


def test_interrupted_run_goes_on_without_loss_or_double_work(folder, images):
    pairs = 12
    file = manifest(folder, images, pairs=pairs)
    line = [sys.executable, "-m", "RecurrentRegistrationLib", "benchmark", str(file), "-o", str(folder / "out")]
    table = folder / "out" / "set" / "rows.csv"
    first = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 200
    while time.monotonic() < give_up and (
        not table.exists() or len(table.read_text(encoding="utf-8").splitlines()) < 4
    ):
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    first.wait()
    before = rows(folder)
    assert 3 <= len(before) < pairs
    with table.open("a") as half_written:
        half_written.write("0123456789abcdef,p9,ti")
    assert run(line[3:]) == 0
    after = rows(folder)
    assert after[: len(before)] == before
    assert sorted(row["pair"] for row in after) == sorted(f"p{n}" for n in range(pairs))
    calls = len((folder / "calls.txt").read_text(encoding="utf-8").splitlines())
    assert pairs <= calls <= pairs + 1  # the one that was under way was not finished
    assert not list((folder / "out" / "set" / "runs").glob("*/.unfinished-*"))


def test_plan_tells_and_does_nothing(folder, images, capsys):
    file = manifest(folder, images, pairs=1000, repeats=2)
    assert run(["benchmark", str(file), "-o", str(folder / "out"), "--plan"]) == 0
    assert capsys.readouterr().out == "set: 2000 of 2000 registrations to make\n"
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"methods": {"x": {"metod": "demons"}}}, "no option 'metod'"),
        ({"methods": ["greedy"]}, "give the folder of the peers"),
        ({"methods": {"x": {"command": "tool", "steps": 3}}}, "no options"),
        ({"methods": []}, "names no methods"),
        ({"accuracy": "beauty"}, "accuracy 'beauty'"),
        ({"fixd_mask": "a.nrrd"}, "unknown entries: fixd_mask"),
        ({"fixed_mask": "absent.nrrd"}, "does not exist"),
    ],
)
def test_a_wrong_manifest_is_refused_with_one_line(folder, images, capsys, entries, message):
    assert run(["benchmark", str(manifest(folder, images, **entries)), "-o", str(folder / "out")]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (folder / "out" / "set" / "rows.csv").exists()


def test_only_takes_pairs_that_exist(folder, images, capsys):
    line = ["benchmark", str(manifest(folder, images)), "-o", str(folder / "out"), "--plan", "--only"]
    assert run([*line, "p1"]) == 0
    assert capsys.readouterr().out == "set: 1 of 1 registrations to make\n"
    assert run([*line, "p1,nopair"]) == 2
    assert capsys.readouterr().err == "error: There is no pair 'nopair'; there are p0, p1.\n"


def test_only_leaves_out_manifests_without_the_pair(folder, images, capsys):
    one = manifest(folder, images, pairs=1)
    other = one.rename(folder / "other.yaml")
    two = manifest(folder, images, pairs=2, name="two")
    assert run(["benchmark", str(other), str(two), "-o", str(folder / "out"), "--plan", "--only", "p1"]) == 0
    assert capsys.readouterr().out == "two: 1 of 1 registrations to make\n"


def test_an_unknown_method_is_refused_with_what_there_is(folder, images, capsys):
    line = ["benchmark", str(manifest(folder, images)), "-o", str(folder / "out"), "--methods", "refin"]
    assert run(line) == 2
    told = capsys.readouterr().err
    assert "no method 'refin': there are tiny, ours, affine-opt," in told
    assert "give the folder of the peers' adapters" in told
    peers = folder / "peers"
    peers.mkdir()
    (peers / "greedy.py").touch()
    assert run([*line, "--peers", str(peers)]) == 2
    assert capsys.readouterr().err.endswith("vsvf-opt, greedy.\n")


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_a_terminated_run_takes_its_registration_with_it(folder, images):
    (folder / "slow.py").write_text(
        f"import time\nopen({str(folder / 'began')!r}, 'w')\ntime.sleep(60)\n", encoding="utf-8"
    )
    slow = {"command": f"{sys.executable} -S {folder / 'slow.py'}"}
    file = manifest(folder, images, methods={"slow": slow})
    line = [sys.executable, "-m", "RecurrentRegistrationLib", "benchmark", str(file), "-o", str(folder / "out")]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 200
    while time.monotonic() < give_up and not (folder / "began").exists():
        time.sleep(0.02)
    process.terminate()
    assert process.wait(timeout=60) == 130
    assert rows_if_any(folder) == []
    assert not list((folder / "out" / "set" / "runs").glob("*/*"))


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_a_killed_run_takes_its_registration_with_it(folder, images):
    (folder / "slow.py").write_text(
        f"import os, time\nopen({str(folder / 'began')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n",
        encoding="utf-8",
    )
    file = manifest(folder, images, methods={"slow": {"command": f"{sys.executable} -S {folder / 'slow.py'}"}})
    line = [sys.executable, "-m", "RecurrentRegistrationLib", "benchmark", str(file), "-o", str(folder / "out")]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 200
    while time.monotonic() < give_up and not ((folder / "began").exists() and (folder / "began").read_text()):
        time.sleep(0.02)
    process.kill()
    process.wait()
    give_up = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):  # noqa: PT012
        while time.monotonic() < give_up:
            os.kill(int((folder / "began").read_text()), 0)
            time.sleep(0.1)


def test_a_registration_that_takes_too_long_is_ended(folder, images, capsys):
    slow = {"command": f"{sys.executable} -S -c 'import time; time.sleep(60)'"}
    file = manifest(folder, images, pairs=1, methods={"slow": slow}, timeout=0.5)
    began = time.monotonic()
    assert run(["benchmark", str(file), "-o", str(folder / "out")]) == 1
    assert time.monotonic() - began < 30
    assert "not finished after 0.5 s" in capsys.readouterr().err
    assert [row["status"] for row in rows(folder)] == ["failed"]


def rows_if_any(folder: Path) -> list[dict[str, str]]:
    return rows(folder) if (folder / "out" / "set" / "rows.csv").exists() else []
