"""Tasks on their way through an inner problem, all together or one alone, by PyTorch's operations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from maml_fast import ops
from maml_fast.maml._heads import PrototypeRows
from maml_fast.maml._inner_optimizers import INNER_OPTIMIZERS, InnerOptimizer
from maml_fast.maml._losses import loss_of_task, losses_of_tasks
from maml_fast.maml._metric import Counts, count_of_task, count_of_tasks
from maml_fast.maml._problem import InnerProblem, Theta, step_of_queries
from maml_fast.maml._state import State, get_randomness, map_state
from maml_fast.maml._values import FastWeights, Gradients, PerStep, at_step

__all__ = ["AllTasks", "OneTask", "Scores", "Walk", "of_steps", "task_gradients"]


class Walk(ABC):
    """Tasks on their way through the inner problem."""

    fast: FastWeights
    optimizer: InnerOptimizer

    def __init__(self, problem: InnerProblem) -> None:
        self.problem = problem
        self._of_steps = of_steps(problem.theta)
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
    def count(self, logits: Tensor, targets: Tensor) -> Counts | None:
        """Predictions of the tasks, and right ones, where something judges them."""

    @abstractmethod
    def for_tasks(self, shared: Mapping[str, Tensor]) -> FastWeights:
        """What the tasks have in common, as each one's own."""

    def take_steps(self, begin: int, end: int, scores: Scores) -> None:
        """Take steps [begin, end), and score the queries before each where that is asked for."""
        for step in range(begin, end):
            scores.add(self, step)
            self.step(scores.x_spt, scores.y_spt)

    def state(self) -> State:
        """Where the walk stands, without a graph."""
        device = self.problem.theta.device
        fast = {name: weight.detach() for name, weight in self.fast.items()}
        optimizer = self._optimizer_with(Tensor.detach)
        return State(fast, optimizer, self._done, self.buffers(), get_randomness(device))

    def go_back_to(self, state: State) -> list[Tensor]:
        """Stand there; return what :meth:`tensors` is then, leaves of a graph that begins there."""
        self.fast = {name: _leaf(weight) for name, weight in state.fast.items()}
        self.optimizer, self._done = state.optimizer, state.done
        self.optimizer = self._optimizer_with(_leaf)
        self.put_buffers(state.buffers)
        return self.tensors()

    def tensors(self) -> list[Tensor]:
        """The weights, and what the optimizer remembers."""
        found = list(self.fast.values())

        def find(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self._optimizer_with(find)
        return [tensor for tensor in found if tensor.is_floating_point()]

    def buffers(self) -> Mapping[str, Tensor | None]:
        """Copies of those that are the tasks' own."""
        return {}

    def put_buffers(self, buffers: Mapping[str, Tensor | None]) -> None:
        """Go on with copies of these, if the tasks have any."""
        return

    def _optimizer_with(self, function: Callable[[Tensor], Tensor]) -> InnerOptimizer:
        """The optimizer with other tensors in the place of those that it remembers; its rule stays."""
        rule = self.problem.theta.rule
        known = {id(rule): rule, **{id(value): value for value in rule.values()}}
        copied: InnerOptimizer = map_state(self.optimizer, function, known)
        return copied

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
        self.fast = self.optimizer.step(self.fast, losses, gradients)
        self._done += 1

    def _start_classifier(self, adapted: Mapping[str, Tensor], x_spt: Tensor, y_spt: Tensor) -> None:
        """Give the classifier the rows that it starts from; ``adapted`` is what all weights start from."""
        start, theta = self.problem.start, self.problem.theta
        if start is None:
            return
        if isinstance(start, PrototypeRows):
            through = self.for_tasks(start.looking_through(theta.adapted[start.classifier.weight]))
            embeddings = self.logits({**self.fast, **through}, self._shared(0), x_spt, 0)
            rows = start.rows(embeddings, y_spt)
            # Steps are taken from the same values, but as variables that the prototypes do not depend on.
            self.fast = self.for_tasks(adapted)
        else:
            rows = self.for_tasks(start.rows(theta.adapted, theta.row))
        # Steps take gradients of them, also where they depend on nothing that is learned.
        self.fast.update({name: row if row.requires_grad else _leaf(row) for name, row in rows.items()})

    def _once(self, what: str) -> str | None:
        """The name of targets that were not checked yet: they are the same at every step."""
        if what in self._checked:
            return None
        self._checked.add(what)
        return what

    def _shared(self, step: int) -> dict[str, Tensor]:
        return {**self._constant, **at_step(self._of_steps, step)}


class AllTasks(Walk):
    """All tasks together: one call of each operation. Every tensor has a leading dimension T."""

    def __init__(self, problem: InnerProblem, x_spt: Tensor, y_spt: Tensor) -> None:
        super().__init__(problem)
        theta, forward = problem.theta, problem.forward
        self._n_tasks = len(x_spt)
        self.optimizer = problem.optimizer(theta.rule)
        programs = problem.programs
        assert not isinstance(programs, str)
        self._programs = {program.input.shape: program for program in programs}
        self._constant = forward.with_buffers(forward.in_kernel_order(self._constant, programs), programs)
        adapted = forward.in_kernel_order(theta.adapted, programs)
        self.fast = self.for_tasks(adapted)
        self._start_classifier(adapted, x_spt, y_spt)

    def for_tasks(self, shared: Mapping[str, Tensor]) -> FastWeights:
        """What the tasks have in common, as each one's own: views with task stride 0, no copies."""
        return {name: ops.over_tasks(value, self._n_tasks) for name, value in shared.items()}

    def logits(self, fast: FastWeights, shared: Mapping[str, Tensor], x: Tensor, step: int) -> Tensor:
        """Those of images x, by a step's own values."""
        block = None if self.problem.blocks is None else self.problem.blocks(step)
        return self._programs[x.shape[1:]](fast, shared, x, run_block=block)

    def losses(self, logits: Tensor, targets: Tensor, what: str | None) -> Tensor:
        """Of the tasks; ``what`` names the targets that are to be checked."""
        return losses_of_tasks(self.problem.loss_fn, logits, targets, what)

    def count(self, logits: Tensor, targets: Tensor) -> Counts | None:
        """Predictions of the tasks, and right ones, where something judges them."""
        return count_of_tasks(self.problem.judge, logits, targets)


class OneTask(Walk):
    """One task alone, by the module as it is written. No tensor has a dimension for tasks."""

    def __init__(self, problem: InnerProblem, x_spt: Tensor, y_spt: Tensor) -> None:
        super().__init__(problem)
        self.optimizer = problem.optimizer(problem.theta.rule)
        if problem.optimizer not in INNER_OPTIMIZERS.values():  # which take each weight by itself
            self.optimizer = Alone(self.optimizer)
        assert problem.as_written is not None
        self._as_written = problem.as_written
        self._model = self._as_written.begin_task()
        self.fast = dict(problem.theta.adapted)
        self._start_classifier(problem.theta.adapted, x_spt, y_spt)

    def for_tasks(self, shared: Mapping[str, Tensor]) -> FastWeights:
        """What the tasks have in common: views of it."""
        return {name: value.view_as(value) for name, value in shared.items()}

    def buffers(self) -> Mapping[str, Tensor | None]:
        """Copies of the task's own."""
        return {name: None if each is None else each.clone() for name, each in self._model.args[0].items()}

    def put_buffers(self, buffers: Mapping[str, Tensor | None]) -> None:
        """Go on with copies of these."""
        self._model = self._as_written.begin_task(buffers)

    def logits(self, fast: FastWeights, shared: Mapping[str, Tensor], x: Tensor, step: int) -> Tensor:
        """Those of images x, by a step's own values."""
        return self._model({**shared, **fast}, x)

    def losses(self, logits: Tensor, targets: Tensor, what: str | None) -> Tensor:
        """Of the tasks; ``what`` names the targets that are to be checked."""
        return loss_of_task(self.problem.loss_fn, logits, targets, what)

    def count(self, logits: Tensor, targets: Tensor) -> Counts | None:
        """Predictions of the tasks, and right ones, where something judges them."""
        return count_of_task(self.problem.judge, logits, targets)


class Alone:
    """An optimizer of tasks, for one of them."""

    def __init__(self, optimizer: InnerOptimizer) -> None:
        self._optimizer = optimizer

    def step(self, fast: FastWeights, losses: Tensor, gradients: Gradients) -> FastWeights:
        fast, gradients = ({name: tensor[None] for name, tensor in each.items()} for each in (fast, gradients))
        after = self._optimizer.step(fast, losses[None], gradients)
        return {name: weight.squeeze(0) for name, weight in after.items()}


class Scores:
    """What the queries of a walk's tasks say on the way."""

    def __init__(self, problem: InnerProblem, episodes: Sequence[Tensor], scored: Collection[int]) -> None:
        self.x_spt, self.y_spt, self._x_qry, self._y_qry = episodes
        self._weights, self._last, self._scored = problem.weights_of_steps(), problem.steps, scored
        self.losses: list[Tensor] = []  # one for each scored step, [t] or []
        self.counts: list[Counts | None] = []
        self._objective: list[Tensor] = []

    def add(self, walk: Walk, step: int) -> None:
        """Score the queries before a step, if that is asked for."""
        weight = self._weights.get(step, 0.0)
        if not weight and step not in self._scored:
            return
        with torch.set_grad_enabled(weight != 0 and torch.is_grad_enabled()):
            logits, loss = walk.queries(self._x_qry, self._y_qry)
        if step in self._scored:
            self.losses.append(loss if step == self._last else loss.detach())
            self.counts.append(walk.count(logits, self._y_qry))
        if weight:
            self._objective.append(loss if weight == 1 else weight * loss)

    @property
    def objective(self) -> Tensor | None:
        """[t] or [], as far as there is one yet."""
        if len(self._objective) < 2:
            return self._objective[0] if self._objective else None
        return torch.stack(self._objective).sum(dim=0)

    def detached(self) -> Scores:
        """The same without a graph."""
        self.losses = [loss.detach() for loss in self.losses]
        self._objective = [loss.detach() for loss in self._objective]
        return self

    def follow(self, first: Scores) -> None:
        """Put what was scored before in front."""
        self.losses = [*first.losses, *self.losses]
        self.counts = [*first.counts, *self.counts]
        self._objective = [*first._objective, *self._objective]


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
            total = losses.sum() if losses.dim() else losses
            gradients = torch.autograd.grad(total, tuple(at.values()), create_graph=second_order, allow_unused=True)
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


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor


def of_steps(theta: Theta) -> dict[str, PerStep]:
    """Shared parameters that every step has of its own."""
    return {name: value for name, value in theta.shared.items() if isinstance(value, PerStep)}
