"""Model-agnostic meta-learning (Finn, Abbeel & Levine 2017) for any module, with all tasks of a batch at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maml_fast.data.episodes import Episodes, check_episodes
from maml_fast.fusion import FusedModel, FusionReport
from maml_fast.fusion.report import BatchNormPolicy
from maml_fast.maml.checks import (
    check_arguments,
    check_fast_weights,
    check_like_model,
    check_steps,
    check_support,
)
from maml_fast.maml.classification import check_labels, count_correct
from maml_fast.maml.inner_loop import FastWeights, outside_inference_mode, sgd_step, usable_by_autograd
from maml_fast.maml.inner_rates import InnerRates, Rate, check_broadcasts, check_rate, learnable_rate
from maml_fast.maml.selection import Adapt, select_parameters
from maml_fast.maml.task_forward import BATCH_NORM_POLICIES, TaskForward
from maml_fast.maml.task_map import TaskMap

__all__ = ["MAML", "MAMLOutput", "TaskResults"]

logger = logging.getLogger("maml_fast")

LossFunction = Callable[[Tensor, Tensor], Tensor]


class MAMLOutput(NamedTuple):
    """What one meta-batch gives.

    loss: mean query loss of the tasks after the last inner step, a differentiable scalar.
    query_accuracy: share of right query predictions after the last step, or ``None`` where targets are not classes.
    query_losses, query_accuracies: [inner_steps+1], after every step from step 0 on, or ``None`` unless asked for;
    they are records and carry no graph.
    """

    loss: Tensor
    query_accuracy: Tensor | None
    query_losses: Tensor | None = None
    query_accuracies: Tensor | None = None


class TaskResults(NamedTuple):
    """Query results of every task after the S recorded steps: the last one, or all inner_steps + 1 from step 0 on.

    losses: [S, T]; the last row carries the graph.
    correct: [S, T] int64, right predictions out of ``predictions`` a task; ``None`` where targets are not classes.
    """

    losses: Tensor
    correct: Tensor | None
    predictions: int


class MAML(nn.Module):
    """MAML over any ``model``: adapts its parameters to every task of a batch and differentiates through that.

    ``maml(episodes).loss`` is the meta-objective: the mean over tasks of the query loss at the weights that
    ``inner_steps`` steps of ``w - inner_lr * d(support loss)/dw`` from theta lead to (Finn et al. 2017, eq. 1).

    Args:
        model: any module from images [N, ...] to logits [N, ...]; shared, not copied.
        inner_lr: a number; a tensor; or a mapping from parameter names, prefixes or globs to these. Finn's code divides
            the summed inner loss by the shots, not the images: his 0.4 is ``n_way * 0.4`` under mean cross-entropy.
        inner_steps: gradient steps on the support set.
        order: 2 differentiates through the inner gradients, 1 takes them as constants (FOMAML).
        loss_fn: ``loss_fn(logits [N, ...], targets [N, ...]) -> scalar`` of one task, for the inner and the outer loss.
        adapt: which parameters adapt: ``None`` all, ``"head"`` the last module with parameters (ANIL), a list of names,
            prefixes and globs, or a function ``name -> bool``. The others are shared by the tasks and meta-learned.
        learn_inner_lr: meta-learn ``inner_lr`` too: one ``nn.Parameter``, or one per key of the mapping.
        batch_norm: ``"batch"`` normalises by the batch's own statistics (transductive) whatever ``train()`` and
            ``eval()`` say; ``"running"`` by the model's stored running statistics. Neither updates them.
        fused: run conv-BN-ReLU-pool on the fused op wherever the model holds it; ``maml.fusion`` tells where.

    ``inner_steps``, ``order`` and a fixed ``inner_lr`` are attributes that may be changed at any time.

    Raises:
        TypeError, ValueError: for an argument out of its range, names that match no parameter, or nothing to adapt.
    """

    inner_lr: Rate | InnerRates
    model: nn.Module

    def __init__(
        self,
        model: nn.Module,
        inner_lr: Rate | Mapping[str, Rate] = 0.4,
        inner_steps: int = 1,
        order: int = 2,
        *,
        loss_fn: LossFunction = F.cross_entropy,
        adapt: Adapt = None,
        learn_inner_lr: bool = False,
        batch_norm: BatchNormPolicy = "batch",
        fused: bool = True,
    ) -> None:
        super().__init__()
        check_arguments(model, order, loss_fn, batch_norm)
        self.model = model
        self.inner_steps = check_steps(inner_steps)
        self.order = order
        self.loss_fn = loss_fn
        self._names = [name for name, _ in model.named_parameters()]
        self._chosen = select_parameters(model, adapt)
        self._set_inner_lr(inner_lr, learn_inner_lr)
        self._batch_norm = batch_norm
        self._forward_tasks = TaskForward(model, batch_norm, fused)
        self._loss_of_tasks = TaskMap("loss_fn")
        unfused = self.fusion is not None and self.fusion.left
        logger.log(logging.WARNING if unfused else logging.INFO, "%s", self.describe())

    def forward(self, episodes: Episodes, per_step: bool = False, inner_steps: int | None = None) -> MAMLOutput:
        """Adapt to every task of ``episodes`` and score its query set; ``per_step`` records every step from 0 on.

        Args:
            episodes: x_spt [T, N, ...], y_spt [T, N, ...], x_qry [T, M, ...], y_qry [T, M, ...].
            per_step: record the query losses and accuracies after every step, without their graphs.
            inner_steps: in place of those given at construction.

        Raises:
            TypeError, ValueError: for bad episodes, as :func:`maml_fast.data.episodes.check_episodes` says it, or such
                as are not on the model's device or not in its precision.
            RuntimeError: if the support loss does not depend on any adapted parameter.
        """
        results = self.task_results(episodes, per_step=per_step, inner_steps=inner_steps)
        loss = results.losses[-1].mean()
        losses = results.losses.detach().mean(dim=1) if per_step else None
        if results.correct is None:
            return MAMLOutput(loss, None, losses, None)
        n_tasks = results.losses.shape[1]
        accuracies = results.correct.sum(dim=1) / (n_tasks * results.predictions)
        return MAMLOutput(loss, accuracies[-1], losses, accuracies if per_step else None)

    def adapt(self, x_spt: Tensor, y_spt: Tensor, inner_steps: int | None = None) -> FastWeights:
        """Every task's adapted parameters ``{name: [T, ...]}`` from support images [T, N, ...] and targets [T, N, ...].

        They are differentiable; where gradients are switched off it still adapts, and returns plain tensors.
        """
        steps = self._steps(inner_steps)
        check_support(x_spt, y_spt)
        check_like_model("x_spt", x_spt, self.model)
        with outside_inference_mode():
            x_spt, y_spt = usable_by_autograd(x_spt), usable_by_autograd(y_spt)
            shared, fast = self._shared(), self._start(x_spt.shape[0])
            for _ in range(steps):
                fast = self._step(fast, shared, x_spt, y_spt)
        return fast

    def predict(self, fast: Mapping[str, Tensor], x_qry: Tensor) -> Tensor:
        """Logits [T, N, n_way] of images [T, N, ...] under ``fast``; what it does not hold is taken from the model."""
        check_like_model("x_qry", x_qry, self.model)
        check_fast_weights(fast, x_qry, self.model)
        return self._forward_tasks(fast, self._shared(without=fast), x_qry)

    def task_results(
        self, episodes: Episodes, *, per_step: bool = False, inner_steps: int | None = None
    ) -> TaskResults:
        """The query results of every single task, of which :meth:`forward` gives the means."""
        steps = self._steps(inner_steps)
        episodes = self._checked(episodes)
        losses, correct = [], []
        with outside_inference_mode():
            x_spt, y_spt, x_qry, y_qry = (usable_by_autograd(tensor) for tensor in episodes)
            shared, fast = self._shared(), self._start(x_spt.shape[0])
            for step in range(steps + 1):
                last = step == steps
                if per_step or last:
                    with torch.set_grad_enabled(last and torch.is_grad_enabled()):
                        logits = self._forward_tasks(fast, shared, x_qry)
                        losses.append(self._losses(logits, y_qry, "y_qry"))
                    correct.append(count_correct(logits, y_qry))
                if not last:
                    fast = self._step(fast, shared, x_spt, y_spt)
        return TaskResults(torch.stack(losses), _stacked(correct), y_qry[0].numel())

    @property
    def adapted(self) -> tuple[str, ...]:
        """Names of the parameters that adapt: those chosen by ``adapt`` that are not frozen."""
        return tuple(self._adapted_parameters())

    @property
    def batch_norm(self) -> str:
        """The batch-norm policy in words, to be printed beside every accuracy."""
        return BATCH_NORM_POLICIES[self._batch_norm]

    @property
    def fusion(self) -> FusionReport | None:
        """What of the model runs on the fused op, and what does not and why; ``None`` with ``fused=False``."""
        module = self._forward_tasks.module
        return module.report if isinstance(module, FusedModel) else None

    def describe(self) -> str:
        """What runs and how, in a few lines.

        They are also logged once, by the logger ``maml_fast``: as WARNING, which Python shows unless told otherwise,
        where something did not fuse, else as INFO.
        """
        lines = [
            f"MAML of {type(self.model).__name__}: order {self.order}, {self.inner_steps} inner steps",
            f"adapted: {len(self.adapted)} of {len(dict(self.model.named_parameters()))} parameters",
            f"batch norm: {self.batch_norm}",
        ]
        if self.fusion is None:
            return "\n".join([*lines, "fused: switched off"])
        return "\n".join([*lines, *str(self.fusion).splitlines()[1:]])  # its first line is the batch norm again

    def extra_repr(self) -> str:
        """The settings; PyTorch adds the model."""
        rate = "" if isinstance(self.inner_lr, InnerRates) else f"inner_lr={_plain(self.inner_lr)}, "
        return f"{rate}inner_steps={self.inner_steps}, order={self.order}, batch_norm={self.batch_norm}"

    def _set_inner_lr(self, inner_lr: Rate | Mapping[str, Rate], learnable: bool) -> None:
        adapted = self._adapted_parameters()
        if isinstance(inner_lr, Mapping):
            self.inner_lr = InnerRates(inner_lr, adapted, learnable)
            return
        rate = check_rate(inner_lr)
        check_broadcasts(rate, adapted)
        if learnable:
            self.inner_lr = learnable_rate(rate, next(iter(adapted.values())))
        elif isinstance(rate, Tensor) and not isinstance(rate, nn.Parameter):
            self.register_buffer("inner_lr", rate)
        else:
            self.inner_lr = rate

    def _rate_of(self, name: str) -> Rate:
        return self.inner_lr.rate_of(name) if isinstance(self.inner_lr, InnerRates) else self.inner_lr

    def _checked(self, episodes: Episodes) -> Episodes:
        parts = tuple(episodes) if isinstance(episodes, (tuple, list)) else ()
        classification = self.loss_fn is F.cross_entropy
        if len(parts) == 4:
            check_like_model("x_spt", parts[0], self.model)
            classification &= getattr(parts[1], "ndim", 2) == 2  # not the labels of pixels
        return check_episodes(episodes, classification=classification)

    def _steps(self, inner_steps: int | None) -> int:
        return self.inner_steps if inner_steps is None else check_steps(inner_steps)

    def _adapted_parameters(self) -> dict[str, nn.Parameter]:
        parameters = dict(self.model.named_parameters())
        if list(parameters) != self._names:
            different = sorted(set(parameters).symmetric_difference(self._names)) or "their order"
            raise RuntimeError(f"the model's parameters have changed since MAML was made: {different}; make a new MAML")
        return {name: parameters[name] for name in self._chosen if parameters[name].requires_grad}

    def _start(self, n_tasks: int) -> FastWeights:
        """Every task at theta: views with task stride 0, no copies."""
        return {name: theta.expand(n_tasks, *theta.shape) for name, theta in self._adapted_parameters().items()}

    def _shared(self, without: Iterable[str] | None = None) -> dict[str, Tensor]:
        """What all tasks have in common: the parameters that do not adapt, and copies of the buffers."""
        excluded = set(self.adapted if without is None else without)
        shared: dict[str, Tensor] = {
            name: parameter for name, parameter in self.model.named_parameters() if name not in excluded
        }
        # A module may write to its buffers (batch norm counts its batches): into the copies, never into the model.
        shared.update((name, buffer.clone()) for name, buffer in self.model.named_buffers())
        return shared

    def _step(self, fast: FastWeights, shared: Mapping[str, Tensor], x_spt: Tensor, y_spt: Tensor) -> FastWeights:
        second_order = self.order == 2 and torch.is_grad_enabled()
        if not second_order:
            shared = {name: tensor.detach() for name, tensor in shared.items()}

        def task_losses(at: FastWeights) -> Tensor:
            return self._losses(self._forward_tasks(at, shared, x_spt), y_spt, "y_spt")

        return sgd_step(task_losses, fast, self._rate_of, second_order)

    def _losses(self, logits: Tensor, targets: Tensor, what: str) -> Tensor:
        """Every task's loss, [T]."""
        if self.loss_fn is F.cross_entropy:
            check_labels(logits, targets, what)
        return self._loss_of_tasks(self._loss_of_one_task, (logits, targets))

    def _loss_of_one_task(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss = self.loss_fn(logits, targets)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss_fn must return a scalar tensor for the logits of one task, got {got}")
        return loss


def _stacked(rows: list[Tensor | None]) -> Tensor | None:
    present = [row for row in rows if row is not None]
    return torch.stack(present) if len(present) == len(rows) else None


def _plain(rate: Rate) -> str:
    if not isinstance(rate, Tensor):
        return str(rate)
    return f"{'learnable ' if rate.requires_grad else ''}tensor {list(rate.shape)}"
