"""The outer loop of a run, with a record from which it can be resumed bitwise."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import shlex
import signal
import time
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from maml_fast import native
from maml_fast.distributed._launch import launch_id
from maml_fast.train._board import Board
from maml_fast.train._config import TrainConfig
from maml_fast.train._integrity import (
    check_arguments,
    check_optimizer_state,
    digest_of_arguments,
    digest_of_parameters,
)
from maml_fast.train._interrupts import Interrupts
from maml_fast.train._meta_iteration import make_iterations
from maml_fast.train._metrics import MetricsLog, NullLog
from maml_fast.train._readings import Reading
from maml_fast.train._record import Row, RunFolder, describe_machine
from maml_fast.train._workbench import Workbench

__all__ = ["Reporter", "RunResult", "Trainer", "TrainingInterrupted", "UnrecordedError", "record_evaluation"]


class Reporter:
    """Receives the progress of a run. This class ignores it; override the methods for the events of interest."""

    def preparing(self, done: int, total: int) -> None:
        """The data set is being prepared or read.

        Args:
            done: number of items that are finished.
            total: number of all items.
        """

    def started(self, folder: RunFolder, config: TrainConfig, facts: dict[str, str], iteration: int) -> None:
        """The run is set up, and training starts.

        Args:
            folder: the run folder.
            config: arguments of the run.
            facts: backend, engine, data and other conditions of the run, by name, for people to read.
            iteration: number of meta-iterations that earlier sessions have done.
        """

    def stepped(self, row: Row) -> None:
        """A meta-iteration is done.

        Args:
            row: its row of metrics.jsonl.
        """

    def evaluating(self, episodes: int) -> None:
        """An evaluation starts.

        Args:
            episodes: number of its episodes.
        """

    def evaluated(self, row: Row) -> None:
        """An evaluation during training is done.

        Args:
            row: its row of metrics.jsonl.
        """

    def finished(self, result: RunResult) -> None:
        """The run is complete.

        Args:
            result: the result of the run.
        """


@dataclass(frozen=True)
class RunResult:
    """The result of a complete run.

    Attributes:
        path: the run folder.
        iterations: number of meta-iterations, over all sessions.
        evaluation: the evaluation on the test classes at the end: accuracy, 95 % interval, and both after every inner
            step.
        seconds: time spent in meta-iterations, over all sessions.
        waiting_share: fraction of `seconds` spent waiting for episodes.
    """

    path: Path
    iterations: int
    evaluation: Row
    seconds: float
    waiting_share: float


class _Unread(NamedTuple):
    """An iteration that is queued, but whose numbers have not been read."""

    iteration: int
    read: Reading
    started: float
    waited: float


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by a signal. A checkpoint is on disk.

    Attributes:
        path: the run folder.
        iteration: meta-iteration of the checkpoint.
        signal_number: number of the signal.
    """

    def __init__(self, path: Path, iteration: int, signal_number: int):
        super().__init__(
            f"stopped after iteration {iteration}; go on with: maml-fast train --resume {shlex.quote(str(path))}"
        )
        self.path = path
        self.iteration = iteration
        self.signal_number = signal_number


class UnrecordedError(RuntimeError):
    """The result of an evaluation could not be written. The error holds it in ``row``."""

    def __init__(self, message: str, row: Row):
        super().__init__(message)
        self.row = row


