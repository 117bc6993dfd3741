"""The manifests that ship: every one can be read, every method in it made, every weight trained."""

from __future__ import annotations

import json
import time
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

from RecurrentRegistrationLib import methods
from RecurrentRegistrationLib.benchmark import manifest
from RecurrentRegistrationLib.benchmark.programs import Programs
from RecurrentRegistrationLib.benchmark.runner import Benchmark
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.io.files import safe_name
from RecurrentRegistrationLib.train import configuration

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "Testing" / "benchmarks" / "manifests"
ABLATIONS = sorted((MANIFESTS / "ablations").glob("*.yaml"))
CONFIGURATIONS = ROOT / "training" / "configs"
DATA = ROOT.parent / "shared" / "data"
ABLATED = {"rwcnet": 2, "avsm": 6, "riir": 12, "ran": 4, "r2n2": 1}  # tables and figures of each paper


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data folder with empty files where the ablations' pairs lie."""
    folder = tmp_path_factory.mktemp("data")
    for place in ("hippocampus/images", "hippocampus/labels", "brain_2d_oasis"):
        (folder / place).mkdir(parents=True)
        for name in ("a", "b"):
            (folder / place / f"{name}.nrrd").touch()
    return folder


def test_every_ablation_of_the_papers_has_a_manifest():
    counts = {name: sum(path.name.startswith(f"{name}_") for path in ABLATIONS) for name in ABLATED}
    assert counts == ABLATED


@lru_cache
def is_network(name: str, dimension: int, options: str) -> bool:
    """Whether a method can be made with options, and needs weights."""
    return methods.create(name, dimension, **json.loads(options)).card.trained


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_ablations_can_be_made_and_trained(path, data):
    found = manifest.read(path, data)
    labels = [contender.label for contender in found.contenders]
    assert found.name == path.stem
    assert found.against in labels
    assert len(labels) >= 2
    dimension = 2 if found.pairs[0].fixed.parent.name == "brain_2d_oasis" else 3
    for contender in found.contenders:
        Programs().check(contender)
        options = dict(contender.options)
        assert is_network(options["method"], dimension, json.dumps(options.get("method_options", {})))
        trained = CONFIGURATIONS / Path(options["weights"]).parent.with_suffix(".yaml")
        assert Path(options["weights"]).name == "model.safetensors"
        model = configuration.stages(configuration.read(trained))[-1][1]["model"]
        assert model["method"] == options["method"]
    assert len({json.dumps(contender.options) for contender in found.contenders}) == len(labels)


def test_pairs_can_come_from_another_manifest(data, tmp_path):
    (data / "x.nrrd").touch()
    other = tmp_path / "other.yaml"
    other.write_text(
        yaml.safe_dump({"name": "mine", "pairs": [{"name": "p", "fixed": "x.nrrd", "moving": "x.nrrd"}]}),
        encoding="utf-8",
    )
    found = manifest.read(MANIFESTS / "ablations" / "rwcnet_nlst.yaml", data, pairs=other)
    assert (found.name, found.against, [pair.name for pair in found.pairs]) == ("rwcnet_nlst", "full", ["p"])
    assert len(found.contenders) == 4


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the real scans of {DATA}")
@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_of_the_real_pairs_exists(path):
    assert manifest.read(path, DATA).pairs


def test_options_of_a_method_are_read_as_yaml():
    found = manifest.contender("ours:method=riir:steps=4:method_options={inputs: explicit}")
    assert found.options == {"method": "riir", "steps": 4, "method_options": {"inputs": "explicit"}}
    with pytest.raises(InputError, match="NAME:option=value"):
        manifest.contender("greedy:metric")


