"""The loop of learn2learn's examples and the designs that would batch it: they compute the same gradients."""

from __future__ import annotations

import lazy_tasks
import pytest
import torch
from lazy_tasks import Case, Iteration

from maml_fast.compat.learn2learn.vision.models import CNN4, OmniglotFC

TINY = (
    Case("fully connected", lambda: OmniglotFC(784, 5, [8]), 3, 1, (1, 28, 28)),
    Case("convolutions", lambda: CNN4(5, 4, 4, 1, True, 4), 2, 2, (1, 28, 28)),
)


@pytest.mark.parametrize("case", TINY, ids=[case.title for case in TINY])
def test_every_design_computes_the_gradients_of_the_loop(case: Case) -> None:
    assert lazy_tasks.check(case) < 1e-10


def test_a_design_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Iteration, "asked", lambda self: [2 * gradient for gradient in self.loop()])
    with pytest.raises(AssertionError, match="fully connected"):
        lazy_tasks.check(TINY[0])


def test_the_table_has_a_row_for_each_net(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(lazy_tasks, "CASES", TINY)
    monkeypatch.setattr("sys.argv", ["lazy_tasks.py", "--seconds", "0", "--threads", str(torch.get_num_threads())])
    lazy_tasks.main()
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in rows] == [f"| {case.title}" for case in TINY]
    assert all(row.count("ms (") == 4 for row in rows)