class Trainer:
    """A running training: learner, optimizer, position, and the record of the run."""

    def __init__(self, config: TrainConfig, folder: RunFolder, bench: Workbench, reporter: Reporter):
        self.config, self.folder, self.bench, self.reporter = config, folder, bench, reporter
        self.group = bench.group
        self.optimizer = bench.learner.make_optimizer(config.meta_lr)
        self.iterations = make_iterations(bench, self.optimizer)
        self.iteration = self.saved_iteration = 0
        self.seconds = self.wait_seconds = 0.0
        self.noted_at = 0.0  # when the last iteration was recorded
        self.unread: _Unread | None = None
        self.saved_at = time.monotonic()
        self.elapsed_before = 0.0  # of earlier sessions
        self.started_at = time.monotonic()
        self.rows: list[Row] = []

    @property
    def elapsed_seconds(self) -> float:
        """Wall time of training and evaluations over all sessions, without the work that a kill undid."""
        return self.elapsed_before + time.monotonic() - self.started_at

    def facts(self) -> dict[str, str]:
        """Return the conditions of the run that are reported at its start, by name."""
        facts = self.bench.facts()
        if self.group.size > 1:
            threads = torch.get_num_threads()
            facts["processes"] = f"{self.group.describe()}, {threads} thread{'s' if threads > 1 else ''} each"
        if self.group.size > 1 or self.config.fixed_order:
            facts["gradients"] = f"added up {self.iterations.describe_sum()}"
        if self.config.device != "cpu":
            facts["cuda graph"] = self.iterations.describe()
        return facts

    def describe(self, earlier: Row | None = None) -> Row:
        """Return the content of ``config.json``. Every session of a run adds an entry to the ``earlier`` content."""
        session = {
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "from_iteration": self.iteration,
            "backend": str(native.backend()),
            "processes": self.group.size,
            "launch": launch_id(),
            **describe_machine(self.config.device),
        }
        sessions, facts = (earlier or {}).get("sessions", []), self.facts()
        same_bits = (["threads"] if facts["engine"] == "native" else []) + ["processes"] * self.config.fixed_order
        _warn_of_changes(sessions, session, same_bits)
        return {
            "arguments": self.config.arguments(),
            "overrides": self.config.overrides,
            "data": self.bench.describe_data(),
            "facts": facts,
            "sessions": [*sessions, session],
        }

    def restore(self, state: Row, record: Row) -> None:
        """Load the state of a checkpoint."""
        self.bench.check_data(record, self.folder)
        with self.folder.fitting_checkpoint():
            check_arguments(state, record["arguments"])
            self.bench.learner.load_state_dict(state["maml"])
            check_optimizer_state(self.optimizer, state["optimizer"], state["iteration"])
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["torch_rng"])
            if self.config.device == "cuda":
                torch.cuda.set_rng_state(state["cuda_rng"])
            self.iteration = self.saved_iteration = state["iteration"]
            self.seconds, self.wait_seconds = state["seconds"], state["wait_seconds"]
            self.elapsed_before = state["elapsed_seconds"]

    def begin(self, earlier: Row | None = None) -> None:
        """Write the conditions of this session to ``config.json``, and the first checkpoint of a new run."""
        record = self.describe(earlier)
        if self.group.leads:
            self.folder.write_json(self.folder.config, record)
        if earlier is None:
            self.save()

    def save(self) -> None:
        state = {
            "iteration": self.iteration,
            "seconds": self.seconds,
            "wait_seconds": self.wait_seconds,
            "elapsed_seconds": self.elapsed_seconds,
            "maml": self.bench.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "arguments_sha256": digest_of_arguments(self.config.arguments()),
        }
        if self.config.device == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state()
        if self.group.leads:
            self.folder.save_checkpoint(state)
        self.saved_at, self.saved_iteration = time.monotonic(), self.iteration

    def run(self) -> RunResult:
        """Train to the last iteration, evaluate, and draw the pictures.

        Raises:
            TrainingInterrupted: a signal stopped this process or another one.
            PeerLostError: another process died.
        """
        self.started_at = time.monotonic()
        self.reporter.started(self.folder, self.config, self.facts(), self.iteration)
        self.log = self._open_log()
        with contextlib.closing(self.log), Interrupts() as interrupts:
            try:
                self._loop(interrupts)
                return self._finish()
            except KeyboardInterrupt as stop:
                number = getattr(stop, "signal_number", interrupts.received or signal.SIGINT)
                with contextlib.suppress(KeyboardInterrupt), interrupts.deferred():  # already stopping
                    self._save_on_interrupt()
            if number == signal.SIGTERM:  # torchrun sends SIGTERM to the others when one has died
                self.group.check_all_alive()
            raise TrainingInterrupted(self.folder.path, self.saved_iteration, number)

    def _open_log(self) -> MetricsLog:
        if not self.group.leads:
            return NullLog()
        return MetricsLog(self.folder.metrics, Board(self.folder.path, self.iteration))

    def _loop(self, interrupts: Interrupts) -> None:
        config = self.config
        evaluated = {row["iteration"] for row in self.rows if "accuracy" in row}
        self.iterations.begin(self.iteration)
        with contextlib.closing(self.iterations):
            while True:
                if self.iteration % config.eval_every == 0 or self.iteration == config.iterations:
                    self._catch_up()
                # This also makes up for an evaluation that a signal interrupted.
                if self.iteration % config.eval_every == 0 and self.iteration not in evaluated:
                    self._record(self._evaluate(config.eval_episodes))
                if self.iteration == config.iterations:
                    return
                started = time.perf_counter()
                self.iterations.fetch()
                waited = time.perf_counter() - started
                with interrupts.deferred():
                    self._step(started, waited)
                    if time.monotonic() - self.saved_at >= config.checkpoint_seconds:
                        self._sync_and_save()

    def _step(self, started: float, waited: float) -> None:
        """Run one meta-iteration, and note its numbers, or those of the one before."""
        reading = self.iterations.run(self.iteration)
        self.iteration += 1
        before, self.unread = self.unread, _Unread(self.iteration, reading, started, waited)
        if before is not None:
            self._note(before)
        if not self.iterations.reads_late:
            self._catch_up()
        self.iterations.consistent = True

    def _catch_up(self) -> None:
        """Note the numbers of the last iteration, if they have not been read yet."""
        last, self.unread = self.unread, None
        if last is not None:
            self._note(last)

    def _note(self, unread: _Unread) -> None:
        """Wait for an iteration and record it; RuntimeError if its loss or gradient is not finite.

        Neither that iteration nor a later one has changed the parameters then.
        """
        loss, accuracy, updated = unread.read()
        self._refuse_unless(math.isfinite(loss), unread.iteration, f"the loss became {loss}")
        self._refuse_unless(bool(updated), unread.iteration, "the meta-gradient is not finite")
        now = time.perf_counter()
        seconds = now - max(unread.started, self.noted_at)
        self.noted_at = now
        self.seconds += seconds
        self.wait_seconds += unread.waited
        self._record(
            {
                "iteration": unread.iteration,
                "loss": loss,
                "query_accuracy": accuracy,
                "seconds": round(seconds, 6),
                "wait_seconds": round(unread.waited, 6),
                "episodes_per_second": round(self.config.meta_batch_size / seconds, 2),
            }
        )

    def _refuse_unless(self, finite: bool, iteration: int, what: str) -> None:
        if not finite:
            raise RuntimeError(
                f"{what} in iteration {iteration}: try a smaller inner_lr (now {self.config.inner_lr}) or "
                f"meta_lr (now {self.config.meta_lr}) in a new run; {self.folder.checkpoint} still holds iteration "
                f"{self.saved_iteration}"
            )

    def _record(self, row: Row) -> None:
        row = {**row, "elapsed_seconds": round(self.elapsed_seconds, 3)}
        self.rows.append(row)
        self.log.append(row)
        if "accuracy" in row:
            self.reporter.evaluated(row)
        else:
            self.reporter.stepped(row)

    def _evaluate(self, episodes: int) -> Row:
        self.reporter.evaluating(episodes)
        self.group.check_same("the parameters", digest_of_parameters(self.bench.learner))
        return {"iteration": self.iteration, **self.bench.evaluate(self.bench.monitored, episodes)}

    def _sync_and_save(self) -> None:
        self._catch_up()
        self.log.sync()  # a checkpoint is never newer than its metrics
        self.save()

    def _save_on_interrupt(self) -> None:
        if self.iterations.consistent:
            self._sync_and_save()
        if self.group.leads:
            self.bench.draw_curve(self.folder, self.rows, self.seconds)

    def _finish(self) -> RunResult:
        self._sync_and_save()
        config, folder = self.config, self.folder
        self.reporter.evaluating(config.test_episodes)
        evaluation = record_evaluation(self.bench, folder, self.iteration, "test", config.test_episodes)
        waiting = self.wait_seconds / max(self.seconds, 1e-9)
        result = RunResult(folder.path, self.iteration, evaluation, self.seconds, waiting)
        if self.group.leads:
            self.bench.draw_curve(folder, self.rows, self.seconds, evaluation)
            self.bench.draw_episode(folder)
            folder.write_json(folder.summary, {**dataclasses.asdict(result), "path": str(folder.path)})
        self.reporter.finished(result)
        return result


