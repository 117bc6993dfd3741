"""Weights that ship: what is written comes back, and nothing else is taken."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from phantom import centred, head

from RecurrentRegistrationLib import methods, pipeline, weights
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.pipeline.options import Options
from RecurrentRegistrationLib.pipeline.presets import PRESETS, Preset
from RecurrentRegistrationLib.weights import write as write_weights

ROOT = Path(__file__).parents[2]


def model(name: str = "phantom-riir", **changes) -> weights.Model:
    known = {
        "method": "riir",
        "dimension": 2,
        "summary": "Phantoms with phantoms.",
        "data": "phantoms",
        "licence": "CC0",
        "configuration": "training/configs/weights/phantom.yaml",
        "seed": 3,
        "options": {"hidden": [4, 4], "width": 4},
        "held_back": ("a", "b"),
    }
    return weights.Model(name=name, **known | changes)


def trained(about: weights.Model):
    """A method whose weights are no longer those it begins with."""
    torch.manual_seed(1)
    method = methods.create(about.method, about.dimension, **about.options).eval()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return method


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of weights that the environment names, with one set in it."""
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path))
    weights.save(model(), trained(model()))
    return tmp_path


def test_weights_come_back_in_half_precision(shelf):
    saved = weights.find("phantom-riir")
    expected = trained(model()).state_dict()
    for name, tensor in weights.create(saved).state_dict().items():
        assert torch.equal(tensor, expected[name].half().float())
    size = (shelf / "phantom-riir" / weights.WEIGHTS).stat().st_size
    assert saved.bytes == size < 3 * sum(tensor.numel() for tensor in expected.values()) + 4000


def test_the_card_comes_back(shelf):
    saved = weights.find("phantom-riir")
    assert saved.folder == shelf / "phantom-riir"
    unknown_before = {"sha256": "", "bytes": 0}
    assert saved.card() | unknown_before == model().card()
    weights.save_card(dataclasses.replace(saved, metrics={"dice": 0.5}))
    assert weights.find("phantom-riir").metrics == {"dice": 0.5}


def notes_of(**options) -> tuple[pipeline.Run, str]:
    fixed, moving = (head(centred((40, 44), (spacing, spacing))) for spacing in (2.0, 2.1))
    run = pipeline.start(fixed, moving, options=Options(linear="none", initial="none", **options))
    return run, " ".join(run.notes)


@pytest.mark.parametrize("how", [{"method": "riir", "weights": "phantom-riir"}, {"weights": "phantom-riir"}])
def test_a_registration_takes_the_weights_and_says_so(shelf, how):
    run, notes = notes_of(**how)
    assert "Weights: phantom-riir, trained on phantoms. For: Phantoms with phantoms." in notes
    assert "untrained" not in notes
    file = shelf / "phantom-riir" / weights.WEIGHTS
    by_file, _ = notes_of(method="riir", weights=file, method_options=dict(model().options))
    (*_, last), (*_, expected) = run, by_file
    assert expected.field.values.abs().max() > 0.01
    assert torch.equal(last.field.values, expected.field.values)


def test_a_registration_works_as_the_weights_were_trained(shelf):
    weights.save(model(spacing=4.0, steps=3), trained(model()))
    run, _ = notes_of(weights="phantom-riir")
    assert run.plan.grid.spacing == pytest.approx((4.0, 4.0), rel=0.1)
    assert len(list(run)) == run.plan.planned_steps == 3
    asked, _ = notes_of(weights="phantom-riir", spacing=3.0, steps=2)
    assert asked.plan.grid.spacing == pytest.approx((3.0, 3.0), rel=0.1)
    assert len(list(asked)) == asked.plan.planned_steps == 2


def test_a_preset_brings_its_weights_where_the_method_is_left_open(shelf, monkeypatch):
    monkeypatch.setitem(PRESETS, "phantoms", Preset("phantoms", weights="phantom-riir"))
    run, notes = notes_of(preset="phantoms")
    assert run.plan.model == weights.find("phantom-riir")
    assert run.plan.method.card.name == "riir"
    assert "Weights: phantom-riir" in notes
    chosen, _ = notes_of(preset="phantoms", method="refine")
    assert chosen.plan.model is None
    assert chosen.plan.method.card.name == "refine"


def test_a_preset_does_without_weights_that_are_not_there(shelf, monkeypatch):
    monkeypatch.setitem(PRESETS, "phantoms", Preset("phantoms", weights="deleted"))
    run, notes = notes_of(preset="phantoms")
    assert run.plan.model is None
    assert run.plan.method.card.name == "refine"
    assert f"The weights 'deleted' are not in {shelf}" in notes


def test_the_presets_weights_ship(monkeypatch):
    monkeypatch.delenv(weights.VARIABLE, raising=False)
    shipped = {m.name for m in weights.models()}
    if not shipped:
        pytest.skip("no weights ship")
    assert {preset.weights for preset in PRESETS.values()} - {None} <= shipped


def test_other_options_than_the_weights_leave_the_method_untrained(shelf):
    with pytest.raises(InputError, match="'riir' has no weights here: give some, or train it"):
        notes_of(method="riir", method_options={"width": 2})
    run, notes = notes_of(method="riir", method_options={"width": 2}, untrained=True)
    assert run.plan.model is None
    assert "untrained" in notes


