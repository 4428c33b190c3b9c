"""Episodes from the batches of an ordinary DataLoader."""

from __future__ import annotations

from torch import Tensor

from maml_fast._arguments import takes, tensor, whole
from maml_fast.data._episodes import Episodes

__all__ = ["tasks_from_batch"]


@takes(x=tensor, y=tensor, n_tasks=whole(1), n_support=whole(1))
def tasks_from_batch(x: Tensor, y: Tensor, n_tasks: int, n_support: int) -> Episodes:
    """Cut a batch of rows into the tasks that it holds, and every task into support and query.

    Args:
        x: [B, ...], the rows of each task together, ``B / n_tasks`` of them. A DataLoader gives such batches of a data
            set that lies task by task, with ``batch_size = n_tasks * rows of a task`` and without shuffling its rows.
        y: [B, ...], the targets of these rows.
        n_tasks: tasks in the batch, ``T``.
        n_support: rows of each task to adapt to, its first ones; the others are its query rows.

    Returns:
        Views of the batch: x_spt [T, n_support, ...], y_spt, x_qry [T, B / T - n_support, ...], y_qry.

    Raises:
        TypeError: an argument is of another type.
        ValueError: x and y differ in rows, the rows do not make ``n_tasks`` equal tasks, or a task has no query rows.
    """
    if x.dim() < 1 or y.dim() < 1:
        raise ValueError(f"x and y must be rows [B, ...], got {list(x.shape)} and {list(y.shape)}")
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} rows, but y {len(y)}")
    rows, left_over = divmod(len(x), n_tasks)
    if left_over:
        raise ValueError(
            f"{len(x)} rows do not make {n_tasks} tasks of one size; set batch_size to a multiple of {n_tasks}, and "
            f"drop_last=True where a last batch is smaller"
        )
    if rows <= n_support:
        raise ValueError(f"each task has {rows} rows, of which n_support={n_support} leave no query; lower it")
    x, y = x.unflatten(0, (n_tasks, rows)), y.unflatten(0, (n_tasks, rows))
    return Episodes(x[:, :n_support], y[:, :n_support], x[:, n_support:], y[:, n_support:])
