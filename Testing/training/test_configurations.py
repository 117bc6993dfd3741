"""Configurations of `training/configs` make a step of each of their stages on made data.

Together those that do take every setting that any of them makes, so that no setting goes untried.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train import configuration
from RecurrentRegistrationLib.train.run import Work, train

ROOT = Path(__file__).parents[2] / "training" / "configs"
CONFIGS = sorted(ROOT.rglob("*.yaml"))
VALIDATED = {
    "riir/oasis_gradirn_fraction_05",
    "rwcnet/nlst_lapirn",
    "r2n2/oasis_3d",
    "avsm/oai_longitudinal_voxelmorph_affine",
    "weights/brain-features",
}


def kinds(tree: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Each setting's place with what kind of value it has: names are themselves, numbers and paths are alike."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from kinds(value, (*place, key))
    elif isinstance(tree, list):
        for value in tree:
            yield from kinds(value, (*place, "[]"))
    elif isinstance(tree, str):
        yield *place, tree if tree.isidentifier() else "text"
    else:
        yield *place, str(tree) if isinstance(tree, bool) else type(tree).__name__


@functools.cache
def settings(path: Path) -> set[tuple[str, ...]]:
    """Of all stages of a configuration; those of the model belong to its method."""
    found = set()
    for _, tree in configuration.stages(configuration.read(path)):
        method = tree["model"]["method"]
        found |= {(method, *kind) for kind in kinds(tree["model"])}
        found |= set(kinds({key: value for key, value in tree.items() if key not in ("model", "card")}))
    return found


def tried() -> list[Path]:
    """As few configurations as hold every setting: each adds one to those with more settings."""
    seen: set[tuple[str, ...]] = set()
    chosen = []
    for path in sorted(CONFIGS, key=lambda path: (-len(settings(path)), path)):
        if not settings(path) <= seen:
            seen |= settings(path)
            chosen.append(path)
    return chosen


# Narrow networks and few turns: the dry run asks whether a configuration fits together, not whether it is fast.
NARROW = {
    "rwcnet": ("options.features=4", "options.hidden=8"),
    "r2n2": ("options.channels=[2,4,4,8]", "steps=2"),
    "lapirn": ("options.channels=4",),
    "gradirn": ("options.channels=4",),
    "riir": ("options.width=4", "options.hidden=[4,4]"),
}


def narrow(path: Path) -> list[str]:
    """What makes a configuration's network small."""
    model = configuration.read(path)["model"]
    settings = list(NARROW.get(model["method"], ()))
    if model["method"] == "rwcnet" and "stages" not in model["options"]:
        settings.append("options.steps=[1,1,1]")
    return [f"--model.{setting}" for setting in settings]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", tried(), ids=lambda path: str(path.relative_to(ROOT).with_suffix("")))
def test_makes_a_step(path: Path, tmp_path: Path) -> None:
    overrides = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--model.checkpoint=false"]
    if str(path.relative_to(ROOT).with_suffix("")) not in VALIDATED:
        overrides.append("--data.init_args.validation_pairs=0")
    torch.set_num_threads(1)
    assert train(Work(path, tmp_path / "none", (*overrides, *narrow(path)), dry=True)) is None
    assert not (tmp_path / "none").exists(), "a dry run keeps nothing"


def test_there_is_one_for_every_table() -> None:
    counts = {folder.name: len(list(folder.glob("*.yaml"))) for folder in ROOT.iterdir() if folder.is_dir()}
    assert counts.keys() >= {"rwcnet", "avsm", "riir", "ran", "r2n2", "synthetic"}
    for name in ("rwcnet/nlst", "rwcnet/ablation_no_correlation", "riir/oasis_fraction_05", "avsm/oai_cross_subject"):
        assert (ROOT / f"{name}.yaml").exists()


def test_bases_are_merged_and_stages_inherit(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "a: {x: 1, y: 2}\nlosses: [1, 2]\ndata: {class_path: A, init_args: {n: 1}}\n", encoding="utf-8"
    )
    (tmp_path / "own.yaml").write_text(
        "base: base.yaml\na: {y: 3}\nlosses: [3]\ndata: {init_args: {m: 2}}\n"
        "stages: [{name: first, a: {z: 4}}, {name: second, data: {class_path: B}}]\n",
        encoding="utf-8",
    )
    tree = configuration.read(tmp_path / "own.yaml")
    assert (tree["a"], tree["losses"]) == ({"x": 1, "y": 3}, [3])
    (first, one), (second, two) = configuration.stages(tree)
    assert (first, second) == ("first", "second")
    assert one["a"] == {"x": 1, "y": 3, "z": 4}
    assert one["data"] == {"class_path": "A", "init_args": {"n": 1, "m": 2}}
    assert two["data"] == {"class_path": "B"}, "another class has other arguments"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("base: config.yaml", "stands on itself"),
        ("- 1", "no settings"),
        ("a: [", "not YAML"),
        ("base: no.yaml", "no.yaml"),
        ("a: &a {b: *a}", "holds itself"),
        ("stages: &s [*s]", "holds itself"),
        ("a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 10)), "aliases"),
    ],
)
def test_says_what_is_wrong_with_a_file(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=sentence):
        configuration.read(tmp_path / "config.yaml")


@pytest.mark.parametrize("name", ["../../x", "..", "/tmp/x", "a/b"])
def test_no_stage_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    ((found, _),) = configuration.stages({"stages": [{"name": name}]})
    assert (tmp_path / found).resolve().parent == tmp_path


def test_stages_of_one_name_are_refused_and_like_ones_told_apart() -> None:
    (one, _), (two, _) = configuration.stages({"stages": [{"name": "a b"}, {"name": "a/b"}]})
    assert one != two
    with pytest.raises(InputError, match="one name"):
        configuration.stages({"stages": [{"name": "a"}, {"name": "a"}]})


@pytest.mark.parametrize("part", ["data", "source", "callback"])
@pytest.mark.parametrize("path", ["subprocess.Popen", "os.system", "beside.Evil"])
def test_only_classes_of_a_training_can_be_named(part: str, path: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "beside.py").write_text("open('imported', 'w').close()\nclass Evil: ...\n", encoding="utf-8")
    evil = {"class_path": path, "init_args": {"args": ["touch", "ran"]}}
    data = {"class_path": "ImagePairs", "init_args": {"source": evil}} if part == "source" else evil
    tree = {
        "model": {"method": "voxelmorph", "losses": [{"term": "mse"}]},
        "data": {"class_path": "SyntheticPairs"} if part == "callback" else data,
        "trainer": {"max_steps": 1} | ({"callbacks": [evil]} if part == "callback" else {}),
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(InputError, match=path):
        train(Work(tmp_path / "c.yaml", tmp_path / "out"))
    assert {file.name for file in tmp_path.iterdir()} == {"c.yaml", "beside.py"}
