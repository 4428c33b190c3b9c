"""Timing by pytest-benchmark: a warm-up, then as many rounds as the time allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from measurements import Row
from pytest_benchmark.fixture import BenchmarkFixture

MOST_ROUNDS = 30


class Timer:
    """Times a function for about ``seconds``, at least once, and adds the times to a row."""

    def __init__(self, benchmark: BenchmarkFixture, seconds: float) -> None:
        self._benchmark, self._seconds = benchmark, seconds

    def __call__(
        self,
        row: Row,
        function: Callable[..., Any],
        *args: Any,
        before: Callable[[], Any] | None = None,
        share: float = 1.0,
    ) -> None:
        """Time ``function(*args)`` for this share of the time; ``before()`` runs ahead of each round, not timed."""
        start = time.perf_counter()  # of the warm-up, which tells how many rounds there is time for
        if before is not None:
            before()
        function(*args)
        rounds = int(share * self._seconds / (time.perf_counter() - start))
        rounds = min(max(rounds, 1), MOST_ROUNDS)

        def prepare() -> tuple[tuple[Any, ...], dict[str, Any]]:
            if before is not None:
                before()
            return args, {}

        self._benchmark.pedantic(function, setup=prepare, rounds=rounds, iterations=1)
        if self._benchmark.stats is not None:  # --benchmark-disable
            row.seconds += self._benchmark.stats.stats.data
