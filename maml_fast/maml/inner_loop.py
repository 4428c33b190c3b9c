"""The inner loop of one call: from theta to every task's weights and their query results, all tasks at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from maml_fast import ops
from maml_fast.data.episodes import Episodes
from maml_fast.fusion.task_program import RunBlock
from maml_fast.maml.classification import count_correct
from maml_fast.maml.inner_optimisers import InnerOptimiser, Rule
from maml_fast.maml.per_step import PerStep, at_step
from maml_fast.maml.results import TaskResults
from maml_fast.maml.task_forward import TaskForward
from maml_fast.maml.task_gradients import FastWeights, task_gradients
from maml_fast.maml.theta import Theta

__all__ = ["InnerLoop", "Outcome", "step_of_queries"]


class Outcome(NamedTuple):
    """Query results, and every task's objective [T], which carries the graph."""

    results: TaskResults
    objectives: Tensor


@dataclass(frozen=True)
class InnerLoop:
    """``steps`` steps from ``theta``. Episodes must have been checked.

    Attributes:
        losses: ``losses(logits, targets, what) -> [T]``.
        optimiser: makes steps of gradients.
        step_weights: of the query losses after steps 1, 2, ... in the objective; ``None``: the last alone.
        blocks: what runs a step's conv blocks, if not the batch's own statistics shall.
    """

    theta: Theta
    forward: TaskForward
    losses: Callable[[Tensor, Tensor, str], Tensor]
    steps: int
    order: int
    optimiser: Callable[[Rule], InnerOptimiser]
    step_weights: tuple[float, ...] | None = None
    blocks: Callable[[int], RunBlock] | None = None

    def adapt(self, x_spt: Tensor, y_spt: Tensor) -> FastWeights:
        """Every task's own parameters: the adapted ones, and those of the last step where each has its own."""
        with _outside_inference_mode():
            x_spt, y_spt = _usable_by_autograd(x_spt), _usable_by_autograd(y_spt)
            walk = _Walk(self, len(x_spt))
            for _ in range(self.steps):
                walk.step(x_spt, y_spt)
        last = at_step(walk.of_step, step_of_queries(self.steps))
        return {**walk.fast, **{name: ops.over_tasks(value, len(x_spt)) for name, value in last.items()}}

    def run(self, episodes: Episodes, scored: Collection[int]) -> Outcome:
        """Every task's query results after the ``scored`` steps, the last among them, and its objective."""
        losses, correct, objective = [], [], []
        with _outside_inference_mode():
            x_spt, y_spt, x_qry, y_qry = (_usable_by_autograd(tensor) for tensor in episodes)
            walk = _Walk(self, len(x_spt))
            weights = self.weights_of_steps()
            for step in range(self.steps + 1):
                weight = weights.get(step, 0.0)
                if weight or step in scored:
                    with torch.set_grad_enabled(weight != 0 and torch.is_grad_enabled()):
                        logits = walk.logits(x_qry)
                        loss = self.losses(logits, y_qry, "y_qry")
                    if step in scored:
                        losses.append(loss if step == self.steps else loss.detach())
                        correct.append(count_correct(logits, y_qry))
                    if weight:
                        objective.append(loss if weight == 1 else weight * loss)
                if step < self.steps:
                    walk.step(x_spt, y_spt)
        results = TaskResults(torch.stack(losses), _stacked(correct), y_qry[0].numel())
        return Outcome(results, objective[0] if len(objective) == 1 else torch.stack(objective).sum(dim=0))

    def weights_of_steps(self) -> dict[int, float]:
        """The weight of the query loss after so many steps, where there is one."""
        return {self.steps: 1.0} if self.step_weights is None else dict(enumerate(self.step_weights, 1))


class _Walk:
    """All tasks on their way through the inner loop."""

    def __init__(self, loop: InnerLoop, n_tasks: int) -> None:
        theta, forward = loop.theta, loop.forward
        self._loop = loop
        self._optimiser = loop.optimiser(theta.rule)
        self._constant = {name: value for name, value in theta.shared.items() if not isinstance(value, PerStep)}
        self._constant = forward.in_common(forward.in_kernel_order(self._constant))
        self.of_step = {name: value for name, value in theta.shared.items() if isinstance(value, PerStep)}
        self._done = 0
        self.fast = theta._replace(adapted=forward.in_kernel_order(theta.adapted)).fast_weights(n_tasks)

    def logits(self, x_qry: Tensor) -> Tensor:
        """Those of the queries here."""
        step = step_of_queries(self._done)
        return self._loop.forward(self.fast, self._shared(step), x_qry, self._block(step))

    def step(self, x_spt: Tensor, y_spt: Tensor) -> None:
        """Go on."""
        second_order = self._loop.order == 2 and torch.is_grad_enabled()
        shared = self._shared(self._done)
        if not second_order:
            shared = {name: tensor.detach() for name, tensor in shared.items()}

        def task_losses(at: FastWeights) -> Tensor:
            return self._loop.losses(self._loop.forward(at, shared, x_spt, self._block(self._done)), y_spt, "y_spt")

        losses, gradients = task_gradients(task_losses, self.fast, second_order)
        self.fast = self._optimiser.step(self.fast, losses, gradients)
        self._done += 1

    def _block(self, step: int) -> RunBlock | None:
        return None if self._loop.blocks is None else self._loop.blocks(step)

    def _shared(self, step: int) -> dict[str, Tensor]:
        return {**self._constant, **at_step(self.of_step, step)}


def step_of_queries(done: int) -> int:
    """The step whose own values the queries get that are scored after so many: the last, as in Antoniou et al. 2019."""
    return max(done - 1, 0)


@contextmanager
def _outside_inference_mode() -> Iterator[None]:
    """Inside ``torch.inference_mode`` no gradient can be taken at all: run as under ``torch.no_grad`` there."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def _usable_by_autograd(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made in inference mode, which autograd refuses to save."""
    return tensor.clone() if tensor.is_inference() else tensor


def _stacked(rows: list[Tensor | None]) -> Tensor | None:
    present = [row for row in rows if row is not None]
    return torch.stack(present) if len(present) == len(rows) else None
