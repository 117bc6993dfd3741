"""The command `train` as a user runs it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from RecurrentRegistrationLib import methods, weights
from RecurrentRegistrationLib.cli import run

pytestmark = pytest.mark.filterwarnings("ignore")


def test_trains_and_names_the_weights(write: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    status = run(["train", str(write()), "-o", str(tmp_path / "out"), "--trainer.max_steps=1", "--model.steps=1"])
    assert status == 0
    path = Path(capfd.readouterr().out.split()[-1])
    assert path == tmp_path / "out" / "model.safetensors"
    method = methods.create("rcn", 2, width=4)
    weights.load(method, path)
    assert load_file(str(path)).keys() == method.state_dict().keys()
    known = weights.described(path)
    assert known is not None
    assert (known.method, known.steps, dict(known.options)) == ("rcn", 1, {"width": 4})
    again = weights.create(known).state_dict()
    assert all(again[name].equal(value) for name, value in method.state_dict().items())


def test_a_dry_run_keeps_nothing(write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["train", str(write()), "--fast-dev-run"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["none.yaml"], "no configuration"),
        (["config.yaml", "--model.stepz=3"], "stepz"),
        (["config.yaml", "--model.steps=many"], "steps"),
        (["config.yaml", "--model.method=rwc"], "rwcnet"),
        (["config.yaml", "--model.initial=none.safetensors"], "none.safetensors"),
        (["config.yaml", "--data.class_path=Pairs"], "Pairs"),
        (["config.yaml", "--data.init_args.shape=[20]"], "Images have 2 or 3 dimensions, not 1."),
        (["config.yaml", "--data.init_args.shape=[20,0]"], "shape"),
        (["config.yaml", "--data.init_args.spacing=0"], "spacing"),
        (["config.yaml", "--data.init_args.batch_size=0"], "batch_size"),
        (["config.yaml", "--data.init_args.validation_pairs=-1"], "validation_pairs"),
        (["config.yaml", "--model.dimension=3"], "model.dimension"),
        (["config.yaml", "--model.steps=0"], "steps"),
        (["config.yaml", "--model.optimisation.rate=-1"], "rate"),
        (["config.yaml", "--model.options={width: -4}"], "rcn"),
        (["config.yaml", '--model.losses=[{"term": "lncc", "options": {"radius": "a"}}]'], "lncc"),
        (["config.yaml", '--model.losses=[{"term": "nmi", "options": {"bins": 1}}]'], "bins"),
        (["config.yaml", '--model.losses=[{"term": "diffusion", "options": {"normalisation": "x"}}]'], "normalisation"),
        (["config.yaml", "--trainer.max_steps=-1"], "max_steps"),
        (["config.yaml", "--trainer.strategy=none"], "strategy"),
        (["config.yaml", "--trainer.devices=0"], "devices"),
        (["config.yaml", "--trainer.val_check_interval=0"], "val_check_interval"),
        (["config.yaml", "--trainer.precision=bf16-true"], "precision"),
        (["config.yaml", "--seed_everything=-1"], "not in bounds"),
    ],
)
def test_a_bad_configuration_is_one_line(
    arguments: list[str],
    word: str,
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    write()
    monkeypatch.chdir(tmp_path)
    assert run(["train", *arguments, "-o", "out"]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if "Seed set" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert word in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"name": "knees", "pairs": []}, "no settings 'model'"),
        ({"model": {"method": "rcn"}}, "no settings 'data'"),
        ({"model": {"method": "rcn"}, "data": "SyntheticPairs"}, "no settings 'data'"),
        ({"model": {}, "data": {}, "trainer": 3}, "no settings 'trainer'"),
        ({"model": {}, "data": {"class_path": "ImagePairs", "init_args": {"source": {"class_path": "Mine"}}}}, "Mine"),
        ({"model": {}, "data": {"class_path": "ImagePairs", "init_args": {"source": "Mine"}}}, "Mine"),
    ],
)
def test_a_dry_run_of_another_file_is_one_line(
    content: dict[str, Any], words: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert run(["train", str(file), "--fast-dev-run"]) == 2
    told = capfd.readouterr().err
    assert told.startswith("error: ")
    assert words in told
    assert len(told.splitlines()) == 1


def test_a_training_that_never_began_leaves_nothing(
    write: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    source = {"class_path": "Folder", "init_args": {"images": str(tmp_path / "nowhere")}}
    config = write(data={"class_path": "ImagePairs", "init_args": {"source": source}})
    assert run(["train", str(config), "-o", str(tmp_path / "runs" / "out")]) == 2
    assert "There is no folder" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_without_the_extra_packages_it_says_so(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "lightning"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning", None)
    assert run(["train", str(write())]) == 2
    assert capfd.readouterr().err == (
        "error: Training needs more packages: pip install 'RecurrentRegistrationLib[train]'.\n"
    )
