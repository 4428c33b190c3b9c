"""Training runs: make one, go on with one, evaluate one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from maml_fast._arguments import choice, instance, location, optional, takes, text, whole
from maml_fast.distributed._group import Group
from maml_fast.distributed._joining import joined
from maml_fast.distributed._launch import launch_id
from maml_fast.distributed._machine import take_gpu, threads_of
from maml_fast.maml._arguments import STEPS
from maml_fast.maml._heads import N_CLASSES
from maml_fast.train._config import CHOICES, EPISODES, THREADS, TrainConfig
from maml_fast.train._integrity import FREE_ON_RESUME, check_arguments
from maml_fast.train._metrics import cut_metrics
from maml_fast.train._record import RUNS, Row, RunFolder
from maml_fast.train._schedule import SCHEDULES
from maml_fast.train._trainer import (
    Reporter,
    RunResult,
    Trainer,
    TrainingInterrupted,
    UnrecordedError,
    record_evaluation,
)
from maml_fast.train._workbench import Workbench

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
    with joined() as group:
        begun = group.from_first(lambda: _begun_by_this_launch(out, config)) if group.restarts else None
        if begun is not None:
            return _go_on(begun, group, reporter, {})
        group.check_same("the arguments", {**config.arguments(), "root": None})
        stem = config.recipe or f"{config.dataset}-{config.n_way}w{config.k_shot}s"
        folder = group.from_first(lambda: RunFolder.create(out, stem))
        with _session(config, group), contextlib.ExitStack() as stack:
            with group.together():
                if group.leads:
                    stack.enter_context(folder.locked())
                    folder.take()
            try:
                trainer = _open(config, folder, group, reporter)
            except BaseException:
                if group.leads:
                    folder.give_back()
                raise
            with group.together():
                trainer.begin()
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
    with joined() as group:
        return _go_on(group.from_first(lambda: RunFolder.open(run)), group, reporter, changes)


def _go_on(folder: RunFolder, group: Group, reporter: Reporter | None, changes: dict[str, Any]) -> RunResult:
    """Go on with a run, whose folder the leading process alone need see."""
    with contextlib.ExitStack() as stack:

        def read() -> tuple[Row, TrainConfig, Row]:
            stack.enter_context(folder.locked())
            record = folder.read_config()
            config = _changed(TrainConfig.from_arguments(record["arguments"]), changes, folder)
            state = folder.load_checkpoint()
            if config.iterations < state["iteration"]:
                raise ValueError(
                    f"iterations {config.iterations} is less than the {state['iteration']} that {folder.path} has done"
                )
            return record, config, state

        record, config, state = group.from_first(read)
        with _session(config, group):
            trainer = _open(config, folder, group, reporter)
            with group.together():
                trainer.restore(state, record)
            trainer.rows = group.from_first(lambda: cut_metrics(folder.metrics, trainer.iteration))
            with group.together():
                trainer.begin(record)
            return trainer.run()


def _begun_by_this_launch(out: Path | str | None, config: TrainConfig) -> RunFolder | None:
    """The run that was being trained when torchrun started all processes anew; None if it had no checkpoint yet."""
    paths = [Path(out)] if out is not None else sorted(Path(RUNS).glob("*"), key=os.path.getmtime, reverse=True)
    for folder in map(RunFolder, paths):
        if folder.config.is_file() and folder.checkpoint.is_file():
            record = folder.read_config()
            launches = {session.get("launch") for session in record["sessions"]}
            if record["arguments"] == config.arguments() and launch_id() in launches:
                return folder
    return None


def _open(config: TrainConfig, folder: RunFolder, group: Group, reporter: Reporter | None) -> Trainer:
    """What trains, on one of the processes; the leading one reports."""
    told = reporter if reporter is not None and group.leads else Reporter()
    with group.together():
        trainer = Trainer(config, folder, Workbench.open(config, told.preparing, group), told)
    group.check_same("the data", trainer.bench.describe_data())
    return trainer


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
def _session(config: TrainConfig, group: Group) -> Iterator[None]:
    """Thread count, GPU and random generators of this run; torch is as before when it ends."""
    threads = torch.get_num_threads()
    if config.device == "cuda":
        take_gpu(group)
    devices = [torch.cuda.current_device()] if config.device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(config.seed)  # for modules that draw while they train
        torch.set_num_threads(threads_of(group, config.threads))
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@takes(
    run=location,
    n_episodes=EPISODES,
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
    n_episodes: int = 600,
    inner_steps: int | None = None,
    n_way: int | None = None,
    split: str = "test",
    seed: int | None = None,
    root: Path | str | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> Row:
    """Evaluate the checkpoint of a run on ``n_episodes`` tasks; also writes ``evaluation-*.json`` into its folder.

    What is None is as in the run; ``n_way`` may be any, as :meth:`maml_fast.MAML.for_classes` says. Returns accuracy,
    95 % interval, both after every inner step, and the conditions they hold under: split, ways, steps, episodes, seed,
    batch-norm policy, iteration of the checkpoint, backend. Where that policy is transductive, ``by_support`` holds
    accuracy and interval on the same episodes by the support set's statistics.

    Raises:
        FileNotFoundError: ``run`` is no run folder, or has no checkpoint.
        TypeError: an argument is of another type.
        ValueError: an argument is out of range, files are damaged, or the data have changed.
    """
    asked = {"eval_inner_steps": inner_steps, "eval_n_way": n_way, "root": root, "device": device, "threads": threads}
    given = {name: value for name, value in asked.items() if value is not None}

    def read() -> tuple[RunFolder, Row, TrainConfig, Row]:
        folder = RunFolder.open(run)
        record = folder.read_config()
        of_training = {"cuda_graph": None}  # another device may have none
        config = TrainConfig.from_arguments(
            {**record["arguments"], **of_training, **given, "test_episodes": n_episodes}
        )
        return folder, record, config, folder.load_checkpoint()

    with joined() as group:
        folder, record, config, state = group.from_first(read)
        with _session(config, group):
            with group.together():
                bench = Workbench.open(config, group=group)
                if split not in bench.data:
                    raise ValueError(f"split must be one of {', '.join(bench.data)}; got {split!r}")
                bench.check_data(record, folder)
                with folder.fitting_checkpoint():
                    bench.learner.load_state_dict(state["maml"])
                    check_arguments(state, record["arguments"])
            try:
                return record_evaluation(bench, folder, state["iteration"], split, n_episodes, seed, by_support=True)
            except UnrecordedError as unrecorded:  # the result is worth more than its file
                warnings.warn(str(unrecorded), RuntimeWarning, stacklevel=3)
                return unrecorded.row
