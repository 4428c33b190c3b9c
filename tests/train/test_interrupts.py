"""Signals during training: what comes at a bad moment is neither lost nor raised in the middle of a step."""

from __future__ import annotations

import contextlib
import signal

import pytest

from maml_fast.train._interrupts import Interrupts

pytestmark = pytest.mark.backendless


def step(interrupts: Interrupts, done: list[str], *signals: int) -> None:
    """A deferred part into which signals come."""
    with interrupts.deferred():
        done.append("before")
        for number in signals:
            signal.raise_signal(number)
        done.append("after")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_waits_for_the_end_of_a_deferred_part(number: int) -> None:
    done: list[str] = []
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        step(interrupts, done, number)
    assert done == ["before", "after"]
    assert interrupts.received == number


def test_a_second_signal_does_not_wait() -> None:
    done: list[str] = []
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        step(interrupts, done, signal.SIGINT, signal.SIGINT)
    assert done == ["before"]


def test_an_interrupt_that_was_lost_is_raised_after_the_next_deferred_part() -> None:
    with Interrupts() as interrupts:
        with contextlib.suppress(KeyboardInterrupt):  # as Python does where it comes within a __del__
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            step(interrupts, [])


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
