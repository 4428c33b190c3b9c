"""The inner loop of one call: from theta to every task's weights and their query results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from maml_fast import ops
from maml_fast.data.episodes import Episodes
from maml_fast.maml.classification import count_correct
from maml_fast.maml.inner_optimisers import INNER_OPTIMISERS, InnerOptimiser, Rule
from maml_fast.maml.per_step import PerStep, at_step
from maml_fast.maml.results import TaskResults
from maml_fast.maml.task_forward import TaskForward
from maml_fast.maml.task_gradients import FastWeights, Gradients, task_gradients
from maml_fast.maml.task_loss import LossFunction, loss_of_task, losses_of_tasks
from maml_fast.maml.theta import Theta
from maml_fast.program import AsWritten, Program, RunBlock

__all__ = ["InnerLoop", "Outcome", "step_of_queries"]


class Outcome(NamedTuple):
    """Query results, and every task's objective [T], which carries the graph."""

    results: TaskResults
    objectives: Tensor


@dataclass(frozen=True)
class InnerLoop:
    """``steps`` steps from ``theta``: ``loop.on(x_spt, x_qry).run(episodes)``. Episodes must have been checked.

    Attributes:
        loss_fn: of one task.
        optimiser: makes steps of gradients.
        step_weights: of the query losses after steps 1, 2, ... in the objective; ``None``: the last alone.
        blocks: what runs a step's conv blocks, if not the batch's own statistics shall.
        programs: what runs support and query images, all tasks together, or why each task runs alone.
    """

    theta: Theta
    forward: TaskForward
    loss_fn: LossFunction
    steps: int
    order: int
    optimiser: Callable[[Rule], InnerOptimiser]
    step_weights: tuple[float, ...] | None = None
    blocks: Callable[[int], RunBlock] | None = None
    programs: Sequence[Program] | str = "not asked for any images"

    def on(self, *inputs: Tensor) -> InnerLoop:
        """The loop for images like these [T, N, ...]."""
        return replace(self, programs=self.forward.programs(*inputs))

    @property
    def together(self) -> bool:
        """Whether one call of each operation does all tasks."""
        return not isinstance(self.programs, str)

    def adapt(self, x_spt: Tensor, y_spt: Tensor) -> FastWeights:
        """Every task's own parameters: the adapted ones, and those of the last step where each has its own."""
        with _outside_inference_mode():
            x_spt, y_spt = _usable_by_autograd(x_spt), _usable_by_autograd(y_spt)
            if self.together:
                fast = self._adapted(_AllTasks(self, len(x_spt)), x_spt, y_spt)
            else:
                as_written = self.forward.as_written()
                each = [self._adapted(_OneTask(self, as_written), *task) for task in zip(x_spt, y_spt, strict=True)]
                fast = {name: torch.stack([of_task[name] for of_task in each]) for name in each[0]}
        last = at_step(_of_steps(self.theta), step_of_queries(self.steps))
        return {**fast, **{name: ops.over_tasks(value, len(x_spt)) for name, value in last.items()}}

    def run(self, episodes: Episodes, scored: Collection[int]) -> Outcome:
        """Every task's query results after the ``scored`` steps, the last among them, and its objective."""
        with _outside_inference_mode():
            episodes = Episodes(*map(_usable_by_autograd, episodes))
            if self.together:
                losses, correct, objectives = self._scored(_AllTasks(self, len(episodes.x_spt)), episodes, scored)
            else:
                as_written = self.forward.as_written()
                each = [self._scored(_OneTask(self, as_written), task, scored) for task in zip(*episodes, strict=True)]
                losses = torch.stack([of_task[0] for of_task in each], dim=-1)
                correct = _stacked([of_task[1] for of_task in each], dim=-1)
                objectives = torch.stack([of_task[2] for of_task in each])
        return Outcome(TaskResults(losses, correct, episodes.y_qry[0].numel()), objectives)

    def weights_of_steps(self) -> dict[int, float]:
        """The weight of the query loss after so many steps, where there is one."""
        return {self.steps: 1.0} if self.step_weights is None else dict(enumerate(self.step_weights, 1))

    def _adapted(self, walk: _Walk, x_spt: Tensor, y_spt: Tensor) -> FastWeights:
        for _ in range(self.steps):
            walk.step(x_spt, y_spt)
        return walk.fast

    def _scored(
        self, walk: _Walk, episodes: Sequence[Tensor], scored: Collection[int]
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Losses [S, ...], right predictions [S, ...] and the objective [...] of a walk's tasks."""
        losses, correct, objective = [], [], []
        x_spt, y_spt, x_qry, y_qry = episodes
        weights = self.weights_of_steps()
        for step in range(self.steps + 1):
            weight = weights.get(step, 0.0)
            if weight or step in scored:
                with torch.set_grad_enabled(weight != 0 and torch.is_grad_enabled()):
                    logits, loss = walk.queries(x_qry, y_qry)
                if step in scored:
                    losses.append(loss if step == self.steps else loss.detach())
                    correct.append(walk.count_correct(logits, y_qry))
                if weight:
                    objective.append(loss if weight == 1 else weight * loss)
            if step < self.steps:
                walk.step(x_spt, y_spt)
        whole = objective[0] if len(objective) == 1 else torch.stack(objective).sum(dim=0)
        return torch.stack(losses), _stacked(correct), whole


class _Walk(ABC):
    """Tasks on their way through the inner loop."""

    fast: FastWeights
    optimiser: InnerOptimiser

    def __init__(self, loop: InnerLoop) -> None:
        self.loop = loop
        self._of_steps = _of_steps(loop.theta)
        self._constant = {name: value for name, value in loop.theta.shared.items() if not isinstance(value, PerStep)}
        self._done = 0
        self._checked: set[str] = set()

    @abstractmethod
    def logits(self, fast: FastWeights, shared: Mapping[str, Tensor], x: Tensor, step: int) -> Tensor:
        """Those of images x, by a step's own values."""

    @abstractmethod
    def losses(self, logits: Tensor, targets: Tensor, what: str | None) -> Tensor:
        """Of the tasks; ``what`` names the targets that are to be checked."""

    @abstractmethod
    def count_correct(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        """Right predictions of the tasks, where targets are classes."""

    def queries(self, x_qry: Tensor, y_qry: Tensor) -> tuple[Tensor, Tensor]:
        """The queries' logits, and their losses, at the weights here."""
        step = step_of_queries(self._done)
        logits = self.logits(self.fast, self._shared(step), x_qry, step)
        return logits, self.losses(logits, y_qry, self._once("y_qry"))

    def step(self, x_spt: Tensor, y_spt: Tensor) -> None:
        """Take one step on the support set."""
        second_order = self.loop.order == 2 and torch.is_grad_enabled()
        shared = self._shared(self._done)
        if not second_order:
            shared = {name: tensor.detach() for name, tensor in shared.items()}

        def task_losses(at: FastWeights) -> Tensor:
            return self.losses(self.logits(at, shared, x_spt, self._done), y_spt, self._once("y_spt"))

        losses, gradients = task_gradients(task_losses, self.fast, second_order)
        self.fast = self.optimiser.step(self.fast, losses, gradients)
        self._done += 1

    def _once(self, what: str) -> str | None:
        """The name of targets that were not checked yet: they are the same at every step."""
        if what in self._checked:
            return None
        self._checked.add(what)
        return what

    def _shared(self, step: int) -> dict[str, Tensor]:
        return {**self._constant, **at_step(self._of_steps, step)}


class _AllTasks(_Walk):
    """All tasks together: one call of each operation. Every tensor has a leading dimension T."""

    def __init__(self, loop: InnerLoop, n_tasks: int) -> None:
        super().__init__(loop)
        theta, forward = loop.theta, loop.forward
        self.optimiser = loop.optimiser(theta.rule)
        assert not isinstance(loop.programs, str)
        self._programs = {program.input.shape: program for program in loop.programs}
        self._constant = forward.with_buffers(forward.in_kernel_order(self._constant, loop.programs), loop.programs)
        adapted = forward.in_kernel_order(theta.adapted, loop.programs)
        self.fast = theta._replace(adapted=adapted).fast_weights(n_tasks)

    def logits(self, fast: FastWeights, shared: Mapping[str, Tensor], x: Tensor, step: int) -> Tensor:
        block = None if self.loop.blocks is None else self.loop.blocks(step)
        return self._programs[x.shape[1:]](fast, shared, x, block)

    def losses(self, logits: Tensor, targets: Tensor, what: str | None) -> Tensor:
        return losses_of_tasks(self.loop.loss_fn, logits, targets, what)

    def count_correct(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        return count_correct(logits, targets)


class _OneTask(_Walk):
    """One task alone, by the module as it is written. No tensor has a dimension for tasks."""

    def __init__(self, loop: InnerLoop, as_written: AsWritten) -> None:
        super().__init__(loop)
        self.optimiser = loop.optimiser(loop.theta.rule)
        if loop.optimiser not in INNER_OPTIMISERS.values():  # which take each weight by itself
            self.optimiser = _Alone(self.optimiser)
        self._model = as_written.begin_task()
        self.fast = dict(loop.theta.adapted)

    def logits(self, fast: FastWeights, shared: Mapping[str, Tensor], x: Tensor, step: int) -> Tensor:
        return self._model({**shared, **fast}, x)

    def losses(self, logits: Tensor, targets: Tensor, what: str | None) -> Tensor:
        return loss_of_task(self.loop.loss_fn, logits, targets, what)

    def count_correct(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        correct = count_correct(logits[None], targets[None])
        return None if correct is None else correct[0]


class _Alone:
    """An optimiser of tasks, for one of them."""

    def __init__(self, optimiser: InnerOptimiser) -> None:
        self._optimiser = optimiser

    def step(self, fast: FastWeights, losses: Tensor, gradients: Gradients) -> FastWeights:
        fast, gradients = ({name: tensor[None] for name, tensor in each.items()} for each in (fast, gradients))
        after = self._optimiser.step(fast, losses[None], gradients)
        return {name: weight.squeeze(0) for name, weight in after.items()}


def _of_steps(theta: Theta) -> dict[str, PerStep]:
    return {name: value for name, value in theta.shared.items() if isinstance(value, PerStep)}


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


def _stacked(rows: list[Tensor | None], dim: int = 0) -> Tensor | None:
    present = [row for row in rows if row is not None]
    return torch.stack(present, dim) if len(present) == len(rows) else None
