"""The smallest MAML: a linear layer with one weight and one bias, and tasks y = a x with a different slope a each.

    python examples/linear_regression.py

MAML learns where to start, between the slopes of the tasks, and how far to step. No task has a bias, so the learning
rate of the bias falls to almost zero.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import nn

import maml_fast as mf

SLOPES = (1.0, 4.0)
TASKS, SUPPORT, QUERY = 16, 5, 10


def main(arguments: Sequence[str] | None = None) -> mf.EvaluationResult:
    """Meta-train, print the error on new tasks after every step and the slope of one task; return the evaluation."""
    options = _options(arguments)
    torch.manual_seed(options.seed)
    rates = {"weight": 0.1, "bias": 0.1}
    maml = mf.MAML(
        nn.Linear(1, 1),
        inner_lr=rates,
        inner_steps=1,
        order=2,
        loss_fn=F.mse_loss,
        learn_inner_lr=True,
        task_chunk=None,
    )
    optimizer = torch.optim.Adam(maml.parameters(), lr=0.01)
    for batch in islice(episodes(options.seed), options.iterations):
        optimizer.zero_grad()
        maml(batch).loss.backward()
        optimizer.step()

    result = mf.evaluate(maml, episodes(options.seed + 1), 400, inner_steps=3)
    errors = ", ".join(f"{loss:.4f}" for loss in result.losses)
    print(f"mean squared error on {result.n_episodes} new tasks after 0 to 3 steps: {errors}")
    learned = (f"{name} {maml.get_parameter(f'inner_lr.{name}').item():.3f}" for name in rates)
    print(f"inner rates: {', '.join(learned)}")
    x = torch.linspace(-1, 1, SUPPORT).view(1, SUPPORT, 1)
    slope = maml.adapt(x, 2 * x, inner_steps=3)["weight"].item()
    start = maml.model.get_parameter("weight").item()
    print(f"y = 2 x: the slope is {start:.3f} before and {slope:.3f} after 3 steps")
    return result


def episodes(seed: int) -> Iterator[mf.Episodes]:
    """Yield meta-batches: x and y are [TASKS, SUPPORT, 1] in the support set and [TASKS, QUERY, 1] in the query set."""
    generator = torch.Generator().manual_seed(seed)
    low, high = SLOPES
    while True:
        slopes = low + (high - low) * torch.rand(TASKS, 1, 1, generator=generator)
        x_spt, x_qry = (2 * torch.rand(TASKS, n, 1, generator=generator) - 1 for n in (SUPPORT, QUERY))
        yield mf.Episodes(x_spt, slopes * x_spt, x_qry, slopes * x_qry)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--iterations", type=int, default=1000, help="meta-iterations (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
