"""From a configuration to weights: each stage in turn, by Lightning."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from RecurrentRegistrationLib import weights
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train import configuration, made, saturation_recovery
from RecurrentRegistrationLib.train.callbacks import Cost, StopOnNaN
from RecurrentRegistrationLib.train.cards import Card, publish
from RecurrentRegistrationLib.train.checkpoints import CompleteCheckpoints
from RecurrentRegistrationLib.train.data import ImagePairs
from RecurrentRegistrationLib.train.labelled import LabelledImages
from RecurrentRegistrationLib.train.module import Training
from RecurrentRegistrationLib.train.subjects import SubjectPairs
from RecurrentRegistrationLib.train.synthetic import SyntheticPairs

__all__ = ["Work", "train"]

# A configuration names classes; those that are imported go by their last name.
NAMED = (ImagePairs, LabelledImages, SubjectPairs, SyntheticPairs, saturation_recovery.SaturationRecovery)

WEIGHTS, CHECKPOINT, LOGS = "model.safetensors", "last.ckpt", "logs"
ENGINE = {
    "max_epochs": -1,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "reload_dataloaders_every_n_epochs": 1,  # a loader begins where the training stands
    "use_distributed_sampler": False,
    "enable_model_summary": False,
    "log_every_n_steps": 10,
}
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
SAID_ANYWAY = (
    "LightningCLI's args parameter",
    r"\s*Unable to serialize instance",
    "Checkpoint directory",
    "Experiment logs directory",
    ".*isinstance.treespec, LeafSpec",
    ".*does not have many workers",
    "The number of training batches",
    "Total length of `list`",
    ".*exists and is not empty",
    "Be aware that when using `ckpt_path`",
)


@dataclass(frozen=True)
class Work:
    """What to train and where.

    Attributes:
        config: the YAML file.
        output: folder for checkpoints, logs and weights.
        overrides: settings as on a command line, for example `--trainer.max_steps=10`.
        dry: one tiny batch of made data through every stage, nothing kept.
        resume: go on where an earlier run in `output` stopped.
        save_every: training steps between checkpoints.
    """

    config: Path
    output: Path
    overrides: tuple[str, ...] = ()
    dry: bool = False
    resume: bool = False
    save_every: int = 500


class Parser(LightningCLI):
    """Lightning's command line, for its reading of configurations and making of objects alone."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """One seed for weights, draws and data; what a card says."""
        parser.add_argument("--card", type=Card | None, default=None, help="of weights that are to ship")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)


def train(work: Work) -> Path | None:
    """Train all stages and return the file of the last one's weights, or the folder of those that are to ship.

    None for a dry run.

    Raises:
        InputError: the configuration or the data cannot be used, the loss is not a number, or the disk is full.
    """
    listed = configuration.stages(configuration.read(work.config))
    begun = any(any(work.output.rglob(name)) for name in (CHECKPOINT, WEIGHTS))
    if begun and not (work.resume or work.dry):
        raise InputError(f"There is a training in {work.output}: go on with --resume, or give another --output.")
    found: Path | None = None
    with quiet(), made.data() if work.dry else contextlib.nullcontext() as folder:
        for name, tree in listed:
            tree = made.replaced(tree, folder) if folder else tree
            if found is not None:
                tree = configuration.merged(tree, {"model": {"initial": str(found)}})
                work = replace(work, overrides=_without_initial(work.overrides))
            cli, found = _stage(work, name, tree, work.output if folder is None else folder / "output")
            card, data = cli.config_init["card"], cli.datamodule
            del cli
            gc.collect()  # a trainer and its module hold each other: their memory is for the next stage
    if work.dry or found is None or card is None:
        return None if work.dry else found
    return publish(card, found, work.output, data)


def _stage(work: Work, name: str, tree: configuration.Tree, output: Path) -> tuple[Parser, Path]:
    folder = output / name if name else output
    cli = _parsed(tree, work, folder)
    trainer, finished, last = cli.trainer, folder / WEIGHTS, folder / CHECKPOINT
    if work.resume and finished.exists() and not (last.exists() and _asks_for_more(trainer.max_steps, finished)):
        return cli, finished
    _check(trainer)
    if cli.config_init["card"] is not None and not isinstance(cli.datamodule, (SubjectPairs, LabelledImages)):
        raise InputError(
            "Weights with a card are trained on SubjectPairs or LabelledImages: change data.class_path, or leave out "
            "the card."
        )
    try:
        with _no_trace(trainer, folder / LOGS):
            trainer.fit(cli.model, cli.datamodule, ckpt_path=str(last) if work.resume and last.exists() else None)
    except SystemExit:
        if trainer.interrupted:  # Lightning turns Ctrl-C into an exit
            raise KeyboardInterrupt from None
        raise
    except MisconfigurationException as error:
        raise _unusable(work, error) from error
    if not work.dry:
        trainer.save_checkpoint(last)  # so that a longer training can go on from here
    if trainer.is_global_zero:
        weights.write(cli.model.method, finished, _description(cli, tree, work), half=cli.model.half_precision)
    trainer.strategy.barrier()
    return cli, finished


