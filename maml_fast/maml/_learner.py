"""The base class of all meta-learners."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from maml_fast._arguments import flag, int_from, number, takes
from maml_fast.data._episodes import Episodes, check_episodes
from maml_fast.inner_loop._heads import N_CLASSES, Classifier
from maml_fast.inner_loop._task_forward import TaskForward
from maml_fast.inner_loop._values import MAMLOutput, TaskResults
from maml_fast.maml._arguments import (
    check_fast_weights,
    check_images,
    check_like_model,
    check_model,
    check_per_step,
)
from maml_fast.program import BATCH_NORM_POLICIES, FusionReport, InnerBatchNorm, with_its_own_tensors

__all__ = ["ITERATION", "Learner"]

ITERATION = int_from(0, 2**63 - 1)


class Learner(nn.Module, ABC):
    """Base class of meta-learners: learn from the support set of every task, then predict its query set.

    All tasks of a meta-batch are computed at once. A new algorithm is a subclass that implements the four abstract
    methods: :meth:`results_and_loss`, :meth:`task_results`, :meth:`adapt` and :meth:`predict`. Training, evaluation and
    run records work with any subclass.

    Attributes:
        model: the model that is meta-learned.
        batch_norm_policies: the batch-norm policies that the algorithm supports.
        never_captured: why training can't be captured as a CUDA graph; ``None`` if it can.
    """

    model: nn.Module
    batch_norm_policies: ClassVar[Collection[InnerBatchNorm]] = ("batch", "running")
    never_captured: ClassVar[str | None] = None

    def __init__(self, model: nn.Module, batch_norm: InnerBatchNorm, fused: bool) -> None:
        check_model(model, batch_norm, self.batch_norm_policies)
        super().__init__()
        self.model = model
        self._names = [name for name, _ in model.named_parameters()]
        self._batch_norm = batch_norm
        self._forward_tasks = TaskForward(
            model, "running" if batch_norm == "running" else "batch", flag("fused", fused)
        )

    @abstractmethod
    def results_and_loss(
        self, episodes: Episodes, *, per_step: bool | Collection[int] = False, inner_steps: int | None = None
    ) -> tuple[TaskResults, Tensor]:
        """Return the query results of every task, without a graph, and the loss of :meth:`forward`."""

    @abstractmethod
    def task_results(
        self, episodes: Episodes, *, per_step: bool | Collection[int] = False, inner_steps: int | None = None
    ) -> TaskResults:
        """Return the query results of every task; :meth:`forward` returns their means."""

    @abstractmethod
    def adapt(self, x_spt: Tensor, y_spt: Tensor, inner_steps: int | None = None) -> dict[str, Tensor]:
        """Learn from the support set of every task.

        Args:
            x_spt: support images, [T, N, ...].
            y_spt: support targets, [T, N, ...].
            inner_steps: number of inner steps; the learner's own by default.

        Returns:
            Tensors [T, ...] by name, which :meth:`predict` takes.
        """

    @abstractmethod
    def predict(self, fast: Mapping[str, Tensor], x_qry: Tensor) -> Tensor:
        """Return the logits of query images.

        Args:
            fast: the result of :meth:`adapt`.
            x_qry: images, [T, N, ...].

        Returns:
            Logits, [T, N, n_way].
        """

    def predict_by_support(self, fast: Mapping[str, Tensor], x_spt: Tensor, x_qry: Tensor) -> Tensor:
        """Return what :meth:`predict` returns, with batch norm by the statistics of the support images.

        The prediction for a query then does not depend on the other queries. If batch norm uses running statistics
        (the learner is not transductive), this is :meth:`predict` itself. Otherwise the model runs as it is written,
        one task after another, and its ``forward`` must call the same batch norms for any images.

        Args:
            fast: the result of :meth:`adapt`.
            x_spt: support images, [T, N, ...].
            x_qry: query images, [T, M, ...].

        Returns:
            Logits, [T, M, n_way].

        Raises:
            RuntimeError: the model calls other batch norms for the queries than for the support images.
        """
        if not self.is_transductive:
            return self.predict(fast, x_qry)
        parameters = self._current_parameters()
        check_images("x_spt", x_spt, parameters)
        check_images("x_qry", x_qry, parameters)
        check_fast_weights(fast, x_qry, parameters)
        check_fast_weights(fast, x_spt, parameters)
        shared = {name: parameter for name, parameter in parameters.items() if name not in fast}
        return self._forward_tasks.by_support(fast, shared, x_spt, x_qry)[1]

    @takes(n_classes=N_CLASSES)
    def for_classes(self, n_classes: int) -> Learner:
        """Return a learner for tasks with ``n_classes`` classes.

        It is the learner itself if its model has that many outputs, and a copy otherwise. The classifier of the copy
        has the first ``n_classes`` of the learned rows, repeated cyclically if there are too few.

        Raises:
            ValueError: the model does not end in a linear layer.
        """
        classifier = Classifier.of(self.model, f"for_classes({n_classes})")
        if n_classes == classifier.n_classes:
            return self
        resized = copy.deepcopy(self)
        classifier.resize(resized.model, n_classes)
        resized._resize_rows(classifier, n_classes)
        return resized

    def _resize_rows(self, classifier: Classifier, n_classes: int) -> None:
        """Resize everything else that has one row per class; ``classifier`` is the one before resizing."""

    def forward(
        self, episodes: Episodes, per_step: bool | Collection[int] = False, inner_steps: int | None = None
    ) -> MAMLOutput:
        """Learn from the support set of every task and score its query set.

        Args:
            episodes: x_spt [T, N, ...], y_spt [T, N, ...], x_qry [T, M, ...], y_qry [T, M, ...].
            per_step: whether to also record query losses and accuracies after every inner step, from step 0 (before
                adaptation) on. A collection of steps, such as ``(0, 1)``, records these and the last one. The records
                carry no graph.
            inner_steps: number of inner steps; the learner's own by default.

        Returns:
            The mean query loss, the query accuracy, and the records per step.

        Raises:
            TypeError, ValueError: the episodes are invalid (see :func:`maml_fast.data.check_episodes`), or not on the
                model's device or not in its dtype.
            RuntimeError: the support loss does not depend on any adapted parameter.
        """
        results, loss = self.results_and_loss(episodes, per_step=per_step, inner_steps=inner_steps)
        recorded = per_step if isinstance(per_step, bool) else bool(check_per_step(per_step))
        losses = results.losses.mean(dim=1) if recorded else None
        if results.correct is None or results.predictions is None:
            return MAMLOutput(loss, None, losses, None)
        accuracies = results.correct.sum(dim=1) / results.predictions.sum()
        return MAMLOutput(loss, accuracies[-1], losses, accuracies if recorded else None)

    @takes(iteration=ITERATION)
    def begin_iteration(self, iteration: int) -> None:
        """Set the number of the next meta-iteration, counted from 0; most learners do not use it."""

    def signature(self) -> Hashable:
        """Return the key under which a call may be captured as a CUDA graph.

        Calls with equal signatures run the same operations on the same memory.
        """
        modes = tuple(module.training for module in self.modules())
        parameters = tuple((id(p), p.data_ptr(), p.requires_grad) for p in self.parameters())
        return modes, parameters, tuple(buffer.data_ptr() for buffer in self.buffers())

    def moved_to_means(self) -> list[Tensor]:
        """Return the buffers that a training call moves toward a mean over its tasks; most learners have none."""
        return []

    @takes(meta_lr=number(least=0))
    def make_optimizer(self, meta_lr: float) -> torch.optim.Optimizer:
        """Return the outer optimizer that the algorithm was published with, with learning rate ``meta_lr``."""
        return torch.optim.Adam(self.parameters(), lr=meta_lr, fused=True)

    @property
    def is_transductive(self) -> bool:
        """Whether batch norm normalizes a query by the statistics of a batch that contains other queries."""
        return self._batch_norm in ("batch", "per_step")

    @property
    def batch_norm(self) -> str:
        """The batch-norm policy in words, for printing next to accuracies."""
        return BATCH_NORM_POLICIES[self._batch_norm]

    def engine_for(self, episodes: Episodes) -> str:
        """Return the engine that would compute a call on episodes like these: "native", "batched" or "loop"."""
        x_spt, _, x_qry, _ = self._checked_classes(episodes)
        programs = self._forward_tasks.programs(x_spt, x_qry)
        return "loop" if isinstance(programs, str) else "batched"

    @property
    def fusion(self) -> FusionReport | None:
        """Which parts of the model ran on the fused op in the last call, which did not, and why.

        ``None`` before the first call and with ``fused=False``.
        """
        return self._forward_tasks.report()

    def _current_parameters(self) -> dict[str, nn.Parameter]:
        with with_its_own_tensors(self.model):
            parameters = dict(self.model.named_parameters())
        if list(parameters) != self._names:
            different = sorted(set(parameters).symmetric_difference(self._names)) or "their order"
            name = type(self).__name__
            raise RuntimeError(
                f"the model's parameters have changed since {name} was made: {different}; make a new {name}"
            )
        return parameters

    def _checked_classes(self, episodes: Any) -> Episodes:
        """Return ``episodes`` after checking them as classification episodes for this model."""
        if isinstance(episodes, (tuple, list)) and len(episodes) == 4:
            check_like_model("x_spt", episodes[0], self._current_parameters())
        return check_episodes(episodes)
