"""Training runs: the outer loop, its record on disk, and going on from there bitwise as if it had never stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import shlex
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from maml_fast import native
from maml_fast.board import Board
from maml_fast.data.episodes import Episodes
from maml_fast.interrupts import Interrupts
from maml_fast.recipes import TrainConfig
from maml_fast.record import MetricsLog, Row, RunFolder, cut_metrics, describe_machine
from maml_fast.workbench import Workbench

__all__ = ["Reporter", "RunResult", "TrainConfig", "TrainingInterrupted", "evaluate_run", "resume", "train"]

# Arguments that a resumed run may change: they change no number in it, or only how far it goes.
FREE_ON_RESUME = ("iterations", "root", "threads", "checkpoint_seconds", "test_episodes")


class Reporter:
    """What a run tells while it goes; this one is silent. Overwrite what you want to hear."""

    def preparing(self, done: int, total: int) -> None:
        """The data are being made or read."""

    def started(self, folder: RunFolder, config: TrainConfig, facts: dict[str, str], iteration: int) -> None:
        """The run is set up and goes on from ``iteration``; ``facts`` says with what."""

    def stepped(self, row: Row) -> None:
        """A meta-iteration is done; ``row`` is its row of metrics.jsonl."""

    def evaluating(self, episodes: int) -> None:
        """An evaluation begins."""

    def evaluated(self, row: Row) -> None:
        """An evaluation is done."""

    def finished(self, result: RunResult) -> None:
        """The run is complete."""


@dataclass(frozen=True)
class RunResult:
    """A complete run.

    Attributes:
        path: the run folder.
        iterations: meta-iterations done, over all sessions.
        evaluation: the evaluation on the test classes at the end: accuracy, interval, and both after every inner step.
        seconds: spent in meta-iterations, over all sessions.
        waiting_share: part of `seconds` spent waiting for episodes.
    """

    path: Path
    iterations: int
    evaluation: Row
    seconds: float
    waiting_share: float


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by a signal, and its checkpoint is on disk."""

    def __init__(self, path: Path, iteration: int, signal_number: int):
        super().__init__(
            f"stopped after iteration {iteration}; go on with: maml-fast train --resume {shlex.quote(str(path))}"
        )
        self.path = path
        self.iteration = iteration
        self.signal_number = signal_number


def train(
    config: TrainConfig | None = None, *, out: Path | str | None = None, reporter: Reporter | None = None
) -> RunResult:
    """Meta-train as ``config`` says, into the new run folder ``out`` (default: a fresh one under ``runs/``).

    Ends with an evaluation on the test classes and the pictures. Everything random comes from ``config.seed``; torch's
    own generators are left as they were.

    Raises:
        FileExistsError, OSError: ``out`` holds something already, or cannot be written.
        ValueError, FileNotFoundError: the data are missing, or too few for such episodes.
        RuntimeError: the loss or a gradient is not finite; the last good checkpoint stays.
        TrainingInterrupted: SIGINT or SIGTERM; the checkpoint is of the last whole iteration.
    """
    config = config or TrainConfig.for_dataset()
    reporter = reporter or Reporter()
    folder = RunFolder.create(out, f"{config.dataset}-{config.n_way}w{config.k_shot}s")
    with _session(config):
        try:
            trainer = Trainer(config, folder, Workbench.open(config, reporter.preparing), reporter)
        except BaseException:
            with contextlib.suppress(OSError):
                folder.path.rmdir()  # nothing is in it yet
            raise
        with folder.locked():
            folder.write_json(folder.config, trainer.describe())
            trainer.save()
            return trainer.run()


def resume(run: Path | str, *, reporter: Reporter | None = None, **changes: Any) -> RunResult:
    """Go on with a run from its checkpoint, bitwise as if it had never stopped.

    ``changes`` are arguments of :class:`TrainConfig`. ``iterations`` may be raised, and what changes no number may be
    changed; any other argument must be what the run has.

    Raises:
        FileNotFoundError: ``run`` is no run folder, or has no checkpoint.
        ValueError: arguments conflict with the run's (all are named), its files are damaged, or its data have changed.
        RuntimeError: another process is training this run.
    """
    reporter = reporter or Reporter()
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
        if value != old[name] and name not in FREE_ON_RESUME
    ]
    if conflicts:
        raise ValueError(
            f"{folder.path} cannot go on with other arguments: {', '.join(conflicts)}; leave them out or start anew"
        )
    return new


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


