"""Iterating over an EpisodeSampler: order, resuming, threads, worker processes, forks and ends of all kinds.

Everything here holds for whichever backend runs; only with native code are there threads that could go wrong.
"""

from __future__ import annotations

import contextlib
import gc
import glob
import itertools
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from maml_fast import native
from maml_fast.data._bank import ImageBank
from maml_fast.data._episodes import Episodes, EpisodeSampler

BANK = ImageBank.from_array(np.random.default_rng(0).integers(0, 256, (12, 9, 1, 6, 6), dtype=np.uint8))
HANG = 120  # seconds after which a process is taken to hang


def make(**changes: object) -> EpisodeSampler:
    settings = {"n_way": 3, "k_shot": 2, "k_query": 4, "meta_batch_size": 4, "seed": 11, "rotate": True}
    return EpisodeSampler(BANK, **{**settings, **changes})


def assert_same(actual: Episodes, expected: Episodes) -> None:
    assert isinstance(actual, Episodes)
    for x, y in zip(actual, expected, strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


def prefetching_threads() -> int:
    """Count the native threads of this process, by the name they bear."""
    names = []
    for path in glob.glob("/proc/self/task/*/comm"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended just now
            names.append(Path(path).read_text().strip())
    return names.count("maml-prefetch")


def assert_threads(expected: int) -> None:
    """A thread is named a moment after it starts, and listed for a moment after it was joined."""
    deadline = time.monotonic() + HANG
    while prefetching_threads() != expected and time.monotonic() < deadline:
        time.sleep(0.001)
    assert prefetching_threads() == expected


@pytest.mark.parametrize("prefetch", [0, 1, 2, 7])
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_iteration_yields_the_batches_in_order(prefetch: int, threads: int | None) -> None:
    sampler = make(prefetch=prefetch, threads=threads, batches=9)
    for episodes, i in zip(sampler, range(9), strict=True):
        assert_same(episodes, make().batch(i))
    assert len(sampler) == 9


def test_more_is_prefetched_than_there_is() -> None:
    assert len(list(make(prefetch=50, threads=4, batches=3))) == 3


@pytest.mark.parametrize("meta_batch_size", [1, 3, 5])
def test_an_episode_does_not_depend_on_the_meta_batch_size(meta_batch_size: int) -> None:
    batches = 15 // meta_batch_size
    pieces = list(make(meta_batch_size=meta_batch_size, batches=batches))
    assert_same(Episodes(*map(torch.cat, zip(*pieces, strict=True))), make(meta_batch_size=15).batch(0))


def test_resuming_from_an_episode_number() -> None:
    straight = list(make(batches=6))
    resumed = list(make(start_episode=2 * 4, batches=4))
    for ours, theirs in zip(resumed, straight[2:], strict=True):
        assert_same(ours, theirs)


def test_each_iteration_starts_anew_and_two_can_run_at_once() -> None:
    sampler = make(batches=5)
    for first, second in zip(sampler, sampler, strict=True):
        assert_same(first, second)


def test_batches_already_given_out_do_not_change() -> None:
    kept = list(make(batches=6, prefetch=1))
    for i, episodes in enumerate(kept):
        assert_same(episodes, make().batch(i))


def test_a_sampler_without_end() -> None:
    sampler = make()
    assert len(list(itertools.islice(sampler, 7))) == 7
    with pytest.raises(TypeError, match="endless"):
        len(sampler)
    with pytest.raises(TypeError, match="give it batches"):
        list(DataLoader(sampler, batch_size=None))
    assert sampler[10**9].meta_batch_size == 4


@pytest.mark.parametrize("i", [-1, 3, 10**20])
def test_a_batch_that_does_not_exist(i: int) -> None:
    with pytest.raises(IndexError, match=f"no meta-batch {i}; this sampler has 3"):
        make(batches=3).batch(i)


def test_the_last_episode_number() -> None:
    sampler = make(start_episode=2**63 - 4)
    sampler.batch(2**61)
    with pytest.raises(IndexError, match=r"beyond 2\*\*64 - 1"):
        sampler.batch(2**61 + 1)


def test_batches_can_be_made_by_many_threads_at_once() -> None:
    sampler, results = make(), {}
    workers = [
        threading.Thread(target=lambda i=i: results.update({i: [sampler.batch(j) for j in range(8)]})) for i in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for episodes in results.values():
        for j in range(8):
            assert_same(episodes[j], make().batch(j))


@pytest.mark.native
def test_threads_that_the_system_refuses() -> None:
    def ask_for_too_much() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 2**30  # room for some of the threads' stacks
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with pytest.raises(RuntimeError, match=r"can't start 1000 prefetching threads .* fewer threads"):
            next(iter(make(threads=1000)))
        assert_threads(0)
        assert_same(next(iter(make(threads=1))), make().batch(0))

    assert in_a_fork(ask_for_too_much) == 0


def close(iterator: Iterator[Episodes]) -> None:
    getattr(iterator, "close", lambda: None)()


def drop(iterator: Iterator[Episodes]) -> None:
    del iterator
    gc.collect()


@pytest.mark.parametrize("end", [close, drop])
@pytest.mark.parametrize("seen", [0, 1, 5])
def test_threads_end_with_the_iterator(end: Callable[[Iterator[Episodes]], None], seen: int) -> None:
    iterators = [iter(make(threads=3, prefetch=4)) for _ in range(5)]
    for _ in range(seen):
        for i in range(5):
            next(iterators[i])
    assert_threads(15 if seen and native.library() else 0)
    while iterators:
        end(iterators.pop())
    assert_threads(0)


def test_threads_end_with_an_exception() -> None:
    def train() -> None:
        for _ in make(threads=2):
            raise KeyboardInterrupt

    for _ in range(20):
        with pytest.raises(KeyboardInterrupt):
            train()
    assert_threads(0)


def in_a_fork(task: Callable[[], None]) -> int | None:
    """Run `task` in a forked child; return its exit code, None where it hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: forking a process that has threads
        child = multiprocessing.get_context("fork").Process(target=task)
        child.start()
    child.join(HANG)
    code = child.exitcode
    child.kill()
    child.join()
    return code


@pytest.mark.parametrize("seen", [0, 1, 4])
def test_a_forked_child_goes_on_with_an_iterator_under_way(seen: int) -> None:
    iterator = iter(make(threads=3, prefetch=3, batches=12))
    for _ in range(seen):
        next(iterator)

    def go_on() -> None:
        for i, episodes in enumerate(iterator, start=seen):
            assert_same(episodes, make().batch(i))
        assert i == 11

    assert in_a_fork(go_on) == 0
    go_on()  # the parent is not disturbed


@pytest.mark.parametrize("end", [close, drop])
def test_a_forked_child_may_end_an_iterator_under_way(end: Callable[[Iterator[Episodes]], None]) -> None:
    iterators = [iter(make(threads=3))]
    next(iterators[0])

    def end_it() -> None:
        end(iterators.pop())
        assert len(list(make(batches=3))) == 3

    assert in_a_fork(end_it) == 0


def test_a_fork_while_threads_write() -> None:
    """Forks that fall into the middle of the threads' work, whatever lock they hold."""
    iterator = iter(make(threads=4, prefetch=8, meta_batch_size=64))
    for i in range(10):
        next(iterator)
        assert in_a_fork(lambda i=i: assert_same(next(iterator), make(meta_batch_size=64).batch(i + 1))) == 0


@pytest.mark.parametrize(("start_method", "workers"), [("fork", 2), ("spawn", 1)])  # which imports PyTorch in each
def test_data_loader_workers_share_the_batches_out(start_method: str, workers: int) -> None:
    sampler = make(batches=5)
    loader = DataLoader(sampler, batch_size=None, num_workers=workers, multiprocessing_context=start_method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # as above
        batches = list(loader)
    for i, episodes in enumerate(batches):
        assert_same(episodes, make().batch(i))
    assert len(loader) == len(batches) == 5


def test_a_data_loader_without_workers() -> None:
    for i, episodes in enumerate(DataLoader(make(batches=3), batch_size=None)):
        assert_same(episodes, make().batch(i))


class Shards(torch.utils.data.IterableDataset):
    """Each worker iterates over a sampler of its own, with threads that start in the worker."""

    def __iter__(self) -> Iterator[Episodes]:
        info = torch.utils.data.get_worker_info()
        return iter(make(start_episode=100 * info.id, batches=3, threads=2))


def test_threads_inside_data_loader_workers() -> None:
    next(iter(make()))  # threads have run here before the fork
    loader = DataLoader(Shards(), batch_size=None, num_workers=2, multiprocessing_context="fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # as above
        batches = list(loader)
    expected = [(100 * worker, i) for i in range(3) for worker in range(2)]
    for episodes, (start, i) in zip(batches, expected, strict=True):
        assert_same(episodes, make(start_episode=start).batch(i))


ENDS = {
    "": (0, ""),
    "import builtins; builtins.kept = iterators; sys.exit(3)": (3, ""),
    "raise RuntimeError('the training failed')": (1, "RuntimeError: the training failed"),
}

# For each end a fork, which is an interpreter that has imported PyTorch already; it ends as any other does.
SCRIPT = f"""
import os, signal, sys
import numpy as np
from maml_fast.data._bank import ImageBank
from maml_fast.data._episodes import EpisodeSampler

for number, end in enumerate(sys.argv[1:]):
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    sys.exit()

signal.alarm({HANG})
os.dup2(os.open(str(number), os.O_WRONLY | os.O_CREAT), 2)
bank = ImageBank.from_array(np.zeros((50, 20, 3, 32, 32), dtype=np.uint8))
iterators = [iter(EpisodeSampler(bank, 5, 5, 15, 32, threads=2, prefetch=3)) for _ in range(3)]
for iterator in iterators:
    next(iterator)
exec(end)
"""


def test_the_interpreter_ends_while_threads_write(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", SCRIPT, *ENDS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    last_lines = [(tmp_path / str(number)).read_text().strip().split("\n")[-1] for number in range(len(ENDS))]
    assert list(zip(map(int, done.stdout.split()), last_lines, strict=True)) == list(ENDS.values())
