"""A plain loop over the tasks: functional PyTorch, as one writes it in forty lines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from peers.inner_loop import Problem, Score, passing_score, score
from peers.learner import TaskByTask
from peers.nets import Parameters


def task_scores(problem: Problem, parameters: Parameters, rates: Sequence, task: Sequence[Tensor]) -> list[Score]:
    """The query's score of one task after every scored step and the last one, which is differentiable."""
    x_spt, y_spt, x_qry, y_qry = task
    weights, scores = list(parameters), []
    for step in range(problem.steps):
        if step in problem.scored:
            scores.append(passing_score(problem, weights, x_qry, y_qry))
        loss = problem.loss(problem.network(weights, x_spt), y_spt)
        own = [weights[i] for i in problem.adapted]
        gradients = torch.autograd.grad(loss, own, create_graph=problem.order == 2)
        for i, rate, gradient in zip(problem.adapted, rates, gradients, strict=True):
            weights[i] = weights[i] - rate * gradient
    return [*scores, score(problem, weights, x_qry, y_qry)]


def loop_loss(problem: Problem, parameters: Parameters, rates: Sequence, episodes: Sequence[Tensor]) -> Tensor:
    """Mean query loss after adaptation: one task after another, plain autograd."""
    losses = [task_scores(problem, parameters, rates, task)[-1].loss for task in zip(*episodes, strict=True)]
    return torch.stack(losses).mean()


class TaskLoop(TaskByTask):
    name = "loop"
    title = "per-task PyTorch loop"

    def task_backward(self, task: Sequence[Tensor], weight: float) -> list[Tensor]:
        problem, rates = self.workload.problem(), [self.workload.inner_lr] * len(self.parameters)
        losses = [each.loss for each in task_scores(problem, self.parameters, rates, task)]
        (weight * losses[-1]).backward()
        return losses
