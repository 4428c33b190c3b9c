"""Model-agnostic meta-learning (Finn, Abbeel & Levine 2017) of any module, for all tasks of a meta-batch at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maml_fast import native
from maml_fast._arguments import Kind, choice, flag, function, instance, shown, takes
from maml_fast.data import _checks as checks
from maml_fast.data._episodes import Episodes, check_episodes
from maml_fast.inner_loop import _composed as composed
from maml_fast.inner_loop._chunks import (
    INNER_MEMORY,
    TASK_CHUNK,
    InnerMemory,
    TaskChunk,
    steps_kept,
    tasks_at_once,
)
from maml_fast.inner_loop._engines import ChosenEngine
from maml_fast.inner_loop._graphed import WARM_UP, GraphedLoss
from maml_fast.inner_loop._heads import (
    HEAD,
    HEADS,
    N_CLASSES,
    Classifier,
    Head,
    PrototypeRows,
    SharedRows,
    Start,
    TiedRow,
    start_of,
)
from maml_fast.inner_loop._losses import LossFunction
from maml_fast.inner_loop._metric import IGNORED, Metric, check_metric, resolve_metric
from maml_fast.inner_loop._optimizers import INNER_OPTIMIZERS, InnerOptimizer, LearnedRule, Rule
from maml_fast.inner_loop._plans import Plan, Plans, global_modes, plan_of, results_of, tensor_kinds
from maml_fast.inner_loop._problem import Annealing, InnerProblem, Theta, step_of_queries
from maml_fast.inner_loop._rates import (
    InnerRates,
    LearnInnerLR,
    Rate,
    check_broadcasts,
    check_learn_inner_lr,
    make_inner_lr,
    per_step_rate,
)
from maml_fast.inner_loop._selection import AdaptedChoice, check_head, select_parameters
from maml_fast.inner_loop._state import get_randomness, set_randomness
from maml_fast.inner_loop._step_batch_norm import Collector, StepNorms, StepStatistics
from maml_fast.inner_loop._task_forward import requested_engine
from maml_fast.inner_loop._third_derivatives import ThirdDerivativeGuard
from maml_fast.inner_loop._values import FastWeights, MaybePerStep, TaskResults, values_at_step
from maml_fast.inner_loop._watched_loss import WatchedLoss
from maml_fast.maml._arguments import (
    STEPS,
    check_fast_weights,
    check_images,
    check_like_model,
    check_support,
    resolve_steps,
    scored_steps,
)
from maml_fast.maml._earlier_calls import takes_earlier_calls
from maml_fast.maml._learner import ITERATION, Learner
from maml_fast.maml._meta_modules import warn_of_shared_layers
from maml_fast.program import BATCH_NORM_POLICIES, InnerBatchNorm, RunBlock, Watch, is_per_step, names_of_head

__all__ = ["MAML"]

logger = logging.getLogger("maml_fast")

MAX_NAMED = 8  # parameters that describe() lists by name


@dataclass
class _CallHistory:
    """What a learner keeps between calls.

    Attributes:
        iteration: the current meta-iteration, for annealing.
        counts_calls: whether calls advance ``iteration``; False once the user has set it.
        engine: the engine of the last call.
        logged: whether :meth:`MAML.describe` has been logged.
        prepared_for: shapes of the episodes that the last native plan was made for.
    """

    iteration: int = 0
    counts_calls: bool = True
    engine: ChosenEngine | None = None
    logged: bool = False
    prepared_for: tuple[torch.Size, ...] = ()


class MAML(Learner):
    """Model-agnostic meta-learning: adapt ``model`` to every task of a meta-batch and differentiate through it.

    ``maml(episodes).loss`` is the meta-objective: the mean over tasks of the query loss after adaptation. Adaptation
    takes ``inner_steps`` steps of ``w - inner_lr * d(support loss)/dw``, starting from the model's parameters (Finn et
    al. 2017, eq. 1). The meta-gradient is computed in the same call; ``loss.backward()`` only adds it to the
    parameters' ``.grad``. It can't be differentiated again; :meth:`task_results` returns losses with their autograd
    graph.

    These settings are attributes and can be changed at any time: ``inner_steps``, ``order``, ``loss_fn``, ``metric``,
    ``annealing`` (which holds ``first_order_iterations`` and ``multi_step_iterations``), ``task_chunk``,
    ``inner_memory``, ``cuda_graph``, and ``inner_lr`` if it is fixed.

    Args:
        model: any module that maps images [N, ...] to logits [N, ...]. It is shared, not copied.
        inner_lr: learning rate of the inner loop: a number; a tensor; a mapping from parameter names, prefixes or globs
            to numbers or tensors; or a function that maps an adapted parameter to its rate. Finn's code divides the
            summed inner loss by the number of shots, not of images, so his 0.4 is ``n_way * 0.4`` with a mean
            cross-entropy.
        inner_steps: number of gradient steps on the support set.
        order: 2 differentiates through the inner gradients; 1 treats them as constants (FOMAML).
        loss_fn: inner and outer loss of one task, ``loss_fn(logits [N, ...], targets [N, ...]) -> scalar``.
        metric: which predictions are correct. ``"accuracy"``: those whose largest logit along dimension 1 is the
            label's. A function: ``metric(logits [N, ...], targets [N, ...]) -> bool [...]``, for one task. ``None``:
            no metric. ``"auto"``: accuracy if the loss is cross-entropy (``F.cross_entropy``,
            ``nn.CrossEntropyLoss``, or a partial of these), ``None`` for any other loss. Accuracy does not count
            ignored labels (-100, or the loss's ``ignore_index``).
        adapted: which parameters the inner loop adapts. ``None``: all. ``"head"``: those of the last module with
            parameters (ANIL). ``"body"``: all others (BOIL). A list: names, prefixes and globs. A function: ``name ->
            bool``. The remaining parameters are shared by all tasks and meta-learned. With ``"head"`` or ``"body"``,
            the first call on images checks that the last module is the one that computes the output, and raises a
            ValueError with the correct names if it is not. A model that can't be recorded is not checked.
            :meth:`describe` lists the adapted parameters.
        learn_inner_lr: whether ``inner_lr`` is meta-learned. True: one ``nn.Parameter``, or one per key of the mapping
            or per parameter that the function is called on. ``"per_step"``: each of these holds one rate for every
            inner step (Antoniou et al. 2019); the last rate applies to any later steps.
        batch_norm: ``"batch"`` normalizes by the statistics of the batch itself (transductive), in both ``train()`` and
            ``eval()`` mode. ``"running"`` normalizes by the model's stored running statistics. Neither updates these.
            ``"per_step"`` is ``"batch"`` with a scale and a shift for every inner step. They are meta-learned, shared
            by all tasks, and initialized from the model's own, which stay unchanged. ``"per_step_running"`` also keeps
            running statistics for every inner step: calls in ``train()`` mode update them, and calls in ``eval()`` mode
            normalize by them. :meth:`predict` uses those of the last step.
        inner_optimizer: ``"sgd"``; ``"adam"``, the steps of ``torch.optim.Adam`` from zero moments for every task (the
            square root of a second moment that is still zero has no derivative, and gets 0); or a
            :class:`maml_fast.LearnedRule`, whose parameters are meta-learned too. A learned rule needs
            ``inner_lr=None``.
        head: initial values of the classifier, the model's last linear layer, which has one row per class.
            ``"learned"``: every class has its own learned row. ``"zero"``: zeros (the zeroing trick, Kao et al. 2022).
            ``"tied"``: one learned row for all classes (UNICORN-MAML, Ye & Chao 2022). With cross-entropy this equals
            zeros, because adding the same value to all logits has no effect. ``"proto"``: the class prototypes of the
            task's support images, through which the meta-gradient flows (ProtoMAML, Triantafillou et al. 2020). All but
            ``"learned"`` ignore the model's own rows, support any number of classes (see :meth:`for_classes`), and need
            a classifier that adapts.
        first_order_iterations: number of meta-iterations at first order, before those at ``order``; see
            :class:`maml_fast.Annealing`. Every call in ``train()`` mode with gradients enabled counts as one
            meta-iteration, unless :meth:`begin_iteration` sets the number.
        multi_step_iterations: number of meta-iterations with the multi-step loss, counted likewise; see
            :class:`maml_fast.Annealing`.
        fused: record the model, and run its conv-BN-ReLU-pool blocks on the fused op; ``maml.fusion`` reports which. If
            False, the model runs as it is written.
        task_chunk: number of tasks in memory at once. More tasks are computed chunk by chunk: each chunk's gradient is
            computed and its graph freed before the next. The sum equals the gradient of all tasks at once up to
            rounding, but dropout draws different numbers. ``"auto"``: as many as fit in 96 MiB on the CPU, all on a
            GPU. ``None``: all tasks. Calls that return the graph are never chunked: :meth:`adapt`,
            :meth:`task_results` with gradients enabled, and calls under transforms of ``torch.func``.
        inner_memory: at second order, the number of inner steps whose graphs are in memory at once. The other steps are
            computed again in the backward pass, from checkpoints of the weights. The gradient is the same. It takes 0.7
            to 1.4 times as long, and memory grows only with the logarithm of the number of steps. ``"auto"``: as many
            as fit in 64 MiB for one task on the CPU, at least 5, and all on a GPU. ``None``: all.
        cuda_graph: on a GPU, replay ``maml(episodes)`` and its meta-gradient as one CUDA graph, which is captured at
            the fourth consecutive call of the same kind. Inner loops, query loss and backward pass then need only a few
            launches. Python code in ``model`` and ``loss_fn`` runs only in the first calls. Calls without gradients are
            not affected.

    Raises:
        TypeError, ValueError: an argument has the wrong type or is out of range, names match no parameter, or there is
            nothing to adapt.
    """

    inner_lr: Rate | InnerRates | None
    inner_optimizer: str | LearnedRule
    batch_norm_policies = tuple(BATCH_NORM_POLICIES)

    @takes_earlier_calls(
        positions=("inner_lr", "inner_steps", "order"),
        names={"adapt": "adapted", "inner_optimiser": "inner_optimizer"},
    )
    def __init__(
        self,
        model: nn.Module,
        *,
        inner_lr: Rate | Mapping[str, Rate] | Callable[[nn.Parameter], Rate] | None = 0.4,
        inner_steps: int = 1,
        order: int = 2,
        loss_fn: LossFunction = F.cross_entropy,
        metric: Metric = "auto",
        adapted: AdaptedChoice = None,
        learn_inner_lr: LearnInnerLR = False,
        batch_norm: InnerBatchNorm = "batch",
        inner_optimizer: str | LearnedRule = "sgd",
        head: Head = "learned",
        first_order_iterations: int = 0,
        multi_step_iterations: int = 0,
        fused: bool = True,
        task_chunk: TaskChunk = "auto",
        inner_memory: InnerMemory = "auto",
        cuda_graph: bool = False,
    ) -> None:
        super().__init__(model, batch_norm, fused)
        self.inner_steps = inner_steps
        self.order = order
        self.loss_fn = loss_fn
        self.metric = metric
        self.inner_optimizer = inner_optimizer
        self.annealing = Annealing(first_order_iterations, multi_step_iterations)
        self.task_chunk = task_chunk
        self.inner_memory = inner_memory
        self.cuda_graph = cuda_graph
        steps = max(1, self.inner_steps)
        self.step_norms = StepNorms(model, steps) if is_per_step(batch_norm) else None
        self.step_statistics = StepStatistics(model, steps) if batch_norm == "per_step_running" else None
        if adapted is None:
            warn_of_shared_layers(model)
        self._part = adapted if isinstance(adapted, str) and adapted in ("head", "body") else None
        self._chosen = self._without_norms(select_parameters(model, adapted))
        self._head: Head = HEAD("head", head)
        self._start = start_of(self._head, model, self.adapted)
        is_tied = isinstance(self._start, SharedRows) and self._start.head == "tied"
        self.tied_row = TiedRow(model, self._start.classifier) if self._start and is_tied else None
        self._head_of: Watch | None = None
        self._set_inner_lr(inner_lr, check_learn_inner_lr(learn_inner_lr))
        self._plans = Plans()
        self._graphed = GraphedLoss()
        self._loss = WatchedLoss()
        self._history = _CallHistory()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a setting is checked like the argument of the same name."""
        kind = _SETTINGS.get(name)
        if kind is not None:
            value = kind(name, value)
        if name == "inner_lr" and "_chosen" in vars(self):
            return self._change_inner_lr(value)
        return super().__setattr__(name, value)

    def results_and_loss(
        self, episodes: Episodes, *, per_step: bool | Collection[int] = False, inner_steps: int | None = None
    ) -> tuple[TaskResults, Tensor]:
        """Return the query results of every task, without a graph, and the loss of :meth:`forward`.

        Arguments and errors are those of :meth:`forward`.
        """
        if inner_steps is not None:
            inner_steps = STEPS("inner_steps", inner_steps)
        plan = self._plan(episodes, per_step, inner_steps)
        episodes = Episodes(*episodes)
        if self.cuda_graph and torch.is_grad_enabled():

            def of_graph(held: Episodes, stand_in: Callable[[Tensor], Tensor]) -> tuple[TaskResults, Tensor]:
                return self._loss_of(plan._replace(problem=plan.problem.with_theta(stand_in)), held)

            results, loss = self._graphed((self.signature(), plan.scored, inner_steps), episodes, of_graph)
        else:
            results, loss = self._loss_of(plan, episodes)
        self._forward_tasks.last = plan.forward
        self._log_once(plan.engine)
        if self._history.counts_calls and self.training and torch.is_grad_enabled():
            self._history.iteration += 1
        return results, loss

    @takes(iteration=ITERATION)
    def begin_iteration(self, iteration: int) -> None:
        """Set the meta-iteration of the next calls, counted from 0, which :attr:`annealing` depends on.

        If this is never called, every call in ``train()`` mode with gradients enabled counts as one meta-iteration.
        """
        self._history.iteration, self._history.counts_calls = iteration, False

    def signature(self) -> Hashable:
        """Return the key under which a call may be captured as a CUDA graph.

        Calls with equal signatures run the same operations on the same memory.
        """
        rate = self.inner_lr if isinstance(self.inner_lr, float | int) else None  # tensors are part of super()'s key
        stage = self.annealing.stage(self._history.iteration)
        return super().signature(), self.inner_steps, self.order, stage, rate, self.task_chunk, self.inner_memory

    def moved_to_means(self) -> list[Tensor]:
        """Return the running statistics of every inner step, which a training call updates."""
        return [] if self.step_statistics is None else list(self.step_statistics.buffers())

    def adapt(self, x_spt: Tensor, y_spt: Tensor, inner_steps: int | None = None) -> FastWeights:
        """Adapt to the support set of every task, and return the adapted parameters.

        The result is differentiable. With gradients disabled, adaptation still takes place, but the result has no
        graph.

        Args:
            x_spt: support images, [T, N, ...].
            y_spt: support targets, [T, N, ...].
            inner_steps: number of inner steps; :attr:`inner_steps` by default.

        Returns:
            The fast weights of every task, [T, ...] by name. :meth:`predict` takes them.

        Raises:
            TypeError, ValueError: the support set is invalid, or not on the model's device or not in its dtype.
            RuntimeError: the support loss does not depend on any adapted parameter.
        """
        parameters = self._current_parameters()
        check_support(x_spt, y_spt)
        self._check_labels(y_spt)
        check_images("x_spt", x_spt, parameters)
        guard = ThirdDerivativeGuard()
        problem = guard.watch(self._problem_for(self.problem(parameters, inner_steps), None, x_spt))
        fast = composed.adapt(problem, x_spt, y_spt)
        guard.inspect(fast.values())
        return fast

    def predict(self, fast: Mapping[str, Tensor], x_qry: Tensor) -> Tensor:
        """Return the logits of query images with adapted parameters.

        Args:
            fast: the fast weights of every task, [T, ...] by name, as :meth:`adapt` returns them. Parameters that it
                does not contain are taken from the model.
            x_qry: images, [T, N, ...].

        Returns:
            Logits, [T, N, n_way].

        Raises:
            TypeError, ValueError: ``fast`` does not fit the model or the number of tasks, or the images are invalid, or
                not on the model's device or not in its dtype.
        """
        parameters = self._current_parameters()
        check_images("x_qry", x_qry, parameters)
        check_fast_weights(fast, x_qry, parameters)
        if self.step_statistics is not None:
            self.step_statistics.check(self._forward_tasks.programs(x_qry))
        blocks = self._blocks()
        run_block = None if blocks is None else blocks(step_of_queries(self.inner_steps))
        return self._forward_tasks(fast, _without(parameters, fast), x_qry, run_block)

    @takes(n_classes=N_CLASSES)
    def for_classes(self, n_classes: int) -> MAML:
        """Return a learner for tasks with ``n_classes`` classes.

        It is the learner itself if its model has that many outputs, and a copy otherwise. With ``head="learned"``, the
        classifier of the copy starts from the first ``n_classes`` of the learned rows, repeated cyclically if there are
        too few. Elementwise inner rates are resized in the same way, with any head.

        Raises:
            ValueError: the model does not end in a linear layer, or its learned rows do not adapt.
        """
        classifier = Classifier.of(self.model, f"for_classes({n_classes})")
        if n_classes != classifier.n_classes and classifier.weight not in self.adapted:
            raise ValueError(
                f"{classifier.weight} does not adapt: its {classifier.n_classes} learned rows are for that many "
                f"classes, not for {n_classes}; let the classifier adapt in training, best with head='zero' or 'proto'"
            )
        resized = super().for_classes(n_classes)
        assert isinstance(resized, MAML)
        return resized

    def task_results(
        self, episodes: Episodes, *, per_step: bool | Collection[int] = False, inner_steps: int | None = None
    ) -> TaskResults:
        """Return the query results of every task; :meth:`forward` returns their means.

        If gradients are enabled, the last row of ``losses`` has its autograd graph. The graph of all tasks is then in
        memory at once, whatever ``task_chunk`` is. Arguments and errors are those of :meth:`forward`.
        """
        parameters = self._current_parameters()
        problem = self.problem(parameters, inner_steps)
        scored = scored_steps(per_step, problem.steps)
        episodes = self._checked(episodes, parameters)
        chunk = None if torch.is_grad_enabled() else self.task_chunk
        problem = self._problem_for(problem, chunk, episodes.x_spt, episodes.x_qry)
        results, engine = results_of(problem, episodes, scored, self.task_chunk)
        self._log_once(engine)
        return results

    @property
    def adapted(self) -> tuple[str, ...]:
        """Names of the parameters that adapt: those selected by the argument ``adapted`` that are not frozen."""
        return tuple(self._adapted(self._current_parameters()))

    def engine_for(self, episodes: Episodes) -> str:
        """Return the engine that would compute a call on episodes like these: "native", "batched" or "loop"."""
        return self._plan(episodes, False, None).engine.name

    def describe(self) -> str:
        """Return a description of the settings and of how the last call ran, in a few lines.

        The model is recorded when it is first called on images of a kind (shape, dtype, device). The inner loop is
        native if the kernels have all operations of the model and of the loss, and if no graph is requested.

        After the first call, the description is also logged by the logger ``maml_fast``: at level WARNING, which Python
        shows by default, if parts of the model did not fuse, and at level INFO otherwise.
        """
        is_native = self._history.engine is not None and self._history.engine.name == "native"
        lines = [
            f"{type(self).__name__} of {type(self.model).__name__}: order {self.order}, {self.inner_steps} inner steps",
            f"adapted: {self._describe_adapted()}",
            f"batch norm: {self.batch_norm}",
            f"head: {HEADS[self._head]}",
            f"forward: {self._forward_tasks.describe(is_native)}",
            *(self._history.engine.describe() if self._history.engine is not None else ()),
            *self._describe_graph(),
        ]
        if self.fusion is None or (is_native and not self.fusion.fused):
            return "\n".join(lines)
        return "\n".join([*lines, *str(self.fusion).splitlines()[1:]])  # its first line repeats the batch norm

    def extra_repr(self) -> str:
        """Return the main settings for ``repr()``."""
        rate = "" if isinstance(self.inner_lr, InnerRates | None) else f"inner_lr={_describe_rate(self.inner_lr)}, "
        return f"{rate}inner_steps={self.inner_steps}, order={self.order}, batch_norm={self.batch_norm}"

    def _plan(self, episodes: Episodes, per_step: bool | Collection[int], inner_steps: int | None) -> Plan:
        """Return the plan that computes a call's results and loss; raise if the episodes are invalid."""
        key = self._key(episodes, per_step, inner_steps)
        plan = self._plans.get(key)
        if plan is not None:
            if plan.native is None and episodes[0].is_cpu:  # the native engine checks values itself
                checks.check_values(Episodes(*episodes), None, self._has_classes(episodes[1]), IGNORED)
                self._check_labels(episodes[1])
            return plan
        scored = scored_steps(per_step, resolve_steps(inner_steps, self.inner_steps))
        parameters = self._current_parameters()
        episodes = self._checked(episodes, parameters)
        problem = self.problem(parameters, inner_steps, objective=True)
        problem = self._problem_for(problem, self.task_chunk, episodes.x_spt, episodes.x_qry)
        if self.step_statistics is not None:
            problem = replace(problem, blocks=self.step_statistics.block_runner)
        plan = plan_of(problem, episodes, scored, self.task_chunk)
        # A native plan holds the classifier's initial rows. If they are computed from other tensors, it is not kept.
        holds_rows = plan.native is not None and problem.start is not None
        if key is not None and not holds_rows and all(isinstance(each, nn.Parameter) for each in parameters.values()):
            self._plans.keep(key, plan)
        if plan.native is not None and self._history.prepared_for != (shapes := tuple(x.shape for x in episodes)):
            native.give_back_memory()  # recording needed it; the kernels do not
            self._history.prepared_for = shapes
        return plan

    def _key(self, episodes: Any, per_step: Any, inner_steps: Any) -> Hashable | None:
        """Return everything that a plan depends on; ``None`` if that can't be determined."""
        watch = self._forward_tasks.watch()
        if (
            watch is None
            or not isinstance(episodes, tuple | list)
            or not all(isinstance(x, Tensor) for x in episodes)
            or not (isinstance(per_step, bool) or _are_ints(per_step))
            or not isinstance(inner_steps, int | None)
            or type(self).problem is not MAML.problem
            or self.step_statistics is not None
            or torch.compiler.is_compiling()
        ):
            return None
        tensors = [*watch.parameters(), *self._parameters.values(), *self._buffers.values()]
        for name, part in self._modules.items():
            if name != "model" and part is not None:
                tensors += (*part.parameters(), *part.buffers())
        rate = self.inner_lr if isinstance(self.inner_lr, float) else None  # a tensor is among ``tensors``
        stage = self.annealing.stage(self._history.iteration) if self.annealing else None
        metric = self.metric if isinstance(self.metric, str | None) else id(self.metric)
        loss = (None, True) if self.loss_fn is F.cross_entropy else self._loss.inspect(self.loss_fn)
        return (
            (watch, self.training, self.order, self.inner_steps, rate, stage, self.task_chunk, self.inner_memory),
            (id(self.loss_fn), loss, metric, self.inner_optimizer, per_step, inner_steps),
            (*map(id, tensors), *tensor_kinds(tensors), *tensor_kinds(episodes), *global_modes()),
        )

    def _has_classes(self, targets: Any) -> bool:
        """Return whether a task's targets are class labels [N], as opposed to, for example, labels of pixels."""
        return self.loss_fn is F.cross_entropy and getattr(targets, "ndim", 2) == 2

    def _loss_of(self, plan: Plan, episodes: Episodes) -> tuple[TaskResults, Tensor]:
        if self.step_statistics is None or not self.training:
            return plan.loss(episodes)
        collector = Collector(self.step_statistics)
        results = plan._replace(problem=replace(plan.problem, blocks=collector.block_runner)).loss(episodes)
        collector.update()
        return results

    def _problem_for(self, problem: InnerProblem, chunk: TaskChunk, *inputs: Tensor) -> InnerProblem:
        """Return the problem for inputs [T, N, ...] like these, with ``chunk`` tasks in memory at once."""
        problem = problem.for_inputs(*inputs)
        recorded = self._forward_tasks.last and self._forward_tasks.last.recorded
        if self._part is not None and recorded is not None:
            check_head(self.model, self._part, names_of_head(recorded))
        if self._start is not None:
            self._check_start(self._start, problem.theta, inputs[0])
        if problem.order == 2 and problem.steps > 1:
            problem = replace(problem, steps_kept=steps_kept(problem, self.inner_memory))
        if self.step_statistics is not None:
            self.step_statistics.check(problem.programs)
        n_tasks = len(inputs[0])
        return problem.with_tasks(min(n_tasks, tasks_at_once(problem, chunk) or n_tasks))

    def _resize_rows(self, classifier: Classifier, n_classes: int) -> None:
        self._start = start_of(self._head, self.model, self.adapted)
        if isinstance(self.inner_lr, InnerRates):
            self.inner_lr.resize(classifier.dimensions, n_classes)
        elif isinstance(self.inner_lr, Tensor) and self._rate_steps is None:
            check_broadcasts(self.inner_lr, self._adapted(self._current_parameters()))

    def _check_start(self, start: Start, theta: Theta, x_spt: Tensor) -> None:
        """Raise unless the classifier whose initial rows ``start`` sets adapts and computes the model's output."""
        missing = [name for name in start.classifier.names if name not in theta.adapted]
        if missing:
            raise RuntimeError(f"head={self._head!r} needs a classifier that adapts, but {missing[0]} is frozen now")
        recorded = self._forward_tasks.last and self._forward_tasks.last.recorded
        if recorded is not None:
            start.classifier.check_computed_last(self._head, names_of_head(recorded))
        watch = self._forward_tasks.watch()
        transformed = torch._C._are_functorch_transforms_active()
        if not isinstance(start, PrototypeRows) or transformed or (watch is not None and watch is self._head_of):
            return
        last, randomness = self._forward_tasks.last, get_randomness(x_spt.device)
        parameters, found = values_at_step({**theta.shared, **theta.adapted}, 0), list[Tensor]()
        with torch.no_grad():
            for rows in (
                start.identity_parameters(x_spt),
                {name: parameters[name] for name in start.classifier.names},
            ):
                fast = {name: each[None] for name, each in rows.items()}
                found += self._forward_tasks(fast, _without(parameters, fast), x_spt[:1])
                set_randomness(randomness)  # same dropout in both passes; the caller's random numbers are unaffected
        through, logits = found
        start.check(through, logits, parameters)
        self._forward_tasks.last, self._head_of = last, watch

    def _set_inner_lr(self, inner_lr: Any, learn: LearnInnerLR) -> None:
        if isinstance(self.inner_optimizer, LearnedRule):
            if inner_lr is not None or learn:
                raise ValueError(f"a LearnedRule has no learning rate: give inner_lr=None, got {shown(inner_lr)}")
            like = next(iter(self._adapted(self._current_parameters()).values()))
            self._rate_steps = None
            object.__setattr__(self, "inner_lr", None)
            self.inner_optimizer.to(like.device, like.dtype)
            return
        self._rate_steps = max(1, self.inner_steps) if learn == "per_step" else None
        self._store_inner_lr(self._make_rates(inner_lr, bool(learn)))

    def _change_inner_lr(self, inner_lr: Any) -> None:
        """Set a new fixed rate, or an ``nn.Parameter`` or ``InnerRates`` as it is."""
        if isinstance(self.inner_optimizer, LearnedRule):
            raise ValueError(f"a LearnedRule has no learning rate: inner_lr can't become {shown(inner_lr)}")
        if not isinstance(inner_lr, nn.Parameter | InnerRates):
            self._rate_steps = None
            inner_lr = self._make_rates(inner_lr, learnable=False)
        self._store_inner_lr(inner_lr)

    def _make_rates(self, inner_lr: Any, learnable: bool) -> Rate | InnerRates:
        parameters = self._current_parameters()
        adapted = self._adapted(parameters)
        frozen = {name: parameters[name] for name in self._chosen if name not in adapted}
        return make_inner_lr(inner_lr, adapted, frozen, learnable, self._rate_steps)

    def _store_inner_lr(self, rate: Rate | InnerRates) -> None:
        for place in (vars(self), self._parameters, self._buffers, self._modules):
            place.pop("inner_lr", None)
        if isinstance(rate, Tensor) and not isinstance(rate, nn.Parameter):
            self.register_buffer("inner_lr", rate)
        else:
            nn.Module.__setattr__(self, "inner_lr", cast("Any", rate))

    def _rule(self, adapted: Collection[str]) -> tuple[Rule, Callable[[Rule], InnerOptimizer]]:
        """Return the rule of the inner optimizer, and the function that creates the optimizer from it."""
        learned = self.inner_optimizer
        if isinstance(learned, LearnedRule):
            return dict(learned.named_parameters()), learned.begin
        return {name: self._rate_of(name) for name in adapted}, INNER_OPTIMIZERS[learned]

    def _rate_of(self, name: str) -> MaybePerStep[Rate]:
        if isinstance(self.inner_lr, InnerRates):
            return self.inner_lr.rate_of(name)
        assert self.inner_lr is not None
        return self.inner_lr if self._rate_steps is None else per_step_rate(self.inner_lr, self._rate_steps)

    def _without_norms(self, names: tuple[str, ...]) -> tuple[str, ...]:
        per_step = self.step_norms.names if self.step_norms is not None else ()
        adapting = tuple(name for name in names if name not in per_step)
        if not adapting:
            raise ValueError(
                f"nothing is left to adapt: {', '.join(names)} have a value for every step under "
                f"batch_norm={self._batch_norm!r} and do not adapt; widen adapted"
            )
        return adapting

    def _checked(self, episodes: Episodes, parameters: Mapping[str, Tensor]) -> Episodes:
        parts = tuple(episodes) if isinstance(episodes, tuple | list) else ()
        if len(parts) == 4:
            check_like_model("x_spt", parts[0], parameters)
        classification = self._has_classes(parts[1] if len(parts) == 4 else None)
        checked = check_episodes(episodes, classification=classification, ignored=IGNORED)
        self._check_labels(checked.y_spt)
        return checked

    def _check_labels(self, y_spt: Tensor) -> None:
        """Raise unless prototypes can be computed from these labels; on a GPU the check would synchronize."""
        transformed = torch._C._are_functorch_transforms_active()
        if isinstance(self._start, PrototypeRows) and y_spt.is_cpu and not transformed:
            self._start.check_labels(y_spt)

    def problem(
        self, parameters: Mapping[str, nn.Parameter], inner_steps: int | None, *, objective: bool = False
    ) -> InnerProblem:
        """Return the inner problem of a call; a subclass may override this to change the algorithm.

        Args:
            parameters: the model's parameters, by name.
            inner_steps: number of inner steps of the call; ``None`` means :attr:`inner_steps`.
            objective: whether the call computes the meta-objective, and not only the result of adaptation.

        Raises:
            RuntimeError: all parameters that should adapt are frozen.
        """
        adapted = {name: _trainable(parameter) for name, parameter in self._adapted(parameters).items()}
        if not adapted:
            raise RuntimeError(
                f"nothing adapts: all of {', '.join(self._chosen)} are frozen now; set requires_grad_(True) on some"
            )
        norms = self.step_norms.values() if self.step_norms is not None else {}
        rule, optimizer = self._rule(adapted)
        row = {} if self.tied_row is None or self._start is None else self.tied_row.by_name(self._start.classifier)
        theta = Theta(adapted, rule, {**_without(parameters, adapted), **norms}, row)
        steps = resolve_steps(inner_steps, self.inner_steps)
        order, weights = self.order, None
        if self.training:
            order = self.annealing.order(self._history.iteration, self.order)
            weights = self.annealing.step_weights(self._history.iteration, steps) if objective else None
        return InnerProblem(
            theta,
            self._forward_tasks,
            self.loss_fn,
            steps,
            order,
            optimizer,
            metric=resolve_metric(self.metric, self.loss_fn),
            step_weights=weights,
            blocks=self._blocks(),
            watched_loss=self._loss,
            is_closed=self._loss.is_closed(self.loss_fn),
            start=self._start,
        )

    def _blocks(self) -> Callable[[int], RunBlock] | None:
        """Return the factory of functions that run conv blocks with a step's running statistics, or ``None``."""
        return None if self.step_statistics is None or self.training else self.step_statistics.block_runner

    def _log_once(self, engine: ChosenEngine) -> None:
        """Keep the engine of this call, and log :meth:`describe` at the first call."""
        self._history.engine = engine
        if self._history.logged:
            return
        self._history.logged = True
        unfused = (
            engine.name != "native" and requested_engine.get() is None and self.fusion is not None and self.fusion.left
        )
        level = logging.WARNING if unfused else logging.INFO
        if logger.isEnabledFor(level):
            logger.log(level, "%s", self.describe())

    def _describe_adapted(self) -> str:
        names, adapted = dict(self.model.named_parameters()), self.adapted
        others = [name for name in names if name not in adapted]
        share = f"{len(adapted)} of {len(names)} parameters"
        if not others or min(len(adapted), len(others)) > MAX_NAMED:
            return share
        return f"{share}: {', '.join(adapted) if len(adapted) <= MAX_NAMED else 'all but ' + ', '.join(others)}"

    def _describe_graph(self) -> list[str]:
        if not self.cuda_graph:
            return []
        now = "replayed" if self._graphed.is_captured else f"to be captured after {WARM_UP} calls of a kind"
        return [f"cuda graph: loss and meta-gradient, {now}"]

    def _adapted(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Return the parameters that adapt. Plain tensors, which ``functional_call`` may substitute, are not frozen."""
        chosen = ((name, parameters[name]) for name in self._chosen)
        return {name: each for name, each in chosen if each.requires_grad or not isinstance(each, nn.Parameter)}

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.annealing:
            destination[prefix + "meta_iterations"] = torch.tensor(self._history.iteration)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        iterations = state_dict.pop(prefix + "meta_iterations", None)
        if iterations is not None:
            self._history.iteration = int(iterations)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _check_inner_optimizer(name: str, value: Any) -> str | LearnedRule:
    if isinstance(value, LearnedRule) or (isinstance(value, str) and value in INNER_OPTIMIZERS):
        return value
    got = f"{shown(value)}, which is not a LearnedRule either"
    raise ValueError(f"{name} must be one of {', '.join(INNER_OPTIMIZERS)}; got {got}")


_SETTINGS: Mapping[str, Kind] = {
    "order": choice(1, 2, said="1 (first-order MAML) or 2"),
    "inner_steps": STEPS,
    "loss_fn": function("a function of logits and targets"),
    "metric": check_metric,
    "inner_optimizer": _check_inner_optimizer,
    "annealing": instance(Annealing),
    "task_chunk": TASK_CHUNK,
    "inner_memory": INNER_MEMORY,
    "cuda_graph": flag,
}


def _trainable(parameter: Tensor) -> Tensor:
    """Return the parameter, or a new leaf with its values if it is a plain tensor that requires no gradient."""
    transformed = torch._C._are_functorch_transforms_active()
    return parameter if parameter.requires_grad or transformed else parameter.detach().requires_grad_()


def _without(parameters: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in parameters.items() if name not in names}


def _are_ints(steps: Any) -> bool:
    """Return whether ``steps`` is a tuple of ints; other types, such as bool, can be equal to ints."""
    return isinstance(steps, tuple) and all(type(step) is int for step in steps)


def _describe_rate(rate: Rate) -> str:
    if not isinstance(rate, Tensor):
        return str(rate)
    return f"{'learnable ' if rate.requires_grad else ''}tensor {list(rate.shape)}"
