"""Model-agnostic meta-learning (Finn, Abbeel & Levine 2017) for any module, with all tasks of a batch at once."""

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
from maml_fast.maml import _composed as composed
from maml_fast.maml._arguments import (
    STEPS,
    AdaptedChoice,
    check_fast_weights,
    check_head,
    check_images,
    check_like_model,
    check_support,
    scored_steps,
    select_parameters,
    steps_asked,
)
from maml_fast.maml._chunks import (
    INNER_MEMORY,
    TASK_CHUNK,
    InnerMemory,
    TaskChunk,
    steps_kept,
    tasks_at_once,
)
from maml_fast.maml._engines import Ran
from maml_fast.maml._graphed import WARM_UP, GraphedLoss
from maml_fast.maml._heads import (
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
from maml_fast.maml._inner_optimizers import INNER_OPTIMIZERS, InnerOptimizer, LearnedRule, Rule
from maml_fast.maml._inner_rates import (
    InnerRates,
    LearnInnerLR,
    Rate,
    check_broadcasts,
    check_learn_inner_lr,
    make_inner_lr,
    of_steps,
)
from maml_fast.maml._learner import ITERATION, Learner
from maml_fast.maml._losses import LossFunction
from maml_fast.maml._metric import IGNORED, Metric, check_metric, judge_of
from maml_fast.maml._plans import Plan, Plans, kinds, plan_of, results_of, surroundings
from maml_fast.maml._problem import Annealing, InnerProblem, Theta, step_of_queries
from maml_fast.maml._state import get_randomness, set_randomness
from maml_fast.maml._step_batch_norm import Collector, StepNorms, StepStatistics
from maml_fast.maml._task_forward import asked_engine
from maml_fast.maml._third_derivatives import ThirdDerivatives
from maml_fast.maml._values import FastWeights, MaybePerStep, TaskResults, at_step
from maml_fast.maml._watched_loss import WatchedLoss
from maml_fast.program import BATCH_NORM_POLICIES, InnerBatchNorm, RunBlock, Watch, is_per_step, names_of_head

__all__ = ["MAML"]

logger = logging.getLogger("maml_fast")

MOST_NAMED = 8  # parameters, in a line of describe()


@dataclass
class _Past:
    """What a learner remembers of its calls.

    iteration: of meta-training, for annealing.
    counts: by itself, until it is told the number.
    ran: what computed the last call.
    told: that was logged once.
    prepared_for: shapes of the episodes that the last native plan was made for.
    """

    iteration: int = 0
    counts: bool = True
    ran: Ran | None = None
    told: bool = False
    prepared_for: tuple[torch.Size, ...] = ()


class MAML(Learner):
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
        metric: which predictions are right: a function ``metric(logits [N, ...], targets [N, ...]) -> bool [...]`` of
            one task; ``"accuracy"``: those whose largest logit along dimension 1 is the label's; ``None``: nothing is
            judged. ``"auto"`` is accuracy under cross-entropy (``F.cross_entropy``, ``nn.CrossEntropyLoss``, partials
            of them) and ``None`` under any other loss. Ignored labels (-100, or ``ignore_index``) do not count.
        adapted: which parameters adapt: ``None`` all, ``"head"`` the last module with parameters (ANIL), ``"body"`` all
            others (BOIL), a list of names, prefixes and globs, or a function ``name -> bool``. What does not adapt is
            shared by the tasks and meta-learned. The first call on images tells whether the last module is what the
            output is computed with last, and raises a ValueError with the right names if it is not; a model that has no
            recording is taken at its word. :meth:`describe` names what was chosen.
        learn_inner_lr: meta-learn ``inner_lr`` too: one ``nn.Parameter``, or one per key or call of the function; with
            ``"per_step"`` each of them holds a rate for every one of the ``inner_steps`` (Antoniou et al. 2019), the
            last of which serves later steps too.
        batch_norm: ``"batch"`` normalizes by the batch's own statistics (transductive) whatever ``train()`` and
            ``eval()`` say; ``"running"`` by the model's stored running statistics. Neither updates them.
            ``"per_step"`` is ``"batch"`` with a scale and a shift for every one of the ``inner_steps``, meta-learned
            and shared by the tasks: the model's own, where they start, are left as they are. ``"per_step_running"``
            also keeps running statistics for every step, moved by each call in ``train()`` mode and normalized by in
            ``eval()`` mode; :meth:`predict` then takes the last step's.
        inner_optimizer: ``"sgd"``; ``"adam"`` from fresh memory for every task; or a
            :class:`maml_fast.LearnedRule`, whose parameters are meta-learned too, and which goes
            with ``inner_lr=None``.
        head: where the classifier of a task starts: the model's last linear layer, of a row for each class.
            ``"learned"``: every class has a learned row of its own. ``"zero"``: zeros (the zeroing trick, Kao et al.
            2022). ``"tied"``: one learned row for all classes (UNICORN-MAML, Ye & Chao 2022); under cross-entropy,
            where what is added to all logits alike changes nothing, that is the same as zeros. ``"proto"``: the
            prototypes of the task's support images, through which the meta-gradient flows (ProtoMAML, Triantafillou et
            al. 2020). All but the first leave the model's own rows aside and serve any number of classes: see
            :meth:`for_classes`. They need a classifier that adapts.
        first_order_iterations, multi_step_iterations: how order and loss are annealed early in meta-training, as
            :class:`maml_fast.Annealing` says. Calls in ``train()`` mode with gradients are counted, unless
            :meth:`begin_iteration` tells the number.
        fused: record the model, and run conv-BN-ReLU-pool on the fused op wherever it holds that; ``maml.fusion`` tells
            where. Otherwise it runs as it is written.
        task_chunk: how many tasks are held in memory at once. More go through chunk by chunk, each chunk's gradient
            taken and its graph freed before the next; the sum is the gradient of all at once, up to rounding, and
            dropout draws other numbers. ``"auto"`` is what fits in 96 MiB on the CPU and all on a GPU, ``None`` all
            tasks. :meth:`adapt` is never chunked, nor is :meth:`task_results` with gradients: the graph is what they
            give; nor is anything under the transforms of ``torch.func``.
        inner_memory: at order 2, how many inner steps' graphs are held in memory at once. Other steps are taken again
            on the way back, from weights that are kept at a few places: the same gradient, in 0.7 to 1.4 times the
            time, and memory grows with the logarithm of the steps alone. ``"auto"`` is as many as fit in 64 MiB for
            one task on the CPU, at least 5, and all on a GPU; ``None`` is all.
        cuda_graph: on a GPU, replay ``maml(episodes)`` and its meta-gradient as one CUDA graph, captured at the fourth
            of several like calls: inner loops, query loss and backward pass then take a few launches. The gradient
            comes with the loss, so that it can't be differentiated again. Python in ``model`` and ``loss_fn`` runs at
            the first calls alone. Calls without gradients run as ever.

    ``inner_steps``, ``order``, ``loss_fn``, ``metric``, ``annealing``, ``task_chunk``, ``inner_memory``, ``cuda_graph``
    and a fixed ``inner_lr`` are attributes that may be changed at any time.

    Raises:
        TypeError, ValueError: for an argument out of its range, names that match no parameter, or nothing to adapt.
    """

    inner_lr: Rate | InnerRates | None
    inner_optimizer: str | LearnedRule
    batch_norm_policies = tuple(BATCH_NORM_POLICIES)

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
        self._past = _Past()

    def __setattr__(self, name: str, value: Any) -> None:
        """Settings may be changed at any time, to what they might have been at first."""
        kind = _SETTINGS.get(name)
        if kind is not None:
            value = kind(name, value)
        if name == "inner_lr" and "_chosen" in vars(self):
            return self._change_inner_lr(value)
        return super().__setattr__(name, value)

    def results_and_loss(
        self, episodes: Episodes, *, per_step: bool | Collection[int] = False, inner_steps: int | None = None
    ) -> tuple[TaskResults, Tensor]:
        """The query results of every single task, without a graph, and the loss of :meth:`forward`."""
        if inner_steps is not None:
            inner_steps = STEPS("inner_steps", inner_steps)
        plan = self._plan(episodes, per_step, inner_steps)
        episodes = Episodes(*episodes)
        if self.cuda_graph and torch.is_grad_enabled():

            def of_graph(held: Episodes, stand_in: Callable[[Tensor], Tensor]) -> tuple[TaskResults, Tensor]:
                return self._loss_of(plan._replace(problem=plan.problem.at(stand_in)), held)

            results, loss = self._graphed((self.signature(), plan.scored, inner_steps), episodes, of_graph)
        else:
            results, loss = self._loss_of(plan, episodes)
        self._forward_tasks.last = plan.forward
        self._tell(plan.ran)
        if self._past.counts and self.training and torch.is_grad_enabled():
            self._past.iteration += 1
        return results, loss

    @takes(iteration=ITERATION)
    def begin_iteration(self, iteration: int) -> None:
        """Say which meta-iteration the next calls belong to, counted from 0: :attr:`annealing` goes by it.

        Whoever never says so is counted for: every call in ``train()`` mode with gradients is an iteration.
        """
        self._past.iteration, self._past.counts = iteration, False

    def signature(self) -> Hashable:
        """Equal at two calls if the same operations on the same memory do for both: what a CUDA graph rests on."""
        rate = self.inner_lr if isinstance(self.inner_lr, float | int) else None  # else it is among the tensors
        stage = self.annealing.stage(self._past.iteration)
        return super().signature(), self.inner_steps, self.order, stage, rate, self.task_chunk, self.inner_memory

    def moved_to_means(self) -> list[Tensor]:
        """Each step's running statistics."""
        return [] if self.step_statistics is None else list(self.step_statistics.buffers())

    def adapt(self, x_spt: Tensor, y_spt: Tensor, inner_steps: int | None = None) -> FastWeights:
        """Every task's adapted parameters ``{name: [T, ...]}`` from support images [T, N, ...] and targets [T, N, ...].

        They are differentiable; where gradients are switched off it still adapts, and returns plain tensors.
        """
        parameters = self._current_parameters()
        check_support(x_spt, y_spt)
        self._check_labels(y_spt)
        check_images("x_spt", x_spt, parameters)
        third = ThirdDerivatives()
        problem = third.of(self._on(self.problem(parameters, inner_steps), None, x_spt))
        fast = composed.adapt(problem, x_spt, y_spt)
        third.look(fast.values())
        return fast

    def predict(self, fast: Mapping[str, Tensor], x_qry: Tensor) -> Tensor:
        """Logits [T, N, n_way] of images [T, N, ...] under ``fast``; what it does not hold is taken from the model."""
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
        """The learner for tasks of so many classes: itself if its model has as many outputs, else a copy.

        With ``head="learned"`` the copy's classifier starts from the rows that were learned, and from the first on
        again where they are too few. So do inner rates of single weights, under any head.

        Raises:
            ValueError: the model does not end in a linear layer, or its learned rows do not adapt.
        """
        classifier = Classifier.of(self.model, f"for_classes({n_classes})")
        if n_classes != classifier.n_classes and classifier.weight not in self.adapted:
            raise ValueError(
                f"{classifier.weight} does not adapt: its {classifier.n_classes} learned rows serve as many classes, "
                f"and not {n_classes}; let the classifier adapt in training, best with head='zero' or 'proto'"
            )
        resized = super().for_classes(n_classes)
        assert isinstance(resized, MAML)
        return resized

    def task_results(
        self, episodes: Episodes, *, per_step: bool | Collection[int] = False, inner_steps: int | None = None
    ) -> TaskResults:
        """The query results of every single task, of which :meth:`forward` gives the means.

        With gradients the graph of all tasks is held at once, whatever ``task_chunk`` says.
        """
        parameters = self._current_parameters()
        problem = self.problem(parameters, inner_steps)
        scored = scored_steps(per_step, problem.steps)
        episodes = self._checked(episodes, parameters)
        chunk = None if torch.is_grad_enabled() else self.task_chunk
        problem = self._on(problem, chunk, episodes.x_spt, episodes.x_qry)
        results, ran = results_of(problem, episodes, scored, self.task_chunk)
        self._tell(ran)
        return results

    @property
    def adapted(self) -> tuple[str, ...]:
        """Names of the parameters that adapt: those chosen by ``adapted`` that are not frozen."""
        return tuple(self._adapted(self._current_parameters()))

    def engine_for(self, episodes: Episodes) -> str:
        """Which of :data:`maml_fast.maml._engines.ENGINES` a call on episodes like these would run on now."""
        return self._plan(episodes, False, None).ran.engine

    def describe(self) -> str:
        """What runs and how, in a few lines.

        Model and inner loop are the last call's: the model is recorded when it is first called on images of a kind. The
        inner loop is native where model and loss are made of operations that the kernels have, and nobody asks for the
        graph.

        The lines of the first call are also logged, by the logger ``maml_fast``: as WARNING, which Python shows unless
        told otherwise, where something did not fuse, else as INFO.
        """
        is_native = self._past.ran is not None and self._past.ran.engine == "native"
        lines = [
            f"{type(self).__name__} of {type(self.model).__name__}: order {self.order}, {self.inner_steps} inner steps",
            f"adapted: {self._describe_adapted()}",
            f"batch norm: {self.batch_norm}",
            f"head: {HEADS[self._head]}",
            f"forward: {self._forward_tasks.describe(is_native)}",
            *(self._past.ran.describe() if self._past.ran is not None else ()),
            *self._describe_graph(),
        ]
        if self.fusion is None or (is_native and not self.fusion.fused):
            return "\n".join(lines)
        return "\n".join([*lines, *str(self.fusion).splitlines()[1:]])  # its first line is the batch norm again

    def extra_repr(self) -> str:
        """The settings; PyTorch adds the model."""
        rate = "" if isinstance(self.inner_lr, InnerRates | None) else f"inner_lr={_plain(self.inner_lr)}, "
        return f"{rate}inner_steps={self.inner_steps}, order={self.order}, batch_norm={self.batch_norm}"

    def _plan(self, episodes: Episodes, per_step: bool | Collection[int], inner_steps: int | None) -> Plan:
        """What computes a call's results and loss; raises unless the episodes are as they must be."""
        key = self._key(episodes, per_step, inner_steps)
        plan = self._plans.get(key)
        if plan is not None:
            if plan.native is None and episodes[0].is_cpu:  # the native engine looks at values itself
                checks.check_values(Episodes(*episodes), None, self._has_classes(episodes[1]), IGNORED)
                self._check_labels(episodes[1])
            return plan
        scored = scored_steps(per_step, steps_asked(inner_steps, self.inner_steps))
        parameters = self._current_parameters()
        episodes = self._checked(episodes, parameters)
        problem = self.problem(parameters, inner_steps, objective=True)
        problem = self._on(problem, self.task_chunk, episodes.x_spt, episodes.x_qry)
        if self.step_statistics is not None:
            problem = replace(problem, blocks=self.step_statistics.given)
        plan = plan_of(problem, episodes, scored, self.task_chunk)
        holds_rows = plan.native is not None and problem.start is not None  # which are made of others
        if key is not None and not holds_rows and all(isinstance(each, nn.Parameter) for each in parameters.values()):
            self._plans.keep(key, plan)
        if plan.native is not None and self._past.prepared_for != (shapes := tuple(x.shape for x in episodes)):
            native.give_back_memory()  # what recording took, and the kernels will not need
            self._past.prepared_for = shapes
        return plan

    def _key(self, episodes: Any, per_step: Any, inner_steps: Any) -> Hashable | None:
        """All that a plan follows from; ``None`` where that can't be told."""
        watch = self._forward_tasks.watch()
        if (
            watch is None
            or not isinstance(episodes, tuple | list)
            or not all(isinstance(x, Tensor) for x in episodes)
            or not (isinstance(per_step, bool) or _are_whole(per_step))
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
        rate = self.inner_lr if isinstance(self.inner_lr, float) else None  # else it is among these
        stage = self.annealing.stage(self._past.iteration) if self.annealing else None
        metric = self.metric if isinstance(self.metric, str | None) else id(self.metric)
        loss = (None, True) if self.loss_fn is F.cross_entropy else self._loss.seen(self.loss_fn)
        return (
            (watch, self.training, self.order, self.inner_steps, rate, stage, self.task_chunk, self.inner_memory),
            (id(self.loss_fn), loss, metric, self.inner_optimizer, per_step, inner_steps),
            (*map(id, tensors), *kinds(tensors), *kinds(episodes), *surroundings()),
        )

    def _has_classes(self, targets: Any) -> bool:
        """Whether a task's targets are numbers of classes, and not, say, those of pixels."""
        return self.loss_fn is F.cross_entropy and getattr(targets, "ndim", 2) == 2

    def _loss_of(self, plan: Plan, episodes: Episodes) -> tuple[TaskResults, Tensor]:
        if self.step_statistics is None or not self.training:
            return plan.loss(episodes)
        collector = Collector(self.step_statistics)
        results = plan._replace(problem=replace(plan.problem, blocks=collector.taking)).loss(episodes)
        collector.update()
        return results

    def _on(self, problem: InnerProblem, chunk: TaskChunk, *inputs: Tensor) -> InnerProblem:
        """The problem for images like these [T, N, ...], so many tasks in memory at once."""
        problem = problem.on(*inputs)
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
        """Raise unless the layer whose rows are given is what the model's output is computed last with."""
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
        parameters, found = at_step({**theta.shared, **theta.adapted}, 0), list[Tensor]()
        with torch.no_grad():
            for rows in (
                start.looking_through(x_spt),
                {name: parameters[name] for name in start.classifier.names},
            ):
                fast = {name: each[None] for name, each in rows.items()}
                found += self._forward_tasks(fast, _without(parameters, fast), x_spt[:1])
                set_randomness(randomness)  # the same dropout, and none of it for others to miss
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
        self._keep_inner_lr(self._made_rates(inner_lr, bool(learn)))

    def _change_inner_lr(self, inner_lr: Any) -> None:
        """Another fixed rate in the place of a fixed one, or a parameter as it is."""
        if isinstance(self.inner_optimizer, LearnedRule):
            raise ValueError(f"a LearnedRule has no learning rate: inner_lr can't become {shown(inner_lr)}")
        if not isinstance(inner_lr, nn.Parameter | InnerRates):
            self._rate_steps = None
            inner_lr = self._made_rates(inner_lr, learnable=False)
        self._keep_inner_lr(inner_lr)

    def _made_rates(self, inner_lr: Any, learnable: bool) -> Rate | InnerRates:
        parameters = self._current_parameters()
        adapted = self._adapted(parameters)
        frozen = {name: parameters[name] for name in self._chosen if name not in adapted}
        return make_inner_lr(inner_lr, adapted, frozen, learnable, self._rate_steps)

    def _keep_inner_lr(self, rate: Rate | InnerRates) -> None:
        for place in (vars(self), self._parameters, self._buffers, self._modules):
            place.pop("inner_lr", None)
        if isinstance(rate, Tensor) and not isinstance(rate, nn.Parameter):
            self.register_buffer("inner_lr", rate)
        else:
            nn.Module.__setattr__(self, "inner_lr", cast("Any", rate))

    def _rule(self, adapted: Collection[str]) -> tuple[Rule, Callable[[Rule], InnerOptimizer]]:
        """What the inner optimizer knows, and what makes one of it."""
        learned = self.inner_optimizer
        if isinstance(learned, LearnedRule):
            return dict(learned.named_parameters()), learned.begin
        return {name: self._rate_of(name) for name in adapted}, INNER_OPTIMIZERS[learned]

    def _rate_of(self, name: str) -> MaybePerStep[Rate]:
        if isinstance(self.inner_lr, InnerRates):
            return self.inner_lr.rate_of(name)
        assert self.inner_lr is not None
        return self.inner_lr if self._rate_steps is None else of_steps(self.inner_lr, self._rate_steps)

    def _without_norms(self, names: tuple[str, ...]) -> tuple[str, ...]:
        of_steps = self.step_norms.names if self.step_norms is not None else ()
        adapting = tuple(name for name in names if name not in of_steps)
        if not adapting:
            raise ValueError(f"nothing is left to adapt: of {', '.join(names)} every step has its own; widen adapted")
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
        """Raise unless the classifier can start from a support set of these; on a GPU a look would take long."""
        transformed = torch._C._are_functorch_transforms_active()
        if isinstance(self._start, PrototypeRows) and y_spt.is_cpu and not transformed:
            self._start.check_labels(y_spt)

    def problem(
        self, parameters: Mapping[str, nn.Parameter], inner_steps: int | None, *, objective: bool = False
    ) -> InnerProblem:
        """What a call is to compute from these parameters of the model; an algorithm may change it.

        With ``objective`` it is the meta-objective that counts, and not only where adaptation leads.
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
        steps = steps_asked(inner_steps, self.inner_steps)
        order, weights = self.order, None
        if self.training:
            order = self.annealing.order(self._past.iteration, self.order)
            weights = self.annealing.step_weights(self._past.iteration, steps) if objective else None
        return InnerProblem(
            theta,
            self._forward_tasks,
            self.loss_fn,
            steps,
            order,
            optimizer,
            judge=judge_of(self.metric, self.loss_fn),
            step_weights=weights,
            blocks=self._blocks(),
            watched_loss=self._loss,
            is_closed=self._loss.is_closed(self.loss_fn),
            start=self._start,
        )

    def _blocks(self) -> Callable[[int], RunBlock] | None:
        """What runs every step's conv blocks by its statistics, where these are to be taken."""
        return None if self.step_statistics is None or self.training else self.step_statistics.given

    def _tell(self, ran: Ran) -> None:
        """Keep what ran, and log it once."""
        self._past.ran = ran
        if self._past.told:
            return
        self._past.told = True
        unfused = ran.engine != "native" and asked_engine.get() is None and self.fusion is not None and self.fusion.left
        level = logging.WARNING if unfused else logging.INFO
        if logger.isEnabledFor(level):
            logger.log(level, "%s", self.describe())

    def _describe_adapted(self) -> str:
        names, adapted = dict(self.model.named_parameters()), self.adapted
        others = [name for name in names if name not in adapted]
        share = f"{len(adapted)} of {len(names)} parameters"
        if not others or min(len(adapted), len(others)) > MOST_NAMED:
            return share
        return f"{share}: {', '.join(adapted) if len(adapted) <= MOST_NAMED else 'all but ' + ', '.join(others)}"

    def _describe_graph(self) -> list[str]:
        if not self.cuda_graph:
            return []
        now = "replayed" if self._graphed.is_captured else f"to be captured after {WARM_UP} calls of a kind"
        return [f"cuda graph: loss and meta-gradient, {now}"]

    def _adapted(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Those that are not frozen. Plain tensors, which ``functional_call`` may put in their place, are not."""
        chosen = ((name, parameters[name]) for name in self._chosen)
        return {name: each for name, each in chosen if each.requires_grad or not isinstance(each, nn.Parameter)}

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.annealing:
            destination[prefix + "meta_iterations"] = torch.tensor(self._past.iteration)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        iterations = state_dict.pop(prefix + "meta_iterations", None)
        if iterations is not None:
            self._past.iteration = int(iterations)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _check_inner_optimizer(name: str, value: Any) -> str | LearnedRule:
    if isinstance(value, LearnedRule) or (isinstance(value, str) and value in INNER_OPTIMIZERS):
        return value
    got = f"{shown(value)}, which is no LearnedRule either"
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
    """A plain tensor, in the place of a parameter, as a leaf that nobody else has."""
    transformed = torch._C._are_functorch_transforms_active()
    return parameter if parameter.requires_grad or transformed else parameter.detach().requires_grad_()


def _without(parameters: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in parameters.items() if name not in names}


def _are_whole(steps: Any) -> bool:
    """Whether it is a tuple of numbers that nothing else is equal to."""
    return isinstance(steps, tuple) and all(type(step) is int for step in steps)


def _plain(rate: Rate) -> str:
    if not isinstance(rate, Tensor):
        return str(rate)
    return f"{'learnable ' if rate.requires_grad else ''}tensor {list(rate.shape)}"