def test_named_methods_are_labels_then_ours_then_peers(data, tmp_path):
    file = tmp_path / "m.yaml"
    own = {
        "no memory": {"method": "riir", "steps": 4},
        "demons": {"method": "demons", "steps": 9},
        "tool": "greedy:pad=4",
    }
    pairs = [{"name": "p", "fixed": "hippocampus/images/a.nrrd", "moving": "hippocampus/images/b.nrrd"}]
    file.write_text(yaml.safe_dump({"name": "m", "pairs": pairs, "methods": own}), encoding="utf-8")
    named = ["no memory", "demons:steps=2", "tool:metric=MI", "refine:steps=3", "ours:method=bspline", "greedy"]
    found = manifest.read(file, data, methods=named)
    assert [contender.label for contender in found.contenders] == named
    assert [(contender.program, contender.options) for contender in found.contenders] == [
        ("ours", {"method": "riir", "steps": 4}),
        ("ours", {"method": "demons", "steps": 2}),
        ("greedy", {"pad": 4, "metric": "MI"}),
        ("ours", {"method": "refine", "steps": 3}),
        ("ours", {"method": "bspline"}),
        ("greedy", {}),
    ]


def test_labels_that_would_share_a_folder_are_told_apart(data, tmp_path):
    file = tmp_path / "m.yaml"
    pairs = [{"name": "p", "fixed": "hippocampus/images/a.nrrd", "moving": "hippocampus/images/b.nrrd"}]
    file.write_text(
        yaml.safe_dump({"name": "m", "pairs": pairs, "methods": {"a b": "demons", "a/b": "demons"}}), encoding="utf-8"
    )
    found = manifest.read(file, data)
    jobs = Benchmark(found, Programs(), tmp_path / "out").jobs()
    assert len({job.folder for job in jobs}) == 2


@pytest.mark.parametrize(
    "name", ["..", "../../x", "/etc/x", "a/../../b", ".", "", "\\x", "con/..", ".hidden", "肺" * 99]
)
def test_no_name_leads_out_of_the_folder(name, data, tmp_path):
    file = tmp_path / "m.yaml"
    pairs = [{"name": name, "fixed": "hippocampus/images/a.nrrd", "moving": "hippocampus/images/b.nrrd"}]
    file.write_text(yaml.safe_dump({"name": name, "pairs": pairs, "methods": {name: "demons"}}), encoding="utf-8")
    (job,) = Benchmark(manifest.read(file, data), Programs(), tmp_path / "out").jobs()
    assert len(job.folder.parts) == 3
    for part in (*job.folder.parts, safe_name(name)):
        assert (tmp_path / "out" / part).resolve().parent == tmp_path / "out"
        assert not part.startswith(".")
        assert len(part.encode()) <= 255


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: m\n" + BOMB, "aliases"),
        ("name: &n {a: *n}\n", "holds itself"),
        ("&m\nname: x\npairs: [*m]\n", "holds itself"),
        ("name: m\nbase: m.yaml\n", "its own base"),
        ("name: " + "[" * 5000 + "]" * 5000, "deeply"),
        ("name: [a]\n", "needs a name"),
        ("name: !!python/object/apply:os.system [true]\n", "not a manifest"),
    ],
)
def test_a_hostile_manifest_is_refused_at_once(text, sentence, data, tmp_path):
    (tmp_path / "m.yaml").write_text(text, encoding="utf-8")
    began = time.perf_counter()
    with pytest.raises(InputError, match=sentence):
        manifest.read(tmp_path / "m.yaml", data)
    assert time.perf_counter() - began < 5


def test_entries_of_a_pair_are_taken_plainly_or_refused_in_one_sentence(data, tmp_path):
    (data / "x.nrrd").touch()
    file = tmp_path / "plain.yaml"
    pair = "name: plain\nmethods: [refine]\npairs: [{name: p, fixed: x.nrrd, moving: x.nrrd, "
    file.write_text(pair + "region: x.nrrd}]", encoding="utf-8")
    assert manifest.read(file, data).pairs[0].region.file == data / "x.nrrd"
    for entry in ("region: {through: []}", "reference: x.nrrd", "structures: 3", "fixed_mask: [x.nrrd]"):
        file.write_text(f"{pair}{entry}}}]", encoding="utf-8")
        with pytest.raises(InputError, match=f"'{entry.partition(':')[0]}' of the pair 'p' is not understood"):
            manifest.read(file, data)
