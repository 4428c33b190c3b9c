"""MAML with an ordinary DataLoader of (x, y): two classes of 10-feature points, separated differently per task.

    python examples/dataloader.py

A loop that is often copied for this adapts to a batch and then scores the adapted weights on the same batch, which
rewards weights that memorize their batch. Here a batch holds several tasks, and ``tasks_from_batch`` splits the rows of
each task into a support set and a query set.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import maml_fast as mf

FEATURES, ROWS, SUPPORT = 10, 30, 10  # ROWS per task, of which SUPPORT are its support set
TASKS_IN_BATCH = 16


def main(arguments: Sequence[str] | None = None) -> tuple[float, float]:
    """Meta-train; print and return the accuracy on new tasks before and after adaptation."""
    options = _options(arguments)
    rows = make_rows(options.tasks + options.test_tasks, options.seed)
    n_train = options.tasks * ROWS
    # Not shuffled: the rows of a task must stay together.
    train_loader = DataLoader(TensorDataset(*(part[:n_train] for part in rows)), TASKS_IN_BATCH * ROWS, drop_last=True)
    test_loader = DataLoader(TensorDataset(*(part[n_train:] for part in rows)), ROWS)  # a batch is a task

    maml = train(train_loader, options)
    before, after = (accuracy(maml, test_loader, inner_steps=steps) for steps in (0, maml.inner_steps))
    print(f"{options.test_tasks} new tasks, {SUPPORT} support rows: accuracy {before:.1%} before, {after:.1%} after")
    return before, after


def make_rows(n_tasks: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return x [n_tasks * ROWS, FEATURES] and the classes y [n_tasks * ROWS].

    A line through the origin of a plane separates the classes. The plane is the same for all tasks, the line is not.
    """
    generator = torch.Generator().manual_seed(seed)
    plane = torch.linalg.qr(torch.randn(FEATURES, 2, generator=generator)).Q  # [FEATURES, 2]
    angles = 2 * torch.pi * torch.rand(n_tasks, 1, generator=generator)
    normals = torch.cat([angles.cos(), angles.sin()], dim=1) @ plane.T  # [n_tasks, FEATURES]
    x = torch.randn(n_tasks, ROWS, FEATURES, generator=generator)
    y = (x @ normals[..., None]).squeeze(-1) > 0  # [n_tasks, ROWS]
    return x.flatten(0, 1), y.flatten().long()


def train(loader: DataLoader[tuple[Tensor, ...]], options: argparse.Namespace) -> mf.MAML:
    """Meta-train a small network on the tasks of a loader."""
    torch.manual_seed(options.seed)
    net = mf.models.MLP((FEATURES, 16, 2), init_std=0.3)
    maml = mf.MAML(net, inner_lr=0.5, inner_steps=5, order=2, task_chunk=None)
    optimizer = torch.optim.Adam(maml.parameters(), lr=3e-3)
    for _ in range(options.epochs):
        for x, y in loader:  # x [TASKS_IN_BATCH * ROWS, FEATURES]
            episodes = mf.data.tasks_from_batch(x, y, n_tasks=TASKS_IN_BATCH, n_support=SUPPORT)
            optimizer.zero_grad()
            maml(episodes).loss.backward()
            optimizer.step()
    return maml


@torch.no_grad()
def predict(maml: mf.MAML, x_spt: Tensor, y_spt: Tensor, x: Tensor, inner_steps: int | None = None) -> Tensor:
    """Return classes [N] of new rows x [N, FEATURES] of a task, adapted to its support rows."""
    fast = maml.adapt(x_spt[None], y_spt[None], inner_steps)
    return maml.predict(fast, x[None]).argmax(dim=-1).squeeze(0)


def accuracy(maml: mf.MAML, loader: DataLoader[tuple[Tensor, ...]], inner_steps: int) -> float:
    """Return the share of correct predictions for the query rows of a loader's tasks."""
    right = [predict(maml, x[:SUPPORT], y[:SUPPORT], x[SUPPORT:], inner_steps) == y[SUPPORT:] for x, y in loader]
    return torch.cat(right).double().mean().item()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1600, help="tasks to train on (default: 1600)")
    parser.add_argument("--test-tasks", type=int, default=400, help="tasks to test on (default: 400)")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of meta-training (default: 8)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
