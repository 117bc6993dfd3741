"""What happens to a training when the numbers, the disk or the processes fail."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train import terms
from RecurrentRegistrationLib.train.judged import Judged
from RecurrentRegistrationLib.train.run import Work, train

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_loss_that_is_no_number_stops_and_keeps_the_batch(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))
    monkeypatch.setitem(
        terms.TERMS, "mse", lambda: lambda judged: judged.warped.mean() / (0.0 if next(calls) > 2 else 1.0)
    )
    with pytest.raises(InputError, match="step 3: the batch is in"):
        train(Work(write(), tmp_path / "out", save_every=1))
    kept = torch.load(tmp_path / "out" / "bad_batch_3_0.pt", weights_only=False)
    assert kept["step"] == 3
    assert kept["batch"]["fixed"].shape == (2, 1, 24, 20)
    assert (tmp_path / "out" / "last.ckpt").exists()
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_gradient_that_is_no_number_stops_before_the_weights_are_touched(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))

    def steep(judged: Judged) -> torch.Tensor:  # 0 with an infinite slope
        wrong = (judged.warped - judged.warped.detach()).abs().mean().sqrt() if next(calls) > 2 else 0.0
        return judged.warped.mean() + wrong

    monkeypatch.setitem(terms.TERMS, "mse", lambda: steep)
    with pytest.raises(InputError, match=r"gradient is not a number at step 3.*bad_batch_3_0\.pt"):
        train(Work(write(), tmp_path / "out", save_every=1))
    kept = torch.load(tmp_path / "out" / "last.ckpt", weights_only=False)["state_dict"]
    assert all(value.isfinite().all() for value in kept.values())
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_full_disk_leaves_the_last_good_checkpoint(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Path.write_bytes
    checkpoint = tmp_path / "out" / "last.ckpt"

    def full(path: Path, data: bytes) -> int:
        if checkpoint.exists():
            written(path, bytes(data)[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        train(Work(write(), tmp_path / "out", save_every=2))
    assert torch.load(checkpoint, weights_only=False)["global_step"] == 2
    assert [p.name for p in checkpoint.parent.iterdir() if p.is_file()] == ["last.ckpt"], "no half-written file stays"
    monkeypatch.undo()
    assert train(Work(write(), tmp_path / "out", resume=True)).exists()


def test_two_processes_are_one_with_twice_the_batch(write: Callable[..., Path], tmp_path: Path) -> None:
    single = train(Work(write(trainer__max_steps=3, data__init_args__batch_size=4), tmp_path / "single"))
    config = write("two", trainer__max_steps=3, data__init_args__batch_size=2)
    settings = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]
    line = [
        sys.executable,
        "-m",
        "RecurrentRegistrationLib",
        "train",
        str(config),
        "-o",
        str(tmp_path / "two"),
        *settings,
    ]
    done = subprocess.run(
        line, capture_output=True, encoding="utf-8", check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = load_file(str(single)), load_file(str(tmp_path / "two" / "model.safetensors"))
    start = load_file(
        str(train(Work(write("start", model__optimisation={"rate": 0.0}, trainer__max_steps=1), tmp_path / "start")))
    )
    moved = max(np.abs((one[name] - start[name]).numpy()).max() for name in one)
    apart = max(np.abs((one[name] - two[name]).numpy()).max() for name in one)
    assert moved > 1e-4
    assert apart < 1e-3 * moved


def test_a_loss_that_is_no_number_in_one_process_is_told_by_all(write: Callable[..., Path], tmp_path: Path) -> None:
    script = tmp_path / "spoilt.py"
    script.write_text(
        "import os, sys\nfrom RecurrentRegistrationLib.cli import run\n"
        "from RecurrentRegistrationLib.train import terms\n"
        "worth = float('nan') if os.environ.get('LOCAL_RANK') == '1' else 1.0\n"
        "terms.TERMS['mse'] = lambda: lambda judged: judged.warped.mean() * worth\n"
        "sys.exit(run(sys.argv[1:]))\n",
        encoding="utf-8",
    )
    line = [sys.executable, str(script), "train", str(write()), "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [*line, "--trainer.devices=2", "--trainer.strategy=ddp"],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert "The loss is nan at step 0" in done.stderr


def test_weights_come_with_their_story(write: Callable[..., Path], tmp_path: Path) -> None:
    path = train(Work(write(trainer__max_steps=1, seed_everything=7), tmp_path / "out"))
    story = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert (story["name"], story["dimension"], story["options"], story["seed"]) == ("rcn", 2, {"width": 4}, 7)
    assert story["spacing"] == [1.0, 1.0]
    assert story["configuration"]["settings"]["model"]["steps"] == 2


def test_recomputing_steps_changes_nothing(write: Callable[..., Path], tmp_path: Path) -> None:
    plain = train(Work(write(trainer__max_steps=2), tmp_path / "plain"))
    saving = train(Work(write(trainer__max_steps=2, model__checkpoint=True), tmp_path / "saving"))
    one, two = load_file(str(plain)), load_file(str(saving))
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