_SESSION_DEFAULTS = {"processes": 1}  # for sessions of older versions, which do not record it


def _warn_of_changes(sessions: list[Row], now: Row, same_bits: Collection[str]) -> None:
    """Warn if a resumed run may not be bitwise equal to an uninterrupted one, because its conditions changed.

    A change of the conditions in ``same_bits`` is harmless. For example, sums of the native engine are bitwise the same
    for any number of threads; PyTorch's may not be.
    """
    changes = []
    for name in ("backend", "torch", "processor", "threads", "processes"):
        before = {**_SESSION_DEFAULTS, **sessions[-1]}.get(name) if sessions else now[name]
        if before != now[name] and name not in same_bits:
            changes.append(f"{name} {before} -> {now[name]}")
    if changes:
        warnings.warn(
            f"from here on results may differ in rounding: {'; '.join(changes)}", RuntimeWarning, stacklevel=2
        )


def record_evaluation(
    bench: Workbench,
    folder: RunFolder,
    iteration: int,
    split: str,
    episodes: int,
    seed: int | None = None,
    *,
    by_support: bool = False,
) -> Row:
    """Evaluate, and write the result to the run folder.

    ``by_support`` evaluates the same episodes with the statistics of the support set as well.

    Raises:
        UnrecordedError: the folder can't be written. The error holds the result.
    """
    seed = bench.config.seed if seed is None else seed
    row = {
        "iteration": iteration,
        **bench.evaluate(split, episodes, seed),
        "seed": seed,
        "backend": native.backend().name,
    }
    if by_support:
        row["by_support"] = bench.evaluate_by_support(split, episodes, seed)
    n_way = None if row["n_way"] == bench.config.n_way else row["n_way"]
    try:
        if bench.group.leads:
            folder.write_json(folder.evaluation(split, row["inner_steps"], seed, n_way), row)
    except RuntimeError as error:
        raise UnrecordedError(f"the result is not recorded: {error}", row) from error
    return row
