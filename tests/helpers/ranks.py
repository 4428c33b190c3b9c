"""Real processes that form a group over loopback: forks, which torch's import costs nothing."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from forks import fork
from tiny_run import TINY

from maml_fast.distributed import _heartbeats as heartbeats
from maml_fast.train import RunResult, train
from maml_fast.train._meta_iteration import EagerIterations

EIGHT = dataclasses.replace(TINY, meta_batch_size=8, eval_episodes=10, test_episodes=10)
IN_ORDER = dataclasses.replace(EIGHT, fixed_order=True)


@dataclass(frozen=True)
class Ended:
    """What became of a process."""

    exitcode: int
    told: str


class Ranks:
    """Starts groups of processes, as torchrun does: their store lives in this process, which outlives them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started = 0

    def __call__(
        self, size: int, task: Callable[[int], object], environment: Mapping[str, str] | None = None
    ) -> list[Ended]:
        """Run ``task(rank)`` in so many processes, wait for all, and tell what became of each."""
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._started += 1
        # A fork must not run while the store's thread answers an earlier one: it would inherit the thread's locks.
        all_started = multiprocessing.get_context("fork").Event()

        def run(rank: int) -> None:
            all_started.wait()
            _alone_on_a_thread(task, rank)

        files = [self.folder / f"told-{self._started}-{rank}" for rank in range(size)]
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        processes = [
            fork(
                partial(run, rank),
                files[rank],
                {**address, **_place(rank, size), **(environment or {})},
            )
            for rank in range(size)
        ]
        all_started.set()
        for process in processes:
            process.join()
        return [Ended(process.exitcode, file.read_text()) for process, file in zip(processes, files, strict=True)]

    def succeed(self, size: int, task: Callable[[int], object], environment: Mapping[str, str] | None = None) -> None:
        """The same of processes that must all end well."""
        for rank, ended in enumerate(self(size, task, environment)):
            assert ended.exitcode == 0, f"rank {rank}: {ended.told}"


def _alone_on_a_thread(task: Callable[[int], object], rank: int) -> None:
    """Those that OpenMP started before the fork are gone, and it would wait for them."""
    torch.set_num_threads(1)
    task(rank)


def _place(rank: int, size: int) -> dict[str, str]:
    names = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "GROUP_WORLD_SIZE": 1}
    return {name: str(value) for name, value in names.items()}


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: RunResult) -> Ranks:
    """``whole`` has imported what a training takes, so that no fork need do it again."""
    torch.testing.assert_close(torch.ones(()), torch.ones(()))  # and what this takes
    monkeypatch.setattr(heartbeats, "HEARTBEAT_INTERVAL", 0.2)
    monkeypatch.setattr(heartbeats, "HEARTBEAT_TIMEOUT", 3.0)
    monkeypatch.setattr("maml_fast.distributed._machine.usable_cores", lambda: 8)  # or a warning says that they share
    return Ranks(tmp_path)


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IN_ORDER on a single process, which others are held against; not to be changed."""
    return train(IN_ORDER, out=tmp_path_factory.mktemp("alone") / "run").path


def send_in_iteration(number: int, iteration: int) -> None:
    """Have this process get a signal in the middle of a meta-iteration, counted from 0."""
    run = EagerIterations.run

    def run_and_send(self, at):
        if at == iteration:
            os.kill(os.getpid(), number)
        return run(self, at)

    EagerIterations.run = run_and_send


def kill_in_iteration(iteration: int) -> None:
    send_in_iteration(signal.SIGKILL, iteration)
