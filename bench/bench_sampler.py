"""The sampler: the time to make a meta-batch on demand, and the time that training waits for a prefetched one."""

from __future__ import annotations

import itertools

import pytest
import settings
import torch
from parity import ParityError
from peers import OURS

from maml_fast import native, use_backend

MADE, WAITED = "make a meta-batch", "wait for a meta-batch while training"


def pytest_generate_tests(metafunc):
    asked = settings.of(metafunc)
    backends = ["native"] if native.library() is not None else []
    if metafunc.function is test_make:
        backends.append("reference")  # it makes nothing ahead: training waits for all of it
    cases = [
        pytest.param(workload, backend, id=f"{workload.name}-{backend}-{sweep}")
        for workload in asked.kinds_of_episodes
        for sweep in range(asked.sweeps)
        for backend in backends
    ]
    metafunc.parametrize(("workload", "backend"), cases)


def require_equal_batches(workload, backend):
    """Raise ``ParityError`` unless the backend draws exactly the same bits as the reference."""
    with use_backend("reference"):
        expected = workload.sampler().batch(1)
    with use_backend(backend):
        actual = workload.sampler().batch(1)
    if not all(map(torch.equal, actual, expected)):
        raise ParityError(f"{workload.name}: the {backend} sampler draws other episodes than the reference")


def test_make(workload, backend, found, timer):
    require_equal_batches(workload, backend)
    row = found.row("sampler", workload.name, MADE, backend)
    with use_backend(backend):
        sampler, number = workload.sampler(), itertools.count()
        timer(row, lambda: sampler.batch(next(number)))


def test_wait(workload, backend, found, timer):
    require_equal_batches(workload, backend)
    learner = OURS(workload, workload.start(torch.float32))
    episodes = workload.episodes()
    row = found.row("sampler", workload.name, WAITED, backend)
    with use_backend(backend):
        batches = iter(workload.sampler())
        timer(row, lambda: next(batches), before=lambda: learner.iteration(episodes))
        batches.close()
