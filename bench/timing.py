"""Timing by pytest-benchmark: a warm-up, then as many rounds as the time allows, each until the GPU is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rounds
from measurements import Row
from pytest_benchmark.fixture import BenchmarkFixture


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

        def prepare() -> tuple[tuple[Any, ...], dict[str, Any]]:
            if before is not None:
                before()
            return args, {}

        def run(*args: Any) -> None:
            function(*args)
            rounds.wait_for_gpu()

        once = rounds.seconds_of(lambda: function(*prepare()[0]))
        number = rounds.within(share * self._seconds, once)
        self._benchmark.pedantic(run, setup=prepare, rounds=number, iterations=1)
        if self._benchmark.stats is not None:  # --benchmark-disable
            row.seconds += self._benchmark.stats.stats.data