class Trainer:
    """One run while it goes: model, optimiser, position, and what is written about it."""

    def __init__(self, config: TrainConfig, folder: RunFolder, bench: Workbench, reporter: Reporter):
        self.config, self.folder, self.bench, self.reporter = config, folder, bench, reporter
        self.parameters = list(bench.maml.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.meta_lr)
        self.iteration = self.saved_iteration = 0
        self.seconds = self.wait_seconds = 0.0
        self.saved_at = time.monotonic()
        self.rows: list[Row] = []
        self.whole = True  # False while a step changes parameters

    def describe(self, earlier: Row | None = None) -> Row:
        """Content of ``config.json``; every session of a run adds one entry."""
        session = {
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "from_iteration": self.iteration,
            "backend": str(native.backend()),
            **describe_machine(),
        }
        return {
            "arguments": self.config.arguments(),
            "data": self.bench.describe_data(),
            "facts": self.bench.facts(),
            "sessions": [*(earlier or {}).get("sessions", []), session],
        }

    def restore(self, state: Row, record: Row) -> None:
        """Take up the state of a checkpoint, and drop what was recorded after it."""
        self.bench.check_data(record, self.folder)
        self.bench.maml.load_state_dict(state["maml"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
        if self.config.device == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"])
        self.iteration, self.seconds, self.wait_seconds = state["iteration"], state["seconds"], state["wait_seconds"]
        self.rows = cut_metrics(self.folder.metrics, self.iteration)
        self.saved_iteration = self.iteration

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "iteration": self.iteration,
            "seconds": self.seconds,
            "wait_seconds": self.wait_seconds,
            "maml": self.bench.maml.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }
        if self.config.device == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state()
        self.folder.save_checkpoint(state)
        self.saved_at, self.saved_iteration = time.monotonic(), self.iteration

    def run(self) -> RunResult:
        """Train to the last iteration, evaluate, draw."""
        self.reporter.started(self.folder, self.config, self.bench.facts(), self.iteration)
        self.log = MetricsLog(self.folder.metrics, Board(self.folder.path, self.iteration))
        with contextlib.closing(self.log), Interrupts() as interrupts:
            try:
                self._loop(interrupts)
                return self._finish()
            except KeyboardInterrupt:
                with interrupts.deferred():
                    self._keep()
            raise TrainingInterrupted(self.folder.path, self.saved_iteration, interrupts.received or signal.SIGINT)

    def _loop(self, interrupts: Interrupts) -> None:
        config = self.config
        evaluated = {row["iteration"] for row in self.rows if "accuracy" in row}
        with contextlib.closing(self.bench.training_batches(self.iteration)) as batches:
            while True:
                # An evaluation that a stop cut off is made up for here.
                if self.iteration % config.eval_every == 0 and self.iteration not in evaluated:
                    self._record(self._evaluate(config.eval_episodes))
                if self.iteration == config.iterations:
                    return
                started = time.perf_counter()
                episodes = next(batches)
                waited = time.perf_counter() - started
                with interrupts.deferred():
                    self._step(episodes, started, waited)
                    if time.monotonic() - self.saved_at >= config.checkpoint_seconds:
                        self._sync_and_save()

    def _step(self, episodes: Episodes, started: float, waited: float) -> None:
        """One meta-iteration; refuses to touch the parameters with anything that is not finite."""
        out = self.bench.maml(episodes.to(self.config.device))
        loss = out.loss.item()
        self._refuse_unless(math.isfinite(loss), f"the loss became {loss}")
        self.optimizer.zero_grad(set_to_none=True)
        out.loss.backward()
        self._refuse_unless(self._gradients_finite(), "the meta-gradient is not finite")
        self.whole = False
        self.optimizer.step()
        self.iteration += 1
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self.wait_seconds += waited
        self._record(
            {
                "iteration": self.iteration,
                "loss": loss,
                "query_accuracy": float(out.query_accuracy),
                "seconds": round(seconds, 6),
                "wait_seconds": round(waited, 6),
                "episodes_per_second": round(self.config.meta_batch_size / seconds, 2),
            }
        )
        self.whole = True

    def _gradients_finite(self) -> bool:
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        return bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())

    def _refuse_unless(self, finite: bool, what: str) -> None:
        if not finite:
            raise RuntimeError(
                f"{what} in iteration {self.iteration + 1}: try a smaller inner_lr (now {self.config.inner_lr}) or "
                f"meta_lr (now {self.config.meta_lr}) in a new run; {self.folder.checkpoint} still holds iteration "
                f"{self.saved_iteration}"
            )

    def _record(self, row: Row) -> None:
        self.rows.append(row)
        self.log.append(row)
        if "accuracy" in row:
            self.reporter.evaluated(row)
        else:
            self.reporter.stepped(row)

    def _evaluate(self, episodes: int) -> Row:
        self.reporter.evaluating(episodes)
        return {"iteration": self.iteration, **self.bench.evaluate("test", episodes)}

    def _sync_and_save(self) -> None:
        self.log.sync()  # a checkpoint is never newer than its metrics
        self.save()

    def _keep(self) -> None:
        """What is worth keeping when a signal stops the run."""
        if self.whole:
            self._sync_and_save()
        self.bench.draw_curve(self.folder, self.rows, self.seconds)

    def _finish(self) -> RunResult:
        self._sync_and_save()
        config, folder = self.config, self.folder
        self.reporter.evaluating(config.test_episodes)
        evaluation = record_evaluation(self.bench, folder, self.iteration, "test", config.test_episodes)
        self.bench.draw_curve(folder, [*self.rows, evaluation], self.seconds)
        self.bench.draw_episode(folder)
        waiting = self.wait_seconds / max(self.seconds, 1e-9)
        result = RunResult(folder.path, self.iteration, evaluation, self.seconds, waiting)
        folder.write_json(folder.summary, {**dataclasses.asdict(result), "path": str(folder.path)})
        self.reporter.finished(result)
        return result


