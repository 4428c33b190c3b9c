"""Episodes from the batches of an ordinary DataLoader."""

from __future__ import annotations

from torch import Tensor

from maml_fast._arguments import int_from, takes, tensor
from maml_fast.data._episodes import Episodes

__all__ = ["tasks_from_batch"]


@takes(x=tensor, y=tensor, n_tasks=int_from(1), n_support=int_from(1))
def tasks_from_batch(x: Tensor, y: Tensor, n_tasks: int, n_support: int) -> Episodes:
    """Split a batch of rows into its tasks, and each task into a support set and a query set.

    Args:
        x: [B, ...], the inputs: ``B / n_tasks`` successive rows for each task. A DataLoader returns such batches if its
            data set is ordered by task, ``batch_size`` is ``n_tasks`` times the rows per task, and ``shuffle`` is
            False.
        y: [B, ...], the targets of these rows.
        n_tasks: tasks in the batch, ``T``.
        n_support: rows in the support set of each task, its first ones; the others form the query set.

    Returns:
        Views of the batch: x_spt [T, n_support, ...], y_spt, x_qry [T, B / T - n_support, ...], y_qry.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: x and y have different numbers of rows, the rows can't be divided into ``n_tasks`` equal tasks, or a
            task has no query rows.
    """
    if x.dim() < 1 or y.dim() < 1:
        raise ValueError(f"x and y must be rows [B, ...], got {list(x.shape)} and {list(y.shape)}")
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} rows, but y {len(y)}")
    rows, left_over = divmod(len(x), n_tasks)
    if left_over:
        raise ValueError(
            f"{len(x)} rows do not make {n_tasks} tasks of one size; set batch_size to a multiple of {n_tasks}, and "
            f"drop_last=True if the last batch is smaller"
        )
    if rows <= n_support:
        raise ValueError(f"each task has {rows} rows, of which n_support={n_support} leave no query; lower it")
    x, y = x.unflatten(0, (n_tasks, rows)), y.unflatten(0, (n_tasks, rows))
    return Episodes(x[:, :n_support], y[:, :n_support], x[:, n_support:], y[:, n_support:])
