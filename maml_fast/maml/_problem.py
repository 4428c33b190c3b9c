"""What an inner loop is to compute; how is a matter of the engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from maml_fast._arguments import settle, whole
from maml_fast.maml._heads import PrototypeRows, Start
from maml_fast.maml._inner_optimizers import InnerOptimizer, Rule
from maml_fast.maml._inner_rates import Rate
from maml_fast.maml._losses import LossFunction
from maml_fast.maml._metric import Accuracy, Judge
from maml_fast.maml._task_forward import TaskForward
from maml_fast.maml._values import MaybePerStep, map_tensors
from maml_fast.maml._watched_loss import WatchedLoss
from maml_fast.program import AsWritten, Program, RunBlock

__all__ = ["Annealing", "InnerProblem", "Theta", "step_of_queries"]


class Theta(NamedTuple):
    """What all tasks have in common, by name.

    adapted: parameters that adapt, from these values on.
    rule: what the inner optimizer knows: learning rates by the parameters' names, or its own parameters.
    shared: other parameters; some of them may be each step's own.
    row: that every class's row of the classifier starts from, where they share one.
    """

    adapted: Mapping[str, Tensor]
    rule: Mapping[str, MaybePerStep[Rate]]
    shared: Mapping[str, MaybePerStep[Tensor]]
    row: Mapping[str, Tensor] = {}

    def map(self, function: Callable[[Tensor], Tensor]) -> Theta:
        """The same with other tensors in the place of these."""
        return Theta(*(map_tensors(function, part) for part in self))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.adapted.values())).device


@dataclass(frozen=True)
class InnerProblem:
    """``steps`` steps from ``theta`` on every task's support set, then its query loss.

    Attributes:
        forward: the model.
        loss_fn: of one task.
        judge: tells right predictions of one task, if anything does.
        optimizer: makes steps of gradients.
        step_weights: of the query losses after steps 1, 2, ... in the objective; ``None``: the last alone.
        blocks: what runs a step's conv blocks, if not the batch's own statistics shall.
        steps_kept: inner steps whose graphs are in memory at once, at order 2; ``None``: all.
        recorded: the programs of support and query inputs, or why there are none.
        programs: the same, to run for all tasks together, or why each task runs alone.
        as_written: what runs a task alone.
        watched_loss: knows the loss's program.
        is_closed: whether all tensors are known that the objective's graph ends at: theta's, and the episodes'.
        start: of the classifier's rows, if not their own values in theta.
    """

    theta: Theta
    forward: TaskForward
    loss_fn: LossFunction
    steps: int
    order: int
    optimizer: Callable[[Rule], InnerOptimizer]
    judge: Accuracy | Judge | None = None
    step_weights: tuple[float, ...] | None = None
    blocks: Callable[[int], RunBlock] | None = None
    steps_kept: int | None = None
    recorded: Sequence[Program] | str = "not asked for any images"
    programs: Sequence[Program] | str = "not asked for any images"
    as_written: AsWritten | None = None
    watched_loss: WatchedLoss | None = None
    is_closed: bool = False
    start: Start | None = None

    def on(self, *inputs: Tensor) -> InnerProblem:
        """The problem for images like these [T, N, ...]."""
        recorded = self.forward.recorded(*inputs)
        programs = recorded if isinstance(recorded, str) else self.forward.together(recorded, *inputs)
        as_written = self.forward.as_written() if isinstance(programs, str) else None
        is_closed = self.is_closed and self.forward.last is not None and self.forward.last.is_closed
        return replace(self, recorded=recorded, programs=programs, as_written=as_written, is_closed=is_closed)

    def with_tasks(self, together: int) -> InnerProblem:
        """The problem for so many tasks at once: few of them run alone where that is faster."""
        if isinstance(self.programs, str) or (why := self.forward.alone(self.programs, together, self.order)) is None:
            return self
        return replace(self, programs=why, as_written=self.forward.as_written())

    def at(self, stand_in: Callable[[Tensor], Tensor]) -> InnerProblem:
        """The problem with other tensors in the place of theta's."""
        return replace(self, theta=self.theta.map(stand_in))

    def with_rows(self) -> InnerProblem | str:
        """The problem with the classifier's first rows in theta, or why they can't be there."""
        if self.start is None:
            return self
        if isinstance(self.start, PrototypeRows):
            return "every task's classifier starts from its own prototypes"
        rows = self.start.rows(self.theta.adapted, self.theta.row)
        return replace(self, theta=self.theta._replace(adapted={**self.theta.adapted, **rows}), start=None)

    @property
    def has_segments(self) -> bool:
        """Whether the graphs of all steps are more than shall be kept."""
        return self.order == 2 and self.steps_kept is not None and self.steps_kept < self.steps

    @property
    def together(self) -> bool:
        """Whether one call of each operation does all tasks."""
        return not isinstance(self.programs, str)

    def weights_of_steps(self) -> dict[int, float]:
        """The weight of the query loss after so many steps, where there is one."""
        return {self.steps: 1.0} if self.step_weights is None else dict(enumerate(self.step_weights, 1))


def step_of_queries(done: int) -> int:
    """The step whose own values the queries get that are scored after so many: the last, as in Antoniou et al. 2019."""
    return max(done - 1, 0)


@dataclass(frozen=True)
class Annealing:
    """How an iteration's order and step weights follow from its number; by default they do not.

    Antoniou, Edwards & Storkey 2019.

    Attributes:
        first_order_iterations: so many iterations at order 1, before those at MAML's own order (section 4,
            derivative-order annealing).
        multi_step_iterations: so many iterations whose loss is a weighted mean of the query losses after every inner
            step, from equal weights on towards the last step alone, which is the loss afterwards (section 4, multi-step
            loss).

    Raises:
        TypeError, ValueError: for what is no number of iterations.
    """

    first_order_iterations: int = 0
    multi_step_iterations: int = 0

    LEAST = 0.03  # of an even share, for the loss after an earlier step: as in the authors' code

    def __post_init__(self) -> None:
        settle(self, first_order_iterations=whole(0), multi_step_iterations=whole(0))

    def __bool__(self) -> bool:
        return bool(self.first_order_iterations or self.multi_step_iterations)

    def order(self, iteration: int, afterwards: int) -> int:
        """The order of an iteration, counted from 0."""
        return 1 if iteration < self.first_order_iterations else afterwards

    def step_weights(self, iteration: int, steps: int) -> tuple[float, ...] | None:
        """The weights of the query losses after steps 1, 2, ..., which add up to 1; ``None``: the last step alone."""
        if iteration >= self.multi_step_iterations or steps < 2:
            return None
        share, progress = 1 / steps, iteration / self.multi_step_iterations
        earlier = max(share * (1 - progress), share * self.LEAST)
        return *(earlier,) * (steps - 1), 1 - (steps - 1) * earlier

    def stage(self, iteration: int) -> tuple[bool, int | None]:
        """Equal for iterations that have the same order and weights."""
        still = iteration < self.multi_step_iterations
        return iteration < self.first_order_iterations, iteration if still else None
