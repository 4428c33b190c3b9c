"""Training runs: start, resume or evaluate one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from maml_fast._arguments import choice, instance, int_from, location, optional, takes, text
from maml_fast.distributed._group import Group
from maml_fast.distributed._joining import joined
from maml_fast.distributed._launch import launch_id
from maml_fast.distributed._machine import take_gpu, threads_of
from maml_fast.inner_loop._heads import N_CLASSES
from maml_fast.maml._arguments import STEPS
from maml_fast.train._config import DEVICES, EPISODES, THREADS, TrainConfig
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
    """Meta-train a learner and record the run in a new run folder.

    At the end the learner is evaluated on the test classes, and pictures of the run are drawn. All randomness comes
    from ``config.seed``; PyTorch's own generators are left in the state they were in.

    Args:
        config: arguments of the run; ``None``: ``TrainConfig.for_dataset()``.
        out: the run folder, which must be new or empty; ``None``: a new folder under ``runs/``.
        reporter: gets the progress of the run; ``None``: no reports.

    Returns:
        The result of the complete run.

    Raises:
        FileExistsError, OSError: ``out`` is not empty, or cannot be written.
        TypeError: an argument has the wrong type.
        ValueError, FileNotFoundError: the data are missing, or too few for episodes of this size.
        RuntimeError: the loss or a gradient is not finite, or a file cannot be written. The last good checkpoint stays.
            With several processes also if another one failed (PeerFailedError) or died (PeerLostError).
        TrainingInterrupted: SIGINT or SIGTERM was received. The checkpoint is of the last complete iteration.
    """
    config = TrainConfig.for_dataset() if config is None else config
    with joined() as group:
        existing = group.broadcast(lambda: _run_of_this_launch(out, config)) if group.restarts else None
        if existing is not None:
            return _resume(existing, group, reporter, {})
        group.check_same("the arguments", {**config.arguments(), "root": None})
        stem = config.recipe or f"{config.dataset}-{config.n_way}w{config.k_shot}s"
        folder = group.broadcast(lambda: RunFolder.create(out, stem))
        with _session(config, group), contextlib.ExitStack() as stack:
            with group.fail_together():
                if group.leads:
                    stack.enter_context(folder.locked())
                    folder.take()
            try:
                trainer = _open(config, folder, group, reporter)
            except BaseException:
                if group.leads:
                    folder.give_back()
                raise
            with group.fail_together():
                trainer.begin()
            return trainer.run()


@takes(run=location, reporter=_reporter)
def resume(run: Path | str, *, reporter: Reporter | None = None, **changes: Any) -> RunResult:
    """Resume a run from its checkpoint. The result is bitwise the same as if the run had never stopped.

    Args:
        run: the run folder.
        reporter: gets the progress of the run; ``None``: no reports.
        changes: new values of fields of :class:`TrainConfig`. ``iterations`` may be raised, and arguments that do not
            change any number may be changed. Other arguments must be equal to those of the run.

    Returns:
        The result of the complete run.

    Raises:
        FileNotFoundError: ``run`` is not a run folder, or has no checkpoint.
        ValueError: arguments conflict with those of the run (the message names all of them), its files are damaged, or
            its data have changed.
        RuntimeError: another process is training this run, and for the reasons of :func:`train`.
        TrainingInterrupted: SIGINT or SIGTERM was received.
    """
    with joined() as group:
        return _resume(group.broadcast(lambda: RunFolder.open(run)), group, reporter, changes)


def _resume(folder: RunFolder, group: Group, reporter: Reporter | None, changes: dict[str, Any]) -> RunResult:
    """Resume a run. Only the leading process needs access to its folder."""
    with contextlib.ExitStack() as stack:

        def read() -> tuple[Row, TrainConfig, Row]:
            stack.enter_context(folder.locked())
            record = folder.read_config()
            config = _with_changes(TrainConfig.from_arguments(record["arguments"]), changes, folder)
            state = folder.load_checkpoint()
            if config.iterations < state["iteration"]:
                raise ValueError(
                    f"iterations {config.iterations} is less than the {state['iteration']} that {folder.path} has done"
                )
            return record, config, state

        record, config, state = group.broadcast(read)
        with _session(config, group):
            trainer = _open(config, folder, group, reporter)
            with group.fail_together():
                trainer.restore(state, record)
            trainer.rows = group.broadcast(lambda: cut_metrics(folder.metrics, trainer.iteration))
            with group.fail_together():
                trainer.begin(record)
            return trainer.run()


def _run_of_this_launch(out: Path | str | None, config: TrainConfig) -> RunFolder | None:
    """Return the run that was being trained when torchrun restarted the processes; None if it has no checkpoint yet."""
    paths = [Path(out)] if out is not None else sorted(Path(RUNS).glob("*"), key=os.path.getmtime, reverse=True)
    for folder in map(RunFolder, paths):
        if folder.config.is_file() and folder.checkpoint.is_file():
            record = folder.read_config()
            launches = {session.get("launch") for session in record["sessions"]}
            if record["arguments"] == config.arguments() and launch_id() in launches:
                return folder
    return None


def _open(config: TrainConfig, folder: RunFolder, group: Group, reporter: Reporter | None) -> Trainer:
    """Create the trainer of this process. Only the leading process reports."""
    reporter = reporter if reporter is not None and group.leads else Reporter()
    with group.fail_together():
        trainer = Trainer(config, folder, Workbench.open(config, reporter.preparing, group), reporter)
    group.check_same("the data", trainer.bench.describe_data())
    return trainer


def _with_changes(config: TrainConfig, changes: dict[str, Any], folder: RunFolder) -> TrainConfig:
    """Return ``config`` with ``changes``; ValueError names all of them that a resumed run may not have."""
    new = dataclasses.replace(config, **changes)
    old = config.arguments()
    conflicts = [
        f"{name} (run: {old[name]}, asked: {value})"
        for name, value in new.arguments().items()
        if value != old[name] and name not in _changeable(config)
    ]
    if conflicts:
        raise ValueError(
            f"{folder.path} cannot resume with other arguments: {', '.join(conflicts)}; leave them out or train anew"
        )
    return new


def _changeable(config: TrainConfig) -> tuple[str, ...]:
    """Return the arguments that may change. The length of a run is fixed if its outer step size depends on it."""
    fixed = ("iterations",) if SCHEDULES[config.meta_schedule].depends_on_length else ()
    return tuple(name for name in FREE_ON_RESUME if name not in fixed)


@contextlib.contextmanager
def _session(config: TrainConfig, group: Group) -> Iterator[None]:
    """Set thread count, GPU and random generators for a run; restore threads and generators at the end."""
    threads = torch.get_num_threads()
    if config.device == "cuda":
        take_gpu(group)
    devices = [torch.cuda.current_device()] if config.device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(config.seed)  # for modules that draw random numbers in training
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
    seed=optional(int_from(0, 2**64 - 1)),
    root=optional(location),
    device=optional(choice(*DEVICES)),
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
    """Evaluate the checkpoint of a run, and write the result to ``evaluation-*.json`` in its folder.

    Arguments that are ``None`` are as in the run.

    Args:
        run: the run folder.
        n_episodes: number of episodes (tasks).
        inner_steps: number of inner steps.
        n_way: classes per episode. It may differ from training, as :meth:`maml_fast.MAML.for_classes` describes.
        split: the part of the data set: ``"train"``, ``"val"`` (if it has one) or ``"test"``.
        seed: seed of the episodes.
        root: folder that holds the data set.
        device: cpu or cuda.
        threads: number of threads of PyTorch.

    Returns:
        Accuracy, its 95 % interval, both after every inner step, and the conditions they hold under: split, ways,
        steps, episodes, seed, batch-norm policy, iteration of the checkpoint, backend. If the batch-norm policy is
        transductive, ``by_support`` holds accuracy and interval on the same episodes with the statistics of the support
        set; otherwise it is ``None``.

    Raises:
        FileNotFoundError: ``run`` is not a run folder, or has no checkpoint.
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, files are damaged, or the data have changed.
    """
    asked = {"eval_inner_steps": inner_steps, "eval_n_way": n_way, "root": root, "device": device, "threads": threads}
    overrides = {name: value for name, value in asked.items() if value is not None}

    def read() -> tuple[RunFolder, Row, TrainConfig, Row]:
        folder = RunFolder.open(run)
        record = folder.read_config()
        defaults = {**record["arguments"], "cuda_graph": None}  # the device may have no CUDA graphs
        config = TrainConfig.from_arguments({**defaults, **overrides, "test_episodes": n_episodes})
        return folder, record, config, folder.load_checkpoint()

    with joined() as group:
        folder, record, config, state = group.broadcast(read)
        with _session(config, group):
            with group.fail_together():
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
