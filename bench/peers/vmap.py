"""All tasks at once by functional transforms: ``torch.func.grad`` inside ``torch.func.vmap``.

Batch norm is written in elementary operations here: over ``F.batch_norm``, ``vmap(grad(...))`` gives a wrong
second-order gradient in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import grad, vmap

from peers.inner_loop import Problem, Score, passing_score, score
from peers.learner import Learner
from peers.nets import Parameters

if TYPE_CHECKING:
    from maml_fast.data import Episodes


def vmap_scores(problem: Problem, parameters: Parameters, rates: Sequence, episodes: Sequence[Tensor]) -> list[Score]:
    """All tasks' query scores, [T] each, after every scored step and the last one, which is differentiable."""

    def task(x_spt: Tensor, y_spt: Tensor, x_qry: Tensor, y_qry: Tensor) -> list[Score]:
        weights, scores = list(parameters), []

        def support_loss(own: list[Tensor]) -> Tensor:
            placed = list(weights)
            for i, weight in zip(problem.adapted, own, strict=True):
                placed[i] = weight
            return problem.loss(problem.network(placed, x_spt), y_spt)

        for step in range(problem.steps):
            if step in problem.scored:
                scores.append(passing_score(problem, weights, x_qry, y_qry))
            gradients = grad(support_loss)([weights[i] for i in problem.adapted])
            for i, rate, gradient in zip(problem.adapted, rates, gradients, strict=True):
                weights[i] = weights[i] - rate * (gradient if problem.order == 2 else gradient.detach())
        return [*scores, score(problem, weights, x_qry, y_qry)]

    return vmap(task, randomness="different")(*episodes)  # dropout of every task its own


def vmap_loss(problem: Problem, parameters: Parameters, rates: Sequence, episodes: Sequence[Tensor]) -> Tensor:
    """Mean query loss after adaptation."""
    return vmap_scores(problem, parameters, rates, episodes)[-1].loss.mean()


class Vmap(Learner):
    """The batch of tasks in one piece."""

    name = "vmap"
    title = "torch.func.vmap"
    all_tasks_at_once = True
    copies = 12.0

    def backward(self, episodes: Episodes) -> Tensor:
        problem, rates = self.workload.problem(elementary=True), [self.workload.inner_lr] * len(self.parameters)
        scores = vmap_scores(problem, self.parameters, rates, episodes)
        scores[-1].loss.mean().backward()
        return torch.stack([each.loss.detach().mean() for each in scores])
