"""The engines ``batched`` and ``loop``: inner loops of PyTorch's operations, of all tasks together or one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.grad_mode import set_multithreading_enabled

from maml_fast import ops
from maml_fast.data.episodes import Episodes
from maml_fast.maml.inner_optimisers import INNER_OPTIMISERS, InnerOptimiser
from maml_fast.maml.losses import count_correct, loss_of_task, losses_of_tasks
from maml_fast.maml.problem import InnerProblem, Theta, step_of_queries
from maml_fast.maml.values import FastWeights, Gradients, PerStep, TaskResults, at_step
from maml_fast.program import AsWritten

__all__ = ["Outcome", "adapt", "run", "task_gradients"]


class Outcome(NamedTuple):
    """Query results, and every task's objective [T], which carries the graph."""

    results: TaskResults
    objectives: Tensor


def adapt(problem: InnerProblem, x_spt: Tensor, y_spt: Tensor) -> FastWeights:
    """Every task's own parameters: the adapted ones, and those of the last step where each has its own."""
    with _outside_inference_mode():
        x_spt, y_spt = _usable_by_autograd(x_spt), _usable_by_autograd(y_spt)
        if problem.together:
            fast = _adapted(_AllTasks(problem, len(x_spt)), x_spt, y_spt)
        else:
            as_written = problem.forward.as_written()
            each = [_adapted(_OneTask(problem, as_written), *task) for task in zip(x_spt, y_spt, strict=True)]
            fast = {name: torch.stack([of_task[name] for of_task in each]) for name in each[0]}
    last = at_step(_of_steps(problem.theta), step_of_queries(problem.steps))
    return {**fast, **{name: ops.over_tasks(value, len(x_spt)) for name, value in last.items()}}


def run(problem: InnerProblem, episodes: Episodes, scored: Collection[int]) -> Outcome:
    """Every task's query results after the ``scored`` steps, the last among them, and its objective."""
    with _outside_inference_mode():
        episodes = Episodes(*map(_usable_by_autograd, episodes))
        if problem.together:
            losses, correct, objectives = _scored(_AllTasks(problem, len(episodes.x_spt)), episodes, scored)
        else:
            as_written = problem.forward.as_written()
            each = [_scored(_OneTask(problem, as_written), task, scored) for task in zip(*episodes, strict=True)]
            losses = torch.stack([of_task[0] for of_task in each], dim=-1)
            correct = _stacked([of_task[1] for of_task in each], dim=-1)
            objectives = torch.stack([of_task[2] for of_task in each])
    return Outcome(TaskResults(losses, correct, episodes.y_qry[0].numel()), objectives)


def task_gradients(
    task_losses: Callable[[FastWeights], Tensor], fast: FastWeights, second_order: bool
) -> tuple[Tensor, Gradients]:
    """Every task's loss [T], and its gradient by name; what no loss depends on is left out.

    ``task_losses`` gives the losses [T] of the tasks at given weights. Tasks are independent, so the gradient of the
    losses' sum holds every task's own gradient. At first order both are constants to the meta-gradient.

    Raises:
        RuntimeError: no loss depends on any weight.
    """
    # Under torch.func nobody may make leaves: the gradient is taken through the graph, and cut off then.
    transformed = torch._C._are_functorch_transforms_active()
    with torch.enable_grad():  # also where the caller has switched gradients off
        at = fast
        if not (second_order or transformed):
            at = {name: weight.detach().requires_grad_() for name, weight in fast.items()}
        losses = task_losses(at)
        gradients: tuple[Tensor | None, ...] = (None,) * len(at)
        if losses.requires_grad or transformed:
            # On a GPU another thread would number the nodes that are made here. Their numbers decide in which order
            # the meta-gradient is summed, and so on its last bits.
            with set_multithreading_enabled(False):
                gradients = torch.autograd.grad(
                    losses.sum(), tuple(at.values()), create_graph=second_order, allow_unused=True
                )
    if not second_order:
        losses = losses.detach()
        gradients = tuple(None if gradient is None else gradient.detach() for gradient in gradients)
        for name, weight in () if transformed else at.items():
            if weight.data_ptr() != fast[name].data_ptr():  # forward has written another value through .data
                fast[name] = fast[name] + (weight - fast[name]).detach()
    known = {name: gradient for name, gradient in zip(fast, gradients, strict=True) if gradient is not None}
    if not known:
        raise RuntimeError(f"the support loss does not depend on any adapted parameter: {', '.join(fast)}")
    return losses, known


