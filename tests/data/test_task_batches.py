"""Batches of rows as tasks of support and query."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from maml_fast.data import tasks_from_batch


def test_rows_of_a_task_stay_together_and_are_used_once() -> None:
    rows = torch.arange(24.0)
    loader = DataLoader(TensorDataset(rows[:, None], rows.long()), batch_size=12)
    seen = []
    for x, y in loader:
        episodes = tasks_from_batch(x, y, n_tasks=3, n_support=1)
        assert [tuple(part.shape) for part in episodes] == [(3, 1, 1), (3, 1), (3, 3, 1), (3, 3)]
        assert torch.equal(episodes.x_spt[..., 0].long(), episodes.y_spt)
        assert torch.equal(episodes.x_qry[..., 0].long(), episodes.y_qry)
        seen += torch.cat([episodes.y_spt, episodes.y_qry], dim=1).tolist()
    assert seen == rows.long().view(6, 4).tolist()


def test_rows_may_have_any_shape() -> None:
    episodes = tasks_from_batch(torch.rand(10, 3, 4), torch.rand(10, 2), n_tasks=2, n_support=2)
    assert [tuple(part.shape) for part in episodes] == [(2, 2, 3, 4), (2, 2, 2), (2, 3, 3, 4), (2, 3, 2)]


@pytest.mark.parametrize(
    ("rows", "targets", "n_tasks", "n_support", "message"),
    [
        (12, 11, 3, 1, "x has 12 rows, but y 11"),
        (12, 12, 5, 1, "12 rows do not make 5 tasks of one size; .*drop_last=True"),
        (12, 12, 3, 4, "each task has 4 rows, of which n_support=4 leave no query"),
        (12, 12, 0, 1, "n_tasks must be at least 1, got 0"),
        (12, 12, 3, 0, "n_support must be at least 1, got 0"),
        (0, 0, 3, 1, "each task has 0 rows"),
    ],
)
def test_bad_batches(rows: int, targets: int, n_tasks: int, n_support: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks_from_batch(torch.rand(rows, 2), torch.zeros(targets), n_tasks, n_support)
