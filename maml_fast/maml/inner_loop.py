"""The inner loop of one call: from theta to every task's weights and their query results, all tasks at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maml_fast import ops
from maml_fast.data.episodes import Episodes
from maml_fast.maml.classification import count_correct
from maml_fast.maml.inner_rates import Rate
from maml_fast.maml.results import TaskResults
from maml_fast.maml.sgd import FastWeights, sgd_step
from maml_fast.maml.task_forward import TaskForward

__all__ = ["InnerLoop", "Theta"]


class Theta(NamedTuple):
    """What all tasks start from, by name: parameters that adapt, their rates, and other parameters."""

    adapted: Mapping[str, Tensor]
    rates: Mapping[str, Rate]
    shared: Mapping[str, Tensor]

    def map(self, function: Callable[[Tensor], Tensor]) -> Theta:
        """The same with other tensors in the place of these."""

        def mapped(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: function(v) if isinstance(v, Tensor) else v for name, v in values.items()}

        return Theta(*map(mapped, self))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.parameters().values())).device

    def parameters(self) -> dict[str, Tensor]:
        """All parameters, whether they adapt or not."""
        return {**self.shared, **self.adapted}

    def fast_weights(self, n_tasks: int) -> FastWeights:
        """Every task at theta: views with task stride 0, no copies."""
        return {name: ops.over_tasks(theta, n_tasks) for name, theta in self.adapted.items()}


@dataclass(frozen=True)
class InnerLoop:
    """``steps`` steps from ``theta``; ``losses(logits, targets, what) -> [T]``. Episodes must have been checked."""

    theta: Theta
    forward: TaskForward
    losses: Callable[[Tensor, Tensor, str], Tensor]
    steps: int
    order: int

    def adapt(self, x_spt: Tensor, y_spt: Tensor) -> FastWeights:
        """Every task's adapted parameters."""
        with _outside_inference_mode():
            x_spt, y_spt = _usable_by_autograd(x_spt), _usable_by_autograd(y_spt)
            fast, shared = self._start(len(x_spt))
            for _ in range(self.steps):
                fast = self._step(fast, shared, x_spt, y_spt)
        return fast

    def results(self, episodes: Episodes, scored: Collection[int]) -> TaskResults:
        """Every task's query results after the ``scored`` steps, the last among them."""
        losses, correct = [], []
        with _outside_inference_mode():
            x_spt, y_spt, x_qry, y_qry = (_usable_by_autograd(tensor) for tensor in episodes)
            fast, shared = self._start(len(x_spt))
            for step in range(self.steps + 1):
                last = step == self.steps
                if step in scored:
                    with torch.set_grad_enabled(last and torch.is_grad_enabled()):
                        logits = self.forward(fast, shared, x_qry)
                        losses.append(self.losses(logits, y_qry, "y_qry"))
                    correct.append(count_correct(logits, y_qry))
                if not last:
                    fast = self._step(fast, shared, x_spt, y_spt)
        return TaskResults(torch.stack(losses), _stacked(correct), y_qry[0].numel())

    def _start(self, n_tasks: int) -> tuple[FastWeights, dict[str, Tensor]]:
        adapted, shared = (self.forward.in_kernel_order(each) for each in (self.theta.adapted, self.theta.shared))
        theta = self.theta._replace(adapted=adapted)
        return theta.fast_weights(n_tasks), self.forward.in_common(shared)

    def _step(self, fast: FastWeights, shared: Mapping[str, Tensor], x_spt: Tensor, y_spt: Tensor) -> FastWeights:
        second_order = self.order == 2 and torch.is_grad_enabled()
        if not second_order:
            shared = {name: tensor.detach() for name, tensor in shared.items()}

        def task_losses(at: FastWeights) -> Tensor:
            return self.losses(self.forward(at, shared, x_spt), y_spt, "y_spt")

        return sgd_step(task_losses, fast, self.theta.rates, second_order)


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
