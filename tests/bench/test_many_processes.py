"""The benchmark of many processes runs."""

from __future__ import annotations

import many_processes
import pytest

pytestmark = pytest.mark.backendless


def test_it_measures(ranks, capsys):
    options = ["--iterations", "1", "--workloads", "conv4-32"]
    ranks.succeed(2, lambda rank: check(many_processes.main([*options, "--fixed-order"])["conv4-32"]))
    check(many_processes.main(options)["conv4-32"])
    assert "conv4-32: 1 x 1: wall " in capsys.readouterr().out


def check(times: many_processes.Times) -> None:
    assert 0 < times.sum_wall < times.wall