def _adapted(walk: _Walk, x_spt: Tensor, y_spt: Tensor) -> FastWeights:
    for _ in range(walk.problem.steps):
        walk.step(x_spt, y_spt)
    return walk.fast


def _scored(walk: _Walk, episodes: Sequence[Tensor], scored: Collection[int]) -> tuple[Tensor, Tensor | None, Tensor]:
    """Losses [S, ...], right predictions [S, ...] and the objective [...] of a walk's tasks."""
    losses, correct, objective = [], [], []
    x_spt, y_spt, x_qry, y_qry = episodes
    weights, steps = walk.problem.weights_of_steps(), walk.problem.steps
    for step in range(steps + 1):
        weight = weights.get(step, 0.0)
        if weight or step in scored:
            with torch.set_grad_enabled(weight != 0 and torch.is_grad_enabled()):
                logits, loss = walk.queries(x_qry, y_qry)
            if step in scored:
                losses.append(loss if step == steps else loss.detach())
                correct.append(walk.count_correct(logits, y_qry))
            if weight:
                objective.append(loss if weight == 1 else weight * loss)
        if step < steps:
            walk.step(x_spt, y_spt)
    whole = objective[0] if len(objective) == 1 else torch.stack(objective).sum(dim=0)
    return torch.stack(losses), _stacked(correct), whole


class _Walk(ABC):
    """Tasks on their way through the inner problem."""

    fast: FastWeights
    optimiser: InnerOptimiser

    def __init__(self, problem: InnerProblem) -> None:
        self.problem = problem
        self._of_steps = _of_steps(problem.theta)
        self._constant = {name: value for name, value in problem.theta.shared.items() if not isinstance(value, PerStep)}
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
        second_order = self.problem.order == 2 and torch.is_grad_enabled()
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

    def __init__(self, problem: InnerProblem, n_tasks: int) -> None:
        super().__init__(problem)
        theta, forward = problem.theta, problem.forward
        self.optimiser = problem.optimiser(theta.rule)
        programs = problem.programs
        assert not isinstance(programs, str)
        self._programs = {program.input.shape: program for program in programs}
        self._constant = forward.with_buffers(forward.in_kernel_order(self._constant, programs), programs)
        adapted = forward.in_kernel_order(theta.adapted, programs)
        self.fast = theta._replace(adapted=adapted).fast_weights(n_tasks)

    def logits(self, fast: FastWeights, shared: Mapping[str, Tensor], x: Tensor, step: int) -> Tensor:
        block = None if self.problem.blocks is None else self.problem.blocks(step)
        return self._programs[x.shape[1:]](fast, shared, x, block)

    def losses(self, logits: Tensor, targets: Tensor, what: str | None) -> Tensor:
        return losses_of_tasks(self.problem.loss_fn, logits, targets, what)

    def count_correct(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        return count_correct(logits, targets)


class _OneTask(_Walk):
    """One task alone, by the module as it is written. No tensor has a dimension for tasks."""

    def __init__(self, problem: InnerProblem, as_written: AsWritten) -> None:
        super().__init__(problem)
        self.optimiser = problem.optimiser(problem.theta.rule)
        if problem.optimiser not in INNER_OPTIMISERS.values():  # which take each weight by itself
            self.optimiser = _Alone(self.optimiser)
        self._model = as_written.begin_task()
        self.fast = dict(problem.theta.adapted)

    def logits(self, fast: FastWeights, shared: Mapping[str, Tensor], x: Tensor, step: int) -> Tensor:
        return self._model({**shared, **fast}, x)

    def losses(self, logits: Tensor, targets: Tensor, what: str | None) -> Tensor:
        return loss_of_task(self.problem.loss_fn, logits, targets, what)

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