def _without_initial(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """The settings without the first weights, which are for the first stage; later ones begin with its."""
    key = "--model.initial"
    after = [n > 0 and overrides[n - 1] == key for n in range(len(overrides))]
    kept = zip(overrides, after, strict=True)
    return tuple(word for word, value in kept if not value and word != key and not word.startswith(f"{key}="))


def _asks_for_more(steps: int, finished: Path) -> bool:
    """Whether a training is asked for more steps than when these weights were written."""
    try:
        return steps > json.loads(finished.with_suffix(".json").read_text(encoding="utf-8"))["max_steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _check(trainer: Trainer) -> None:
    """Raises InputError for what Lightning takes and fails at, or a training without an end: its draws have none."""
    for name, number in (
        ("accumulate_grad_batches", trainer.accumulate_grad_batches),
        ("val_check_interval", trainer.val_check_interval),
    ):
        if isinstance(number, int) and number < 1:
            raise InputError(f"trainer.{name} is 1 or more, not {number}.")
    if trainer.precision not in PRECISIONS:
        raise InputError(f"trainer.precision is {', '.join(PRECISIONS)}, not {trainer.precision}: data have 32 bits.")
    epochs = trainer.max_epochs not in (None, -1) and trainer.limit_train_batches != 1.0
    timed = any(isinstance(callback, Timer) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    if trainer.max_steps == -1 and not (epochs or timed):
        raise InputError(
            "Nothing ends this training: give trainer.max_steps, trainer.max_time, or max_epochs and a whole number as "
            "limit_train_batches."
        )


def _unusable(work: Work, error: Exception) -> InputError:
    """What is wrong with the settings: the library's own sentence where there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__ or cause.__context__
    return InputError(str(cause or f"The configuration {work.config} cannot be used: {error}"))


@contextlib.contextmanager
def _no_trace(trainer: Trainer, logs: Path) -> Iterator[None]:
    """Take away the logs of a training that fails before its first step, and the folders made for them."""
    made = [path for path in (logs, *logs.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if made and trainer.global_step == 0:
            shutil.rmtree(logs, ignore_errors=True)
            with contextlib.suppress(OSError):  # from the first that holds something else
                for path in made[1:]:
                    path.rmdir()
        raise


def _parsed(tree: configuration.Tree, work: Work, folder: Path) -> Parser:
    """The trainer, the module and the data of a stage."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "configuration.yaml"
        file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        arguments = ["--config", str(file), *work.overrides]
        if work.dry:
            arguments.append("--trainer.fast_dev_run=1")
        try:
            return Parser(
                Training,
                LightningDataModule,
                subclass_mode_data=True,
                run=False,
                args=arguments,
                save_config_callback=None,
                trainer_defaults=_engine(work, folder),
                seed_everything_default=0,
                auto_configure_optimizers=False,
                parser_kwargs={"exit_on_error": False},
            )
        except InputError:
            raise
        except (ArgumentError, MisconfigurationException, ValueError) as error:
            raise _unusable(work, error) from error


def _engine(work: Work, folder: Path) -> dict[str, Any]:
    """How Lightning runs a stage; a configuration may say otherwise."""
    last = ModelCheckpoint(
        folder, "last", every_n_train_steps=work.save_every, enable_version_counter=False, save_on_train_epoch_end=False
    )
    return {
        **ENGINE,
        "default_root_dir": str(folder),
        "plugins": [CompleteCheckpoints()],
        "callbacks": [StopOnNaN(folder), Cost(), last],
        "logger": False if work.dry else [log(folder, name="", version=LOGS) for log in (TensorBoardLogger, CSVLogger)],
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what Lightning says of itself, of how it is called here on purpose, and of other products."""
    logs = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in SAID_ANYWAY:
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.setLevel(level)


def _description(cli: Parser, tree: configuration.Tree, work: Work) -> dict[str, Any]:
    """What the weights are, for the file beside them."""
    model: Training = cli.model
    cost = next(c for c in cli.trainer.callbacks if isinstance(c, Cost))  # type: ignore[attr-defined]
    return {
        "name": model.name,
        "dimension": model.dimension,
        "options": model.options,
        "steps": model.count,
        "spacing": list(cli.datamodule.spacing),
        "seed": cli.config["seed_everything"],
        "training_steps": cli.trainer.global_step,
        "max_steps": cli.trainer.max_steps,
        "processes": cli.trainer.world_size,
        "cost": cost.described(model.device),
        "metrics": {name: float(value) for name, value in cli.trainer.callback_metrics.items()},
        "configuration": {"file": str(work.config), "overrides": list(work.overrides), "settings": tree},
    }
