"""What every meta-learner is: a model, trained on episodes, that makes something of a support set."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from maml_fast._arguments import flag, number, takes, whole
from maml_fast.data._episodes import Episodes, check_episodes
from maml_fast.maml._arguments import (
    check_fast_weights,
    check_images,
    check_like_model,
    check_model,
    check_per_step,
)
from maml_fast.maml._heads import N_CLASSES, Classifier
from maml_fast.maml._task_forward import TaskForward
from maml_fast.maml._values import MAMLOutput, TaskResults
from maml_fast.program import BATCH_NORM_POLICIES, FusionReport, InnerBatchNorm, with_its_own_tensors

__all__ = ["ITERATION", "Learner"]

ITERATION = whole(0, 2**63 - 1)


class Learner(nn.Module, ABC):
    """A model that learns from every task's support set and is judged on its query set, all tasks at once.

    A new algorithm is a subclass with four methods, the abstract ones below; training, evaluation and records take any.
    """

    model: nn.Module
    batch_norm_policies: ClassVar[Collection[InnerBatchNorm]] = ("batch", "running")  # that it can follow
    never_captured: ClassVar[str | None] = None  # why training can't be a CUDA graph; None: it can

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
        """The query results of every single task, without a graph, and the loss of :meth:`forward`."""

    @abstractmethod
    def task_results(
        self, episodes: Episodes, *, per_step: bool | Collection[int] = False, inner_steps: int | None = None
    ) -> TaskResults:
        """The query results of every single task, of which :meth:`forward` gives the means."""

    @abstractmethod
    def adapt(self, x_spt: Tensor, y_spt: Tensor, inner_steps: int | None = None) -> dict[str, Tensor]:
        """What becomes of support images [T, N, ...] and targets [T, N, ...], for :meth:`predict`: [T, ...] by name."""

    @abstractmethod
    def predict(self, fast: Mapping[str, Tensor], x_qry: Tensor) -> Tensor:
        """Logits [T, N, n_way] of images [T, N, ...] under what :meth:`adapt` made."""

    def predict_by_support(self, fast: Mapping[str, Tensor], x_spt: Tensor, x_qry: Tensor) -> Tensor:
        """:meth:`predict`, each query by itself: batch norm takes the statistics of the support images [T, N, ...].

        Where batch norm has running statistics already, it takes those, as ever. Otherwise the model runs as it is
        written, task by task; its ``forward`` must call the same batch norms for any images.
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
        """The learner for tasks of so many classes: itself if its model has as many outputs, else a copy.

        The copy's classifier has the rows that were learned, and from the first on again where they are too few.

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
        """Resize what else has a row for each class; ``classifier`` is what the model had before."""

    def forward(
        self, episodes: Episodes, per_step: bool | Collection[int] = False, inner_steps: int | None = None
    ) -> MAMLOutput:
        """Learn from every task of ``episodes`` and score its query set.

        Args:
            episodes: x_spt [T, N, ...], y_spt [T, N, ...], x_qry [T, M, ...], y_qry [T, M, ...].
            per_step: record the query losses and accuracies after every step from 0 on, without their graphs; or after
                the last step and those given: ``(0, 1)``.
            inner_steps: in place of those given at construction.

        Raises:
            TypeError, ValueError: for bad episodes, as :func:`maml_fast.data.check_episodes` says it, or such
                as are not on the model's device or not in its precision.
            RuntimeError: if the support loss does not depend on any adapted parameter.
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
        """Tell the learner which meta-iteration of its training is next, from 0 on; most do not mind."""

    def signature(self) -> Hashable:
        """Equal at two calls if the same operations on the same memory do for both: what a CUDA graph rests on."""
        modes = tuple(module.training for module in self.modules())
        parameters = tuple((id(p), p.data_ptr(), p.requires_grad) for p in self.parameters())
        return modes, parameters, tuple(buffer.data_ptr() for buffer in self.buffers())

    def moved_to_means(self) -> list[Tensor]:
        """Buffers that a training call moves towards a mean over its tasks; most learners have none."""
        return []

    @takes(meta_lr=number(least=0))
    def make_optimizer(self, meta_lr: float) -> torch.optim.Optimizer:
        """The outer optimizer that the algorithm is published with."""
        return torch.optim.Adam(self.parameters(), lr=meta_lr, fused=True)

    @property
    def is_transductive(self) -> bool:
        """Whether batch norm normalizes a query by a batch that other queries are in."""
        return self._batch_norm in ("batch", "per_step")

    @property
    def batch_norm(self) -> str:
        """The batch-norm policy in words, to be printed beside every accuracy."""
        return BATCH_NORM_POLICIES[self._batch_norm]

    def engine_for(self, episodes: Episodes) -> str:
        """Which of :data:`maml_fast.maml._engines.ENGINES` a call on episodes like these would run on now."""
        x_spt, _, x_qry, _ = self._checked_classes(episodes)
        programs = self._forward_tasks.programs(x_spt, x_qry)
        return "loop" if isinstance(programs, str) else "batched"

    @property
    def fusion(self) -> FusionReport | None:
        """What of the model ran on the fused op in the last call, and what did not and why.

        ``None`` before the first call, and with ``fused=False``.
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
        """Episodes of classes, like the model."""
        if isinstance(episodes, (tuple, list)) and len(episodes) == 4:
            check_like_model("x_spt", episodes[0], self._current_parameters())
        return check_episodes(episodes)
