"""Inner problems: what an inner loop computes, independent of the engine that computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from maml_fast._arguments import check_fields, int_from
from maml_fast.inner_loop._heads import PrototypeRows, Start
from maml_fast.inner_loop._losses import LossFunction
from maml_fast.inner_loop._metric import Accuracy, MetricFunction
from maml_fast.inner_loop._optimizers import InnerOptimizer, Rule
from maml_fast.inner_loop._rates import Rate
from maml_fast.inner_loop._task_forward import TaskForward
from maml_fast.inner_loop._values import MaybePerStep, map_tensors
from maml_fast.inner_loop._watched_loss import WatchedLoss
from maml_fast.program import AsWritten, Program, RunBlock

__all__ = ["Annealing", "InnerProblem", "Theta", "step_of_queries"]


class Theta(NamedTuple):
    """The meta-parameters, by name: everything that all tasks start from.

    Attributes:
        adapted: initial values of the parameters that adapt.
        rule: learning rates by parameter name, or the parameters of a learned inner optimizer.
        shared: the other parameters; some may have their own values at every step.
        row: the row that all classes of the classifier start from, for ``head="tied"``.
    """

    adapted: Mapping[str, Tensor]
    rule: Mapping[str, MaybePerStep[Rate]]
    shared: Mapping[str, MaybePerStep[Tensor]]
    row: Mapping[str, Tensor] = {}

    def map(self, function: Callable[[Tensor], Tensor]) -> Theta:
        """Apply ``function`` to every tensor."""
        return Theta(*(map_tensors(function, part) for part in self))

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(iter(self.adapted.values())).device


@dataclass(frozen=True)
class InnerProblem:
    """``steps`` inner steps from ``theta`` on every task's support set, followed by its query loss.

    Attributes:
        theta: the meta-parameters.
        forward: the model's forward pass for all tasks.
        loss_fn: the loss function of one task.
        steps: number of inner steps.
        order: 2 differentiates through the inner gradients, 1 treats them as constants.
        optimizer: creates the inner optimizer of one adaptation from ``theta.rule``.
        metric: counts correct predictions; ``None`` if there is no metric.
        step_weights: weights of the query losses after steps 1, 2, ... in the objective; ``None``: only the last step.
        blocks: returns, for a step, the function that runs conv blocks with that step's statistics; ``None``: no
            statistics per step.
        steps_kept: inner steps whose graphs are in memory at once, at order 2; ``None``: all.
        recorded: the programs for support and query inputs, or the reason why there are none.
        programs: the same programs if they run for all tasks at once, or the reason why tasks run one by one.
        as_written: runs the model for one task at a time.
        watched_loss: provides the program of the loss function.
        is_closed: whether the objective's graph is known to end only at tensors of ``theta`` and of the episodes.
        start: initial rows of the classifier; ``None``: those in ``theta``.
    """

    theta: Theta
    forward: TaskForward
    loss_fn: LossFunction
    steps: int
    order: int
    optimizer: Callable[[Rule], InnerOptimizer]
    metric: Accuracy | MetricFunction | None = None
    step_weights: tuple[float, ...] | None = None
    blocks: Callable[[int], RunBlock] | None = None
    steps_kept: int | None = None
    recorded: Sequence[Program] | str = "not recorded for any inputs yet"
    programs: Sequence[Program] | str = "not recorded for any inputs yet"
    as_written: AsWritten | None = None
    watched_loss: WatchedLoss | None = None
    is_closed: bool = False
    start: Start | None = None

    def for_inputs(self, *inputs: Tensor) -> InnerProblem:
        """Return the problem for support and query inputs [T, N, ...] like these, with the model recorded for them."""
        recorded = self.forward.recorded(*inputs)
        programs = recorded if isinstance(recorded, str) else self.forward.batched_programs(recorded, *inputs)
        as_written = self.forward.as_written() if isinstance(programs, str) else None
        is_closed = self.is_closed and self.forward.last is not None and self.forward.last.is_closed
        return replace(self, recorded=recorded, programs=programs, as_written=as_written, is_closed=is_closed)

    def with_tasks(self, tasks_at_once: int) -> InnerProblem:
        """Return the problem for ``tasks_at_once`` tasks; if there are few, they may be faster one by one."""
        if isinstance(self.programs, str):
            return self
        reason = self.forward.reason_for_loop(self.programs, tasks_at_once, self.order)
        return self if reason is None else replace(self, programs=reason, as_written=self.forward.as_written())

    def with_theta(self, stand_in: Callable[[Tensor], Tensor]) -> InnerProblem:
        """Return the problem with every tensor of theta replaced by ``stand_in(tensor)``."""
        return replace(self, theta=self.theta.map(stand_in))

    def with_rows(self) -> InnerProblem | str:
        """Return the problem with the classifier's initial rows in theta, or why they can't be part of theta."""
        if self.start is None:
            return self
        if isinstance(self.start, PrototypeRows):
            return "every task's classifier starts from its own prototypes"
        rows = self.start.rows(self.theta.adapted, self.theta.row)
        return replace(self, theta=self.theta._replace(adapted={**self.theta.adapted, **rows}), start=None)

    @property
    def has_segments(self) -> bool:
        """Whether only some of the steps' graphs may be in memory at once."""
        return self.order == 2 and self.steps_kept is not None and self.steps_kept < self.steps

    @property
    def is_batched(self) -> bool:
        """Whether each operation runs once for all tasks."""
        return not isinstance(self.programs, str)

    def objective_weights(self) -> dict[int, float]:
        """Return the weights of the query losses in the objective, by number of steps."""
        return {self.steps: 1.0} if self.step_weights is None else dict(enumerate(self.step_weights, 1))


