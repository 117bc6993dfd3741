"""A training that was killed and resumed ends with the weights of one that was not, to the bit."""

from __future__ import annotations

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


def test_stages_hand_their_weights_on(write: Callable[..., Path], tmp_path: Path) -> None:
    stages = [{"name": "one", "trainer": {"max_steps": 2}}, {"name": "two", "model": {"optimisation": {"rate": 0.0}}}]
    config = write(trainer__max_steps=1, stages=stages)
    last = train(Work(config, tmp_path / "out"))
    assert last == tmp_path / "out" / "two" / "model.safetensors"
    assert same(tmp_path / "out" / "one" / "model.safetensors", last)


def test_another_training_is_not_overwritten(write: Callable[..., Path], tmp_path: Path) -> None:
    config = write(trainer__max_steps=1)
    train(Work(config, tmp_path / "out", save_every=1))
    with pytest.raises(InputError, match="--resume"):
        train(Work(config, tmp_path / "out"))
