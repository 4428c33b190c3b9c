"""Training runs: make one, go on with one, evaluate one."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from maml_fast.arguments import choice, instance, location, optional, takes, text, whole
from maml_fast.maml.arguments import STEPS
from maml_fast.maml.heads import N_CLASSES
from maml_fast.train.config import CHOICES, EPISODES, THREADS, TrainConfig
from maml_fast.train.integrity import FREE_ON_RESUME, check_arguments
from maml_fast.train.record import Row, RunFolder
from maml_fast.train.schedule import SCHEDULES
from maml_fast.train.trainer import (
    Reporter,
    RunResult,
    Trainer,
    TrainingInterrupted,
    UnrecordedError,
    record_evaluation,
)
from maml_fast.train.workbench import Workbench

__all__ = ["Reporter", "RunResult", "TrainConfig", "TrainingInterrupted", "evaluate_run", "resume", "train"]


_reporter = optional(instance(Reporter, "derive from maml_fast.train.Reporter"))


@takes(config=optional(instance(TrainConfig)), out=optional(location), reporter=_reporter)
def train(
    config: TrainConfig | None = None, *, out: Path | str | None = None, reporter: Reporter | None = None
) -> RunResult:
    """Meta-train as ``config`` says, into the new run folder ``out`` (default: a fresh one under ``runs/``).

    Ends with an evaluation on the test classes and the pictures. Everything random comes from ``config.seed``; torch's
    own generators are left as they were.

    Raises:
        FileExistsError, OSError: ``out`` holds something already, or cannot be written.
        TypeError: an argument is of another type.
        ValueError, FileNotFoundError: the data are missing, or too few for such episodes.
        RuntimeError: the loss or a gradient is not finite, or a file cannot be written; the last good checkpoint stays.
        TrainingInterrupted: SIGINT or SIGTERM; the checkpoint is of the last whole iteration.
    """
    config = TrainConfig.for_dataset() if config is None else config
    reporter = Reporter() if reporter is None else reporter
    folder = RunFolder.create(out, config.recipe or f"{config.dataset}-{config.n_way}w{config.k_shot}s")
    with _session(config), folder.locked():
        folder.take()
        try:
            trainer = Trainer(config, folder, Workbench.open(config, reporter.preparing), reporter)
        except BaseException:
            folder.give_back()
            raise
        folder.write_json(folder.config, trainer.describe())
        trainer.save()
        return trainer.run()


@takes(run=location, reporter=_reporter)
def resume(run: Path | str, *, reporter: Reporter | None = None, **changes: Any) -> RunResult:
    """Go on with a run from its checkpoint, bitwise as if it had never stopped.

    ``changes`` are arguments of :class:`TrainConfig`. ``iterations`` may be raised, and what changes no number may be
    changed; any other argument must be what the run has.

    Raises:
        FileNotFoundError: ``run`` is no run folder, or has no checkpoint.
        ValueError: arguments conflict with the run's (all are named), its files are damaged, or its data have changed.
        RuntimeError: another process is training this run.
    """
    reporter = Reporter() if reporter is None else reporter
    folder = RunFolder.open(run)
    with folder.locked():
        record = folder.read_config()
        config = _changed(TrainConfig.from_arguments(record["arguments"]), changes, folder)
        state = folder.load_checkpoint()
        if config.iterations < state["iteration"]:
            raise ValueError(
                f"iterations {config.iterations} is less than the {state['iteration']} that {folder.path} has done"
            )
        with _session(config):
            trainer = Trainer(config, folder, Workbench.open(config, reporter.preparing), reporter)
            trainer.restore(state, record)
            folder.write_json(folder.config, trainer.describe(record))
            return trainer.run()


def _changed(config: TrainConfig, changes: dict[str, Any], folder: RunFolder) -> TrainConfig:
    """``config`` with the changes that a resumed run may take; the others are refused, all in one message."""
    new = dataclasses.replace(config, **changes)
    old = config.arguments()
    conflicts = [
        f"{name} (run: {old[name]}, asked: {value})"
        for name, value in new.arguments().items()
        if value != old[name] and name not in _free(config)
    ]
    if conflicts:
        raise ValueError(
            f"{folder.path} cannot go on with other arguments: {', '.join(conflicts)}; leave them out or start anew"
        )
    return new


def _free(config: TrainConfig) -> tuple[str, ...]:
    """What may be changed: not the length of a run whose outer step size falls towards its end."""
    fixed = ("iterations",) if SCHEDULES[config.meta_schedule].to_the_end else ()
    return tuple(name for name in FREE_ON_RESUME if name not in fixed)


@contextlib.contextmanager
def _session(config: TrainConfig) -> Iterator[None]:
    """Thread count and random generators of this run; torch is as before when it ends."""
    threads = torch.get_num_threads()
    devices = [torch.cuda.current_device()] if config.device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(config.seed)  # for modules that draw while they train
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@takes(
    run=location,
    episodes=EPISODES,
    inner_steps=optional(STEPS),
    n_way=optional(N_CLASSES),
    split=text,
    seed=optional(whole(0, 2**64 - 1)),
    root=optional(location),
    device=optional(choice(*CHOICES["device"])),
    threads=optional(THREADS),
)
def evaluate_run(
    run: Path | str,
    *,
    episodes: int = 600,
    inner_steps: int | None = None,
    n_way: int | None = None,
    split: str = "test",
    seed: int | None = None,
    root: Path | str | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> Row:
    """Evaluate the checkpoint of a run on ``episodes`` tasks; also writes ``evaluation-*.json`` into its folder.

    What is None is as in the run; ``n_way`` may be any, as :meth:`maml_fast.MAML.for_classes` says. Returns accuracy,
    95 % interval, both after every inner step, and the conditions they hold under: split, ways, steps, episodes, seed,
    batch-norm policy, iteration of the checkpoint, backend. Where that policy is transductive, ``by_support`` holds
    accuracy and interval on the same episodes by the support set's statistics.

    Raises:
        FileNotFoundError: ``run`` is no run folder, or has no checkpoint.
        TypeError: an argument is of another type.
        ValueError: an argument is out of range, files are damaged, or the data have changed.
    """
    folder = RunFolder.open(run)
    record = folder.read_config()
    asked = {"eval_inner_steps": inner_steps, "eval_n_way": n_way, "root": root, "device": device, "threads": threads}
    given = {name: value for name, value in asked.items() if value is not None}
    of_training = {"cuda_graph": None}  # another device may have none
    config = TrainConfig.from_arguments({**record["arguments"], **of_training, **given, "test_episodes": episodes})
    state = folder.load_checkpoint()
    with _session(config):
        bench = Workbench.open(config)
        if split not in bench.data:
            raise ValueError(f"split must be one of {', '.join(bench.data)}; got {split!r}")
        bench.check_data(record, folder)
        with folder.fitting_checkpoint():
            bench.learner.load_state_dict(state["maml"])
            check_arguments(state, record["arguments"])
        try:
            return record_evaluation(bench, folder, state["iteration"], split, episodes, seed, by_support=True)
        except UnrecordedError as unrecorded:  # the result is worth more than its file
            warnings.warn(str(unrecorded), RuntimeWarning, stacklevel=3)
            return unrecorded.row