def test_a_file_of_weights_is_read_with_its_card(shelf):
    weights.save(model(spacing=4.0, steps=3), trained(model()))
    by_name, _ = notes_of(weights="phantom-riir")
    by_file, notes = notes_of(weights=shelf / "phantom-riir" / weights.WEIGHTS)
    (*_, expected), (*_, found) = by_name, by_file
    assert (by_file.plan.method.card.name, by_file.plan.planned_steps) == ("riir", 3)
    assert torch.equal(found.field.values, expected.field.values)
    assert "Weights: phantom-riir" in notes


def test_a_file_of_a_training_is_read_with_its_description(tmp_path):
    description = {"name": "riir", "dimension": 2, "options": {"hidden": [4, 4], "width": 4}, "steps": 3}
    file = tmp_path / "model.safetensors"
    write_weights(trained(model()), file, description | {"spacing": [4.0, 4.0], "seed": 3})
    run, notes = notes_of(weights=file)
    assert (run.plan.method.card.name, run.plan.planned_steps) == ("riir", 3)
    assert run.plan.grid.spacing == pytest.approx((4.0, 4.0), rel=0.1)
    assert f"Weights: {file}." in notes
    assert list(run)[-1].field.values.abs().max() > 0.01
    with pytest.raises(InputError, match="for the method 'riir'"):
        notes_of(method="gradirn", weights=file)
    file.with_suffix(".json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match=r"model\.json"):
        notes_of(weights=file)


def test_a_file_of_weights_that_is_missing_is_refused(tmp_path):
    for method in ("auto", "riir"):
        with pytest.raises(InputError, match=r"There is no file .*model\.safetensors"):
            notes_of(method=method, weights=tmp_path / "model.safetensors")


def test_a_file_of_weights_alone_needs_a_method(shelf, tmp_path_factory):
    file = tmp_path_factory.mktemp("alone") / "mine.safetensors"
    file.write_bytes((shelf / "phantom-riir" / weights.WEIGHTS).read_bytes())
    with pytest.raises(InputError, match=r"mine\.safetensors.*name their method"):
        notes_of(weights=file)
    write_weights(methods.create("riir", 2), file, {})
    file.with_suffix(".json").unlink()
    _, notes = notes_of(method="riir", weights=file)
    assert "mine.safetensors says with which options, spacing and steps it was trained: those of riir" in notes


def test_weights_are_also_named_by_their_folder(shelf):
    by_name, _ = notes_of(weights="phantom-riir")
    by_folder, _ = notes_of(weights=shelf / "phantom-riir")
    assert by_folder.plan.model == by_name.plan.model


def test_weights_that_are_not_there_are_listed_with_their_place(shelf):
    with pytest.raises(InputError, match=f"no weights 'other' in .*; there are: phantom-riir. {weights.VARIABLE}"):
        notes_of(weights="other")


def test_weights_of_another_method_are_refused(shelf):
    with pytest.raises(InputError, match="for the method 'riir'"):
        notes_of(method="gradirn", weights="phantom-riir")


def test_a_folder_may_be_given(shelf, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    weights.save(model("elsewhere"), trained(model()), other)
    assert [m.name for m in weights.models(other)] == ["elsewhere"]
    assert [m.name for m in weights.models()] == ["phantom-riir"]
    assert weights.models(other / "missing") == []


def test_changed_weights_are_refused(shelf):
    path = shelf / "phantom-riir" / weights.WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="other checksum"):
        weights.create(weights.find("phantom-riir"))


def test_missing_weights_are_refused(shelf):
    (shelf / "phantom-riir" / weights.WEIGHTS).unlink()
    with pytest.raises(InputError, match="cannot be read"):
        weights.create(weights.find("phantom-riir"))


def test_weights_of_another_shape_are_refused(shelf):
    wider = dataclasses.replace(weights.find("phantom-riir"), options={"hidden": [8, 8], "width": 4})
    with pytest.raises(InputError, match="do not fit"):
        weights.create(wider)


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"name": "phantom-riir", "held_back": []})])
def test_broken_cards_are_named(shelf, content):
    (shelf / "phantom-riir" / weights.CARD).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"phantom-riir/card\.json"):
        weights.models()


def test_unknown_names_and_several_weights_are_refused(shelf):
    with pytest.raises(InputError, match=r"no weights 'magic'.*phantom-riir"):
        weights.find("magic")
    weights.save(model("phantom-riir-2"), trained(model()))
    with pytest.raises(InputError, match="choose phantom-riir or phantom-riir-2"):
        weights.of_method("riir", 2)
    assert weights.of_method("riir", 3) is None


def test_shipped_weights_are_whole_small_and_judged(monkeypatch):
    """Each loads, names a training that exists, and was better on pairs it never saw, or as good in less time."""
    monkeypatch.delenv(weights.VARIABLE, raising=False)
    shipped = weights.models()
    if not shipped:
        pytest.skip("no weights ship")
    assert sum(m.bytes for m in shipped) < 3e7
    for m in shipped:
        weights.create(m)
        assert (ROOT / m.configuration).exists()
        assert m.data
        assert m.licence
        results = m.metrics.get("recoloured", m.metrics)["results"]  # of the contrasts that they are for
        default, ours = results["default"], [found for name, found in results.items() if name.startswith(m.name)]
        better = [r for r in ours if r["dice"] >= default["dice"] and r["processor"] <= default["processor"]]
        assert better
        assert all(r["folding"] == 0 for r in better)
