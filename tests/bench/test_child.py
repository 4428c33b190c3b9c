"""Processes of their own: what runs there can't hurt the rest, and is told by name."""

from __future__ import annotations

import os

import breakdown
import pytest
import torch
from bench_subject import Subject
from child import Child, ChildError
from contestant import Contestant
from place import Place


def test_answers_come_back():
    with Child("a subject", Subject, environment={"MAML_FAST_NOBODY": "9"}) as child:
        assert child.call("add", 2, 3) == 5
        assert child.call("environment", "MAML_FAST_NOBODY") == "9"
    assert "MAML_FAST_NOBODY" not in os.environ


def test_the_object_is_closed(tmp_path):
    with Child("a subject", Subject, tmp_path / "closed"):
        pass
    assert (tmp_path / "closed").exists()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("fail", "a subject failed: ValueError: no such thing as 7"),
        ("die", "a subject was killed by SIGSEGV"),
        ("leave", "a subject left with exit code 3"),
    ],
)
def test_trouble_is_told_by_name(method, message):
    with Child("a subject", Subject) as child, pytest.raises(ChildError, match=message):
        child.call(method)


def test_an_object_that_can_not_be_made_is_an_error():
    with pytest.raises(ChildError, match="nobody failed: StopIteration"):
        Child("nobody", Contestant, "Q2", "nobody", Place(1))


@pytest.mark.native
def test_convolutions_are_told_from_the_rest():
    from maml_fast import ops

    x, weight = torch.rand(2, 5, 8, 14, 14), torch.rand(2, 8, 8, 3, 3)
    found = breakdown.shares(lambda: [ops.conv_block(x, weight) for _ in range(20)])
    assert 0 < found.convolutions <= 1
    assert found.waiting == 0  # of whole inner loops only
    assert breakdown.shares(lambda: x.square().sum()) == (0, 0)