def step_of_queries(done: int) -> int:
    """Return the step whose per-step values apply to queries after ``done`` steps: the last (Antoniou et al. 2019)."""
    return max(done - 1, 0)


@dataclass(frozen=True)
class Annealing:
    """Annealing of the derivative order and of the loss early in meta-training (Antoniou, Edwards & Storkey 2019).

    By default nothing is annealed.

    Attributes:
        first_order_iterations: number of meta-iterations at order 1, before those at MAML's own order (section 4,
            derivative-order annealing).
        multi_step_iterations: number of meta-iterations whose loss is a weighted mean of the query losses after every
            inner step. Weights are equal at first and move to the last step, whose query loss alone is the loss
            afterwards (section 4, multi-step loss).

    Raises:
        TypeError, ValueError: an argument is not a number of iterations.
    """

    first_order_iterations: int = 0
    multi_step_iterations: int = 0

    LEAST = 0.03  # minimum weight of an earlier step, as a fraction of an equal share; as in the authors' code

    def __post_init__(self) -> None:
        check_fields(self, first_order_iterations=int_from(0), multi_step_iterations=int_from(0))

    def __bool__(self) -> bool:
        return bool(self.first_order_iterations or self.multi_step_iterations)

    def order(self, iteration: int, afterwards: int) -> int:
        """Return the order of meta-iteration ``iteration``, counted from 0; ``afterwards`` is the order in the end."""
        return 1 if iteration < self.first_order_iterations else afterwards

    def step_weights(self, iteration: int, steps: int) -> tuple[float, ...] | None:
        """Return the weights of the query losses after steps 1, 2, ..., ``steps`` in meta-iteration ``iteration``.

        They add up to 1. ``None`` means that only the last step counts.
        """
        if iteration >= self.multi_step_iterations or steps < 2:
            return None
        share, progress = 1 / steps, iteration / self.multi_step_iterations
        earlier = max(share * (1 - progress), share * self.LEAST)
        return *(earlier,) * (steps - 1), 1 - (steps - 1) * earlier

    def stage(self, iteration: int) -> tuple[bool, int | None]:
        """Return a value that is equal for meta-iterations with the same order and step weights."""
        is_multi_step = iteration < self.multi_step_iterations
        return iteration < self.first_order_iterations, iteration if is_multi_step else None