def evaluate_run(
    run: Path | str,
    *,
    episodes: int = 600,
    inner_steps: int | None = None,
    split: str = "test",
    seed: int | None = None,
    **changes: Any,
) -> Row:
    """Evaluate the checkpoint of a run on ``episodes`` new tasks; also writes ``evaluation-*.json`` into its folder.

    ``inner_steps`` and ``seed`` are the run's where None. ``changes`` (root, device, threads) say where to run.
    Returns accuracy, 95 % interval, both after every inner step, and the conditions they hold under.

    Raises:
        FileNotFoundError: ``run`` is no run folder, or has no checkpoint.
        ValueError: an argument is out of range, files are damaged, or the data have changed.
    """
    folder = RunFolder.open(run)
    record = folder.read_config()
    config = TrainConfig.from_arguments({**record["arguments"], **changes, "test_episodes": episodes})
    if inner_steps is not None:
        config = dataclasses.replace(config, eval_inner_steps=inner_steps)
    state = folder.load_checkpoint()
    with _session(config):
        bench = Workbench.open(config)
        if split not in bench.data:
            raise ValueError(f"split must be one of {', '.join(bench.data)}; got {split!r}")
        bench.check_data(record, folder)
        bench.maml.load_state_dict(state["maml"])
        return record_evaluation(bench, folder, state["iteration"], split, episodes, seed)


def record_evaluation(
    bench: Workbench, folder: RunFolder, iteration: int, split: str, episodes: int, seed: int | None = None
) -> Row:
    """Evaluate, and write the result into the run folder."""
    seed = bench.config.seed if seed is None else seed
    row = {
        "iteration": iteration,
        **bench.evaluate(split, episodes, seed),
        "seed": seed,
        "backend": native.backend().name,
    }
    folder.write_json(folder.evaluation(split, row["inner_steps"], seed), row)
    return row
