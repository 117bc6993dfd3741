"""A training that was killed and resumed ends with the weights of one that was not, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.run import Work, train

pytestmark = pytest.mark.filterwarnings("ignore")


def same(first: Path, second: Path) -> bool:
    """Whether two files hold the same weights, bit by bit."""
    one, two = load_file(str(first)), load_file(str(second))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_killed_and_resumed_is_uninterrupted(write: Callable[..., Path], tmp_path: Path) -> None:
    config = write(trainer__max_steps=30)
    whole = train(Work(config, tmp_path / "whole", save_every=1000))
    line = [sys.executable, "-m", "RecurrentRegistrationLib", "train", str(config), "-o", str(tmp_path / "killed")]
    with subprocess.Popen([*line, "--save-every", "3"], env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        checkpoint = tmp_path / "killed" / "last.ckpt"
        until = time.monotonic() + 200
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    assert checkpoint.exists()
    assert not (tmp_path / "killed" / "model.safetensors").exists(), "it was killed too late to tell anything"
    resumed = train(Work(config, tmp_path / "killed", resume=True, save_every=1000))
    assert same(whole, resumed)
    again = train(Work(config, tmp_path / "killed", resume=True))
    assert again == resumed, "what is finished is not trained again"


def test_epochs_go_on_with_new_draws(write: Callable[..., Path], tmp_path: Path) -> None:
    whole = train(Work(write(trainer__max_steps=4), tmp_path / "whole"))
    epochs = {"trainer__max_steps": -1, "trainer__max_epochs": 2, "trainer__limit_train_batches": 2}
    config = write("epochs", **epochs)
    assert same(whole, train(Work(config, tmp_path / "epochs")))


def test_stages_hand_their_weights_on(write: Callable[..., Path], tmp_path: Path) -> None:
    stages = [{"name": "one", "trainer": {"max_steps": 2}}, {"name": "two", "model": {"optimisation": {"rate": 0.0}}}]
    config = write(trainer__max_steps=1, stages=stages)
    last = train(Work(config, tmp_path / "out"))
    assert last == tmp_path / "out" / "two" / "model.safetensors"
    assert same(tmp_path / "out" / "one" / "model.safetensors", last)


@pytest.mark.parametrize("left", ["last.ckpt", "model.safetensors"])
def test_another_training_is_not_overwritten(left: str, write: Callable[..., Path], tmp_path: Path) -> None:
    config = write(trainer__max_steps=1)
    train(Work(config, tmp_path / "out"))
    for name in {"last.ckpt", "model.safetensors"} - {left}:
        (tmp_path / "out" / name).unlink()
    with pytest.raises(InputError, match="--resume"):
        train(Work(config, tmp_path / "out"))


def test_a_finished_training_goes_on_to_more_steps(write: Callable[..., Path], tmp_path: Path) -> None:
    whole = train(Work(write(trainer__max_steps=5), tmp_path / "whole"))
    train(Work(write(trainer__max_steps=3), tmp_path / "longer"))
    longer = train(Work(write(trainer__max_steps=5), tmp_path / "longer", resume=True))
    assert json.loads(longer.with_suffix(".json").read_text(encoding="utf-8"))["training_steps"] == 5
    assert same(whole, longer)


def test_resumed_with_another_rate_it_learns_at_that_rate(write: Callable[..., Path], tmp_path: Path) -> None:
    train(Work(write(trainer__max_steps=2), tmp_path / "out"))
    before = torch.load(tmp_path / "out" / "last.ckpt", weights_only=False)["state_dict"]
    rest = {"rate": 1.0, "schedule": {"shape": "linear", "length": 1}}  # over since the first step
    train(Work(write(trainer__max_steps=4, model__optimisation=rest), tmp_path / "out", resume=True))
    after = torch.load(tmp_path / "out" / "last.ckpt", weights_only=False)["state_dict"]
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("damage", "sentence"), [(True, "cannot be read"), (False, "another method")])
def test_a_checkpoint_that_does_not_fit_is_told(
    damage: bool, sentence: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    train(Work(write(trainer__max_steps=1), tmp_path / "out"))
    (tmp_path / "out" / "model.safetensors").unlink()
    checkpoint = tmp_path / "out" / "last.ckpt"
    if damage:
        checkpoint.write_bytes(checkpoint.read_bytes()[:200])
    other = write("other", model__options={"width": 4 if damage else 8})
    with pytest.raises(InputError, match=sentence):
        train(Work(other, tmp_path / "out", resume=True))


def test_first_weights_are_those_of_the_first_stage(write: Callable[..., Path], tmp_path: Path) -> None:
    first = train(Work(write("first", trainer__max_steps=1), tmp_path / "first"))
    stages = [{"name": "one"}, {"name": "two", "model": {"optimisation": {"rate": 0.0}}}]
    last = train(Work(write(trainer__max_steps=1, stages=stages), tmp_path / "out", (f"--model.initial={first}",)))
    assert same(tmp_path / "out" / "one" / "model.safetensors", last)
