"""Inner loops in PyTorch operations, step by step, for all tasks at once or for one task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from maml_fast import ops
from maml_fast.inner_loop._cross_entropy import class_losses, has_class_losses
from maml_fast.inner_loop._flat_weights import FLAT, FlatWeights
from maml_fast.inner_loop._heads import PrototypeRows
from maml_fast.inner_loop._losses import check_labels, loss_of_task, losses_of_tasks
from maml_fast.inner_loop._metric import Counts, count_of_task, count_of_tasks
from maml_fast.inner_loop._optimizers import INNER_OPTIMIZERS, InnerOptimizer
from maml_fast.inner_loop._problem import InnerProblem, Theta, step_of_queries
from maml_fast.inner_loop._state import State, get_randomness, map_state
from maml_fast.inner_loop._values import FastWeights, Gradients, PerStep, values_at_step

__all__ = ["AllTasks", "OneTask", "QueryScores", "Walk", "per_step_parameters", "task_gradients"]

Made = TypeVar("Made")


class Walk(ABC):
    """An inner loop in progress; its state can be saved and restored between steps.

    Attributes:
        fast: the current fast weights.
        optimizer: the inner optimizer.
    """

    fast: FastWeights
    optimizer: InnerOptimizer

    def __init__(self, problem: InnerProblem) -> None:
        self.problem = problem
        self._per_step = per_step_parameters(problem.theta)
        self._constant = {name: value for name, value in problem.theta.shared.items() if not isinstance(value, PerStep)}
        self._done = 0
        self._rows: FastWeights = {}  # the classifier's, if they do not start from theta
        self._checked: set[str] = set()

    @abstractmethod
    def logits(self, fast: FastWeights, shared: Mapping[str, Tensor], x: Tensor, step: int) -> Tensor:
        """Return the logits of images ``x`` at inner step ``step``."""

    @abstractmethod
    def losses(self, logits: Tensor, targets: Tensor, what: str | None) -> Tensor:
        """Return the tasks' losses; targets are checked if ``what`` is their name, and not if it is ``None``."""

    @abstractmethod
    def count(self, logits: Tensor, targets: Tensor) -> Counts | None:
        """Count predictions and correct ones; ``None`` if there is no metric."""

    @abstractmethod
    def expand_to_tasks(self, shared: Mapping[str, Tensor]) -> FastWeights:
        """Return shared values as fast weights of every task."""

    def take_steps(self, begin: int, end: int, scores: QueryScores) -> None:
        """Take steps [begin, end), and score the queries before each step that is to be scored."""
        for step in range(begin, end):
            scores.add(self, step)
            self.step(scores.x_spt, scores.y_spt)

    def state(self) -> State:
        """Return the current state, without a graph."""
        device = self.problem.theta.device
        fast = {name: weight.detach() for name, weight in self.fast.items()}
        optimizer = self._optimizer_with(Tensor.detach)
        return State(fast, optimizer, self._done, self.buffers(), get_randomness(device))

    def restore(self, state: State) -> list[Tensor]:
        """Restore a state; return its :meth:`tensors`, which are leaves of the graph that begins here."""
        self.fast = {name: _leaf(weight) for name, weight in state.fast.items()}
        self.optimizer, self._done = state.optimizer, state.done
        self.optimizer = self._optimizer_with(_leaf)
        self.set_buffers(state.buffers)
        return self.tensors()

    def tensors(self) -> list[Tensor]:
        """Return the fast weights and the floating-point tensors of the optimizer's state."""
        found = list(self.fast.values())

        def find(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self._optimizer_with(find)
        return [tensor for tensor in found if tensor.is_floating_point()]

    def buffers(self) -> Mapping[str, Tensor | None]:
        """Return copies of the buffers that belong to the tasks."""
        return {}

    def set_buffers(self, buffers: Mapping[str, Tensor | None]) -> None:
        """Continue with copies of these buffers, if buffers belong to the tasks."""
        return

    def weights(self) -> FastWeights:
        """Return the current weights by the names of the parameters."""
        return self.fast

    def _optimizer_with(self, function: Callable[[Tensor], Tensor]) -> InnerOptimizer:
        """Return a copy of the optimizer with ``function`` applied to the tensors of its state, but not to its rule."""
        rule = self.problem.theta.rule
        known = {id(rule): rule, **{id(value): value for value in rule.values()}}
        copied: InnerOptimizer = map_state(self.optimizer, function, known)
        return copied

    def queries(self, x_qry: Tensor, y_qry: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries' logits and losses at the current weights."""
        step = step_of_queries(self._done)
        logits = self.logits(self.fast, self._shared(step), x_qry, step)
        return logits, self.losses(logits, y_qry, self._name_if_unchecked("y_qry"))

    def step(self, x_spt: Tensor, y_spt: Tensor) -> None:
        """Take one inner step on the support set."""
        second_order = self.problem.order == 2 and torch.is_grad_enabled()
        shared = self._shared(self._done)
        if not second_order:
            shared = {name: tensor.detach() for name, tensor in shared.items()}

        def task_losses(at: FastWeights) -> Tensor:
            return self.losses(self.logits(at, shared, x_spt, self._done), y_spt, self._name_if_unchecked("y_spt"))

        losses, gradients = task_gradients(task_losses, self.fast, second_order, self.problem.theta.adapted)
        self.fast = self.optimizer.step(self.fast, losses, gradients)
        self._done += 1

    def _start_classifier(self, adapted: Mapping[str, Tensor], x_spt: Tensor, y_spt: Tensor) -> None:
        """Set the classifier's initial rows; ``adapted`` holds the initial values of all adapted parameters."""
        start, theta = self.problem.start, self.problem.theta
        if start is None:
            return
        if isinstance(start, PrototypeRows):
            through = self.expand_to_tasks(start.identity_parameters(theta.adapted[start.classifier.weight]))
            embeddings = self.logits({**self.fast, **through}, self._shared(0), x_spt, 0)
            rows = start.rows(embeddings, y_spt)
            # The inner loop starts from the same values, but as tensors that the prototypes do not depend on.
            self.fast = self.expand_to_tasks(adapted)
        else:
            rows = self.expand_to_tasks(start.rows(theta.adapted, theta.row))
        # Inner steps need gradients with respect to the rows, even if these depend on nothing that is learned.
        self._rows = {name: row if row.requires_grad else _leaf(row) for name, row in rows.items()}
        self.fast.update(self._rows)

    def _name_if_unchecked(self, what: str) -> str | None:
        """Return the name at its first use, then ``None``: targets are the same at every step and are checked once."""
        if what in self._checked:
            return None
        self._checked.add(what)
        return what

    def _shared(self, step: int) -> dict[str, Tensor]:
        return {**self._constant, **values_at_step(self._per_step, step)}


class AllTasks(Walk):
    """All tasks at once: every operation is called once, and every tensor has a leading dimension T."""

    def __init__(self, problem: InnerProblem, x_spt: Tensor, y_spt: Tensor) -> None:
        super().__init__(problem)
        theta, forward = problem.theta, problem.forward
        self._n_tasks = len(x_spt)
        self._flat: FlatWeights | None = None
        self._images = OncePerTensor(ops.RepeatedImages)
        self.optimizer = problem.optimizer(theta.rule)
        programs = problem.programs
        assert not isinstance(programs, str)
        self._programs = {program.input.shape: program for program in programs}
        self._constant = forward.with_buffers(forward.in_kernel_order(self._constant, programs), programs)
        adapted = forward.in_kernel_order(theta.adapted, programs)
        self.fast = self.expand_to_tasks(adapted)
        self._start_classifier(adapted, x_spt, y_spt)
        self._flat = _flat_layout(problem, {**adapted, **{name: row[0] for name, row in self._rows.items()}})
        if self._flat is not None:
            self.fast = self._flat.pack(self.fast) if self._rows else self._flat.pack_shared(adapted, self._n_tasks)
            self.optimizer = problem.optimizer(self._flat.rule(theta.rule, problem.steps))

    def expand_to_tasks(self, shared: Mapping[str, Tensor]) -> FastWeights:
        """Return views with task stride 0; nothing is copied."""
        return {name: ops.over_tasks(value, self._n_tasks) for name, value in shared.items()}

    def weights(self) -> FastWeights:
        return self._unpacked(self.fast)

    def logits(self, fast: FastWeights, shared: Mapping[str, Tensor], x: Tensor, step: int) -> Tensor:
        block = None if self.problem.blocks is None else self.problem.blocks(step)
        with self._images.of(x).used():
            return self._programs[x.shape[1:]](self._unpacked(fast), shared, x, run_block=block)

    def losses(self, logits: Tensor, targets: Tensor, what: str | None) -> Tensor:
        if self.problem.loss_fn is F.cross_entropy and has_class_losses(logits, targets):
            if what is not None:
                check_labels(logits, targets, what)
            return class_losses(logits, targets)
        return losses_of_tasks(self.problem.loss_fn, logits, targets, what)

    def count(self, logits: Tensor, targets: Tensor) -> Counts | None:
        return count_of_tasks(self.problem.metric, logits, targets)

    def _unpacked(self, fast: FastWeights) -> FastWeights:
        return fast if self._flat is None or FLAT not in fast else self._flat.unpack(fast)


class OncePerTensor(Generic[Made]):
    """Calls a function of a tensor once for each tensor, and keeps both."""

    def __init__(self, function: Callable[[Tensor], Made]) -> None:
        self._function = function
        self._made: list[tuple[Tensor, Made]] = []

    def of(self, tensor: Tensor) -> Made:
        """Return ``function(tensor)``."""
        for known, made in self._made:
            if known is tensor:
                return made
        self._made.append((tensor, self._function(tensor)))
        return self._made[-1][1]


def _saves_launches(problem: InnerProblem) -> bool:
    """Return whether few large operations are worth more than their copies. On a CPU these cost 10 to 30 %."""
    return problem.theta.device.type != "cpu"


def _flat_layout(problem: InnerProblem, weights: Mapping[str, Tensor]) -> FlatWeights | None:
    """Return the layout of all weights in one tensor, or ``None`` if they are updated one by one.

    The optimizer must be elementwise. Steps that are computed again in the backward pass find rates that are learned in
    theta, not in a tensor made of them.
    """
    dtypes = {weight.dtype for weight in weights.values()}
    is_elementwise = problem.optimizer in INNER_OPTIMIZERS.values()
    if not (_saves_launches(problem) and is_elementwise) or problem.has_segments or len(dtypes) > 1:
        return None
    return FlatWeights(weights)


class OneTask(Walk):
    """One task, with the module as it is written; tensors have no task dimension."""

    def __init__(self, problem: InnerProblem, x_spt: Tensor, y_spt: Tensor) -> None:
        super().__init__(problem)
        self.optimizer = problem.optimizer(problem.theta.rule)
        if problem.optimizer not in INNER_OPTIMIZERS.values():  # these are elementwise and need no task dimension
            self.optimizer = SingleTaskOptimizer(self.optimizer)
        assert problem.as_written is not None
        self._as_written = problem.as_written
        self._model = self._as_written.begin_task()
        self.fast = dict(problem.theta.adapted)
        self._start_classifier(problem.theta.adapted, x_spt, y_spt)

    def expand_to_tasks(self, shared: Mapping[str, Tensor]) -> FastWeights:
        return {name: value.view_as(value) for name, value in shared.items()}

    def buffers(self) -> Mapping[str, Tensor | None]:
        return {name: None if each is None else each.clone() for name, each in self._model.args[0].items()}

    def set_buffers(self, buffers: Mapping[str, Tensor | None]) -> None:
        self._model = self._as_written.begin_task(buffers)

    def logits(self, fast: FastWeights, shared: Mapping[str, Tensor], x: Tensor, step: int) -> Tensor:
        return self._model({**shared, **fast}, x)

    def losses(self, logits: Tensor, targets: Tensor, what: str | None) -> Tensor:
        return loss_of_task(self.problem.loss_fn, logits, targets, what)

    def count(self, logits: Tensor, targets: Tensor) -> Counts | None:
        return count_of_task(self.problem.metric, logits, targets)


class SingleTaskOptimizer:
    """Adapts an inner optimizer, which expects a task dimension, to a single task."""

    def __init__(self, optimizer: InnerOptimizer) -> None:
        self._optimizer = optimizer

    def step(self, fast: FastWeights, losses: Tensor, gradients: Gradients) -> FastWeights:
        fast, gradients = ({name: tensor[None] for name, tensor in each.items()} for each in (fast, gradients))
        after = self._optimizer.step(fast, losses[None], gradients)
        return {name: weight.squeeze(0) for name, weight in after.items()}


class QueryScores:
    """Query results of a walk's tasks, and their objective, collected step by step."""

    def __init__(self, problem: InnerProblem, episodes: Sequence[Tensor], scored: Collection[int]) -> None:
        self.x_spt, self.y_spt, self._x_qry, self._y_qry = episodes
        self._weights, self._last, self._scored = problem.objective_weights(), problem.steps, scored
        self.losses: list[Tensor] = []  # one for each scored step, [t] or []
        self.counts: list[Counts | None] = []
        self._objective: list[Tensor] = []

    def add(self, walk: Walk, step: int) -> None:
        """Score the queries before ``step``, if this step is recorded or part of the objective."""
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
        """The objective so far, [t] or []; ``None`` if no step has contributed to it yet."""
        if len(self._objective) < 2:
            return self._objective[0] if self._objective else None
        return torch.stack(self._objective).sum(dim=0)

    def detached(self) -> QueryScores:
        """Drop the graph, in place; return ``self``."""
        self.losses = [loss.detach() for loss in self.losses]
        self._objective = [loss.detach() for loss in self._objective]
        return self

    def prepend(self, earlier: QueryScores) -> None:
        """Insert the results of earlier steps before these."""
        self.losses = [*earlier.losses, *self.losses]
        self.counts = [*earlier.counts, *self.counts]
        self._objective = [*earlier._objective, *self._objective]


def task_gradients(
    task_losses: Callable[[FastWeights], Tensor],
    fast: FastWeights,
    second_order: bool,
    names: Iterable[str] | None = None,
) -> tuple[Tensor, Gradients]:
    """Return every task's loss [T], and its gradients by name, without weights that no loss depends on.

    Tasks are independent, so the gradient of the sum of their losses contains every task's own gradient. At first
    order, losses and gradients are constants to the meta-gradient.

    Args:
        task_losses: returns the tasks' losses [T] for given weights.
        fast: the weights.
        second_order: whether losses and gradients keep their graph.
        names: names of the parameters, for errors; by default those of the weights.

    Raises:
        RuntimeError: no loss depends on any weight.
    """
    # Under torch.func no leaves can be made: the gradient is taken through the graph and detached afterwards.
    transformed = torch._C._are_functorch_transforms_active()
    with torch.enable_grad():  # even if the caller has disabled gradients
        at = fast
        if not (second_order or transformed):
            at = {name: weight.detach().requires_grad_() for name, weight in fast.items()}
        losses = task_losses(at)
        gradients: tuple[Tensor | None, ...] = (None,) * len(at)
        if losses.requires_grad or transformed:
            gradients = torch.autograd.grad(
                losses, tuple(at.values()), torch.ones_like(losses), create_graph=second_order, allow_unused=True
            )
    if not second_order:
        losses = losses.detach()
        gradients = tuple(None if gradient is None else gradient.detach() for gradient in gradients)
        for name, weight in () if transformed else at.items():
            if weight.data_ptr() != fast[name].data_ptr():  # forward has assigned another value through .data
                fast[name] = fast[name] + (weight - fast[name]).detach()
    known = {name: gradient for name, gradient in zip(fast, gradients, strict=True) if gradient is not None}
    if not known:
        raise RuntimeError(f"the support loss does not depend on any adapted parameter: {', '.join(names or fast)}")
    return losses, known


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor


def per_step_parameters(theta: Theta) -> dict[str, PerStep]:
    """Return the shared parameters that have their own values at every step."""
    return {name: value for name, value in theta.shared.items() if isinstance(value, PerStep)}
