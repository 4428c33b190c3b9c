"""Model-agnostic meta-learning (Finn, Abbeel & Levine 2017) for any module, with all tasks of a batch at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maml_fast.data.episodes import Episodes, check_episodes
from maml_fast.maml.annealing import Annealing
from maml_fast.maml.checks import (
    check_fast_weights,
    check_like_model,
    check_steps,
    check_support,
    scored_steps,
    steps_asked,
)
from maml_fast.maml.cuda_graph import WARM_UP
from maml_fast.maml.graphed_loss import GraphedLoss
from maml_fast.maml.inner_loop import InnerLoop, step_of_queries
from maml_fast.maml.inner_optimisers import INNER_OPTIMISERS, InnerOptimiser, LearnedRule, Rule
from maml_fast.maml.inner_rates import InnerRates, LearnInnerLR, Rate, check_learn_inner_lr, make_inner_lr, of_steps
from maml_fast.maml.meta_learner import MetaLearner
from maml_fast.maml.native_loop import NativeLoop, native_loop
from maml_fast.maml.per_step import MaybePerStep
from maml_fast.maml.results import TaskResults
from maml_fast.maml.selection import Adapt, select_parameters
from maml_fast.maml.step_norms import StepNorms
from maml_fast.maml.step_statistics import Collector, StepStatistics
from maml_fast.maml.task_chunks import TaskChunk, TaskChunks, check_task_chunk, tasks_at_once, tasks_in_memory
from maml_fast.maml.task_gradients import FastWeights
from maml_fast.maml.task_loss import LossFunction
from maml_fast.maml.theta import Theta
from maml_fast.program import BATCH_NORM_POLICIES, InnerBatchNorm, RunBlock, is_per_step

__all__ = ["MAML"]

logger = logging.getLogger("maml_fast")


class MAML(MetaLearner):
    """MAML over any ``model``: adapts its parameters to every task of a batch and differentiates through that.

    ``maml(episodes).loss`` is the meta-objective: the mean over tasks of the query loss at the weights that
    ``inner_steps`` steps of ``w - inner_lr * d(support loss)/dw`` from theta lead to (Finn et al. 2017, eq. 1).

    Args:
        model: any module from images [N, ...] to logits [N, ...]; shared, not copied.
        inner_lr: a number; a tensor; a mapping from parameter names, prefixes or globs to these; or a function from an
            adapted parameter to its own. Finn's code divides the summed inner loss by the shots, not the images: his
            0.4 is ``n_way * 0.4`` under mean cross-entropy.
        inner_steps: gradient steps on the support set.
        order: 2 differentiates through the inner gradients, 1 takes them as constants (FOMAML).
        loss_fn: ``loss_fn(logits [N, ...], targets [N, ...]) -> scalar`` of one task, for the inner and the outer loss.
        adapt: which parameters adapt: ``None`` all, ``"head"`` the last module with parameters (ANIL), ``"body"`` all
            others (BOIL), a list of names, prefixes and globs, or a function ``name -> bool``. What does not adapt is
            shared by the tasks and meta-learned.
        learn_inner_lr: meta-learn ``inner_lr`` too: one ``nn.Parameter``, or one per key or call of the function; with
            ``"per_step"`` each of them holds a rate for every one of the ``inner_steps`` (Antoniou et al. 2019), the
            last of which serves later steps too.
        batch_norm: ``"batch"`` normalises by the batch's own statistics (transductive) whatever ``train()`` and
            ``eval()`` say; ``"running"`` by the model's stored running statistics. Neither updates them.
            ``"per_step"`` is ``"batch"`` with a scale and a shift for every one of the ``inner_steps``, meta-learned
            and shared by the tasks: the model's own, where they start, are left as they are. ``"per_step_running"``
            also keeps running statistics for every step, moved by each call in ``train()`` mode and normalised by in
            ``eval()`` mode; :meth:`predict` then takes the last step's.
        inner_optimiser: ``"sgd"``; ``"adam"`` from fresh memory for every task; or a
            :class:`maml_fast.maml.inner_optimisers.LearnedRule`, whose parameters are meta-learned too, and which goes
            with ``inner_lr=None``.
        first_order_iterations, multi_step_iterations: how order and loss are annealed early in meta-training, as
            :class:`maml_fast.maml.annealing.Annealing` says, for those who call :meth:`begin_iteration`.
        fused: run conv-BN-ReLU-pool on the fused op wherever the model holds it; ``maml.fusion`` tells where.
        task_chunk: how many tasks are held in memory at once. More go through chunk by chunk, each chunk's gradient
            taken and its graph freed before the next; the sum is the gradient of all at once, up to rounding, but
            can't be differentiated again, and dropout draws other numbers. ``"auto"`` is a few for every thread of
            PyTorch on the CPU and all on a GPU, ``None`` all tasks. :meth:`adapt` is never chunked, nor is
            :meth:`task_results` with gradients: the graph is what they give; nor is anything under the transforms of
            ``torch.func``.
        cuda_graph: on a GPU, replay ``maml(episodes)`` and its meta-gradient as one CUDA graph, captured at the fourth
            of several like calls: inner loops, query loss and backward pass then take a few launches. The gradient
            comes with the loss, so that it can't be differentiated again. Python in ``model`` and ``loss_fn`` runs at
            the first calls alone. Calls without gradients run as ever.

    ``inner_steps``, ``order``, ``annealing``, ``task_chunk``, ``cuda_graph`` and a fixed ``inner_lr`` are attributes
    that may be changed at any time.

    Raises:
        TypeError, ValueError: for an argument out of its range, names that match no parameter, or nothing to adapt.
    """

    inner_lr: Rate | InnerRates | None
    inner_optimiser: str | LearnedRule
    batch_norm_policies = tuple(BATCH_NORM_POLICIES)

    def __init__(
        self,
        model: nn.Module,
        inner_lr: Rate | Mapping[str, Rate] | Callable[[nn.Parameter], Rate] | None = 0.4,
        inner_steps: int = 1,
        order: int = 2,
        *,
        loss_fn: LossFunction = F.cross_entropy,
        adapt: Adapt = None,
        learn_inner_lr: LearnInnerLR = False,
        batch_norm: InnerBatchNorm = "batch",
        inner_optimiser: str | LearnedRule = "sgd",
        first_order_iterations: int = 0,
        multi_step_iterations: int = 0,
        fused: bool = True,
        task_chunk: TaskChunk = "auto",
        cuda_graph: bool = False,
    ) -> None:
        super().__init__(model, batch_norm, fused)
        if order not in (1, 2):
            raise ValueError(f"order must be 1 (first-order MAML) or 2, got {order!r}")
        if not callable(loss_fn):
            raise TypeError(f"loss_fn must be a function of logits and targets, got {loss_fn!r}")
        if not isinstance(inner_optimiser, LearnedRule) and inner_optimiser not in INNER_OPTIMISERS:
            choices = ", ".join(INNER_OPTIMISERS)
            raise ValueError(
                f"inner_optimiser must be one of {choices}; got {inner_optimiser!r}, which is no LearnedRule either"
            )
        self.inner_steps = check_steps(inner_steps)
        self.order = order
        self.loss_fn = loss_fn
        self.inner_optimiser = inner_optimiser
        self.annealing = Annealing(first_order_iterations, multi_step_iterations)
        self.task_chunk = check_task_chunk(task_chunk)
        self.cuda_graph = cuda_graph
        steps = max(1, self.inner_steps)
        self.step_norms = StepNorms(model, steps) if is_per_step(batch_norm) else None
        self.step_statistics = StepStatistics(model, steps) if batch_norm == "per_step_running" else None
        self._iteration: int | None = None
        self._chosen = self._without_norms(select_parameters(model, adapt))
        self._set_inner_lr(inner_lr, check_learn_inner_lr(learn_inner_lr))
        self._chunks = TaskChunks()
        self._graphed = GraphedLoss()
        self._not_native: str | None = None  # why the last call did not run natively; "" if it did
        self._together = True  # whether its tasks were
        self._told = False

    def results_and_loss(
        self, episodes: Episodes, *, per_step: bool | Collection[int] = False, inner_steps: int | None = None
    ) -> tuple[TaskResults, Tensor]:
        """The query results of every single task, without a graph, and the loss of :meth:`forward`."""
        scored = scored_steps(per_step, steps_asked(inner_steps, self.inner_steps))
        episodes = self._checked(episodes, self._current_parameters())
        if not self.cuda_graph or not torch.is_grad_enabled():
            return self._results_and_loss(episodes, scored, inner_steps)
        key = (self.signature(), scored, inner_steps)
        return self._graphed(
            key, episodes, lambda held, stand_in: self._results_and_loss(held, scored, inner_steps, stand_in)
        )

    def begin_iteration(self, iteration: int) -> None:
        """Anneal: what :attr:`annealing` says of a meta-iteration, from 0 on, holds until the next call."""
        self._iteration = iteration

    def signature(self) -> Hashable:
        """Equal at two calls if the same operations on the same memory do for both: what a CUDA graph rests on."""
        rate = self.inner_lr if isinstance(self.inner_lr, float | int) else None  # else it is among the tensors
        stage = None if self._iteration is None else self.annealing.stage(self._iteration)
        return super().signature(), self.inner_steps, self.order, stage, rate, self.task_chunk

    def adapt(self, x_spt: Tensor, y_spt: Tensor, inner_steps: int | None = None) -> FastWeights:
        """Every task's adapted parameters ``{name: [T, ...]}`` from support images [T, N, ...] and targets [T, N, ...].

        They are differentiable; where gradients are switched off it still adapts, and returns plain tensors.
        """
        parameters = self._current_parameters()
        check_support(x_spt, y_spt)
        check_like_model("x_spt", x_spt, parameters)
        return self._on(self._inner_loop(parameters, inner_steps), x_spt).adapt(x_spt, y_spt)

    def predict(self, fast: Mapping[str, Tensor], x_qry: Tensor) -> Tensor:
        """Logits [T, N, n_way] of images [T, N, ...] under ``fast``; what it does not hold is taken from the model."""
        parameters = self._current_parameters()
        check_like_model("x_qry", x_qry, parameters)
        check_fast_weights(fast, x_qry, parameters)
        if self.step_statistics is not None:
            self.step_statistics.check(self._forward_tasks.programs(x_qry))
        blocks = self._blocks()
        run_block = None if blocks is None else blocks(step_of_queries(self.inner_steps))
        return self._forward_tasks(fast, _without(parameters, fast), x_qry, run_block)

    def task_results(
        self, episodes: Episodes, *, per_step: bool | Collection[int] = False, inner_steps: int | None = None
    ) -> TaskResults:
        """The query results of every single task, of which :meth:`forward` gives the means.

        With gradients the graph of all tasks is held at once, whatever ``task_chunk`` says.
        """
        parameters = self._current_parameters()
        loop = self._inner_loop(parameters, inner_steps)
        scored = scored_steps(per_step, loop.steps)
        episodes = self._checked(episodes, parameters)
        loop = self._on(loop, episodes.x_spt, episodes.x_qry)
        chunk = None if torch.is_grad_enabled() else self.task_chunk
        native = self._native(loop, episodes, chunk)
        if native is not None:
            return native.results(episodes, scored)
        return self._chunks.results(loop, episodes, scored, chunk)

    @property
    def adapted(self) -> tuple[str, ...]:
        """Names of the parameters that adapt: those chosen by ``adapt`` that are not frozen."""
        return tuple(self._adapted(self._current_parameters()))

    def describe(self) -> str:
        """What runs and how, in a few lines.

        Model and inner loop are the last call's: the model is recorded when it is first called on images of a kind. The
        inner loop is native where the net is a chain of conv blocks under cross-entropy and nobody asks for the graph.

        The lines of the first call are also logged, by the logger ``maml_fast``: as WARNING, which Python shows unless
        told otherwise, where something did not fuse, else as INFO.
        """
        lines = [
            f"{type(self).__name__} of {type(self.model).__name__}: order {self.order}, {self.inner_steps} inner steps",
            f"adapted: {len(self.adapted)} of {len(dict(self.model.named_parameters()))} parameters",
            f"batch norm: {self.batch_norm}",
            f"forward: {self._forward_tasks.describe()}",
            *self._describe_loop(),
            *self._describe_graph(),
        ]
        if self.fusion is None:
            return "\n".join(lines)
        return "\n".join([*lines, *str(self.fusion).splitlines()[1:]])  # its first line is the batch norm again

    def extra_repr(self) -> str:
        """The settings; PyTorch adds the model."""
        rate = "" if isinstance(self.inner_lr, InnerRates | None) else f"inner_lr={_plain(self.inner_lr)}, "
        return f"{rate}inner_steps={self.inner_steps}, order={self.order}, batch_norm={self.batch_norm}"

    def _results_and_loss(
        self,
        episodes: Episodes,
        scored: tuple[int, ...],
        inner_steps: int | None,
        stand_in: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[TaskResults, Tensor]:
        loop = self._objective(self._inner_loop(self._current_parameters(), inner_steps))
        loop = self._on(loop, episodes.x_spt, episodes.x_qry)
        if stand_in is not None:
            loop = replace(loop, theta=loop.theta.map(stand_in))
        if self.step_statistics is None or not self.training:
            return self._loss(loop, episodes, scored)
        collector = Collector(self.step_statistics)
        result = self._loss(replace(loop, blocks=collector.taking), episodes, scored)
        collector.update()
        return result

    def _on(self, loop: InnerLoop, *inputs: Tensor) -> InnerLoop:
        """The loop for images like these."""
        loop = loop.on(*inputs)
        self._together = loop.together
        if self.step_statistics is not None:
            self.step_statistics.check(loop.programs)
        return loop

    def _set_inner_lr(self, inner_lr: Any, learn: LearnInnerLR) -> None:
        adapted = self._adapted(self._current_parameters())
        if isinstance(self.inner_optimiser, LearnedRule):
            if inner_lr is not None or learn:
                raise ValueError(f"a LearnedRule has no learning rate: give inner_lr=None, got {inner_lr!r}")
            like = next(iter(adapted.values()))
            self.inner_lr = self._rate_steps = None
            self.inner_optimiser.to(like.device, like.dtype)
            return
        self._rate_steps = max(1, self.inner_steps) if learn == "per_step" else None
        rate = make_inner_lr(inner_lr, adapted, bool(learn), self._rate_steps)
        if isinstance(rate, Tensor) and not isinstance(rate, nn.Parameter):
            self.register_buffer("inner_lr", rate)
        else:
            self.inner_lr = rate

    def _rule(self, adapted: Collection[str]) -> tuple[Rule, Callable[[Rule], InnerOptimiser]]:
        """What the inner optimiser knows, and what makes one of it."""
        learned = self.inner_optimiser
        if isinstance(learned, LearnedRule):
            return dict(learned.named_parameters()), learned.begin
        return {name: self._rate_of(name) for name in adapted}, INNER_OPTIMISERS[learned]

    def _rate_of(self, name: str) -> MaybePerStep[Rate]:
        if isinstance(self.inner_lr, InnerRates):
            return self.inner_lr.rate_of(name)
        assert self.inner_lr is not None
        return of_steps(self.inner_lr, self._rate_steps)

    def _without_norms(self, names: tuple[str, ...]) -> tuple[str, ...]:
        of_steps = self.step_norms.names if self.step_norms is not None else ()
        adapting = tuple(name for name in names if name not in of_steps)
        if not adapting:
            raise ValueError(f"nothing is left to adapt: of {', '.join(names)} every step has its own; widen adapt")
        return adapting

    def _checked(self, episodes: Episodes, parameters: Mapping[str, Tensor]) -> Episodes:
        parts = tuple(episodes) if isinstance(episodes, (tuple, list)) else ()
        classification = self.loss_fn is F.cross_entropy
        if len(parts) == 4:
            check_like_model("x_spt", parts[0], parameters)
            classification &= getattr(parts[1], "ndim", 2) == 2  # not the labels of pixels
        return check_episodes(episodes, classification=classification)

    def _inner_loop(self, parameters: Mapping[str, nn.Parameter], inner_steps: int | None) -> InnerLoop:
        adapted = self._adapted(parameters)
        norms = self.step_norms.values() if self.step_norms is not None else {}
        rule, optimiser = self._rule(adapted)
        theta = Theta(adapted, rule, {**_without(parameters, adapted), **norms})
        steps, blocks = steps_asked(inner_steps, self.inner_steps), self._blocks()
        order = self.order if self._iteration is None else self.annealing.order(self._iteration, self.order)
        return InnerLoop(theta, self._forward_tasks, self.loss_fn, steps, order, optimiser, blocks=blocks)

    def _blocks(self) -> Callable[[int], RunBlock] | None:
        """What runs every step's conv blocks by its statistics, where these are to be taken."""
        return None if self.step_statistics is None or self.training else self.step_statistics.given

    def _objective(self, loop: InnerLoop) -> InnerLoop:
        """The loop with this meta-iteration's weights of the steps' losses."""
        weights = None if self._iteration is None else self.annealing.step_weights(self._iteration, loop.steps)
        return replace(loop, step_weights=weights)

    def _loss(self, loop: InnerLoop, episodes: Episodes, scored: tuple[int, ...]) -> tuple[TaskResults, Tensor]:
        native = self._native(loop, episodes, self.task_chunk)
        if native is not None:
            return native.loss(episodes, scored)
        return self._chunks.loss(loop, episodes, scored, self.task_chunk)

    def _native(self, loop: InnerLoop, episodes: Episodes, chunk: TaskChunk) -> NativeLoop | None:
        form = native_loop(loop, self.loss_fn, episodes, tasks_at_once(chunk, loop.theta.device))
        self._not_native = form if isinstance(form, str) else ""
        self._tell()
        return None if isinstance(form, str) else form

    def _tell(self) -> None:
        """Log once what runs."""
        if self._told:
            return
        self._told = True
        unfused = self.fusion is not None and self.fusion.left
        level = logging.WARNING if unfused else logging.INFO
        if logger.isEnabledFor(level):
            logger.log(level, "%s", self.describe())

    def _describe_loop(self) -> list[str]:
        device = next(iter(self._current_parameters().values())).device
        if self._not_native is None:
            return []
        if self._not_native:
            held = self._chunks.describe(tasks_in_memory(self._together, self.task_chunk, device))
            return [f"inner loop: operation by operation ({self._not_native})", f"in memory: {held}"]
        held = f"{min(tasks_at_once(self.task_chunk, device) or 1, torch.get_num_threads())} tasks at a time"
        return ["inner loop: native, each task in one core's cache", f"in memory: {held}"]

    def _describe_graph(self) -> list[str]:
        if not self.cuda_graph:
            return []
        now = "replayed" if self._graphed.is_captured else f"to be captured after {WARM_UP} calls of a kind"
        return [f"cuda graph: loss and meta-gradient, {now}"]

    def _adapted(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        return {name: parameters[name] for name in self._chosen if parameters[name].requires_grad}


def _without(parameters: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in parameters.items() if name not in names}


def _plain(rate: Rate) -> str:
    if not isinstance(rate, Tensor):
        return str(rate)
    return f"{'learnable ' if rate.requires_grad else ''}tensor {list(rate.shape)}"
