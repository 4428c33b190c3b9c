"""Reptile: move toward the weights that plain training on a task leads to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from maml_fast import ops
from maml_fast._arguments import int_from, number, takes
from maml_fast.algorithms._inner_adam import AdamMemory, InnerAdam
from maml_fast.data._episodes import Episodes
from maml_fast.inner_loop._gradient import loss_with_gradient
from maml_fast.inner_loop._heads import Classifier
from maml_fast.inner_loop._losses import score_classes
from maml_fast.inner_loop._values import FastWeights
from maml_fast.inner_loop._walk import task_gradients
from maml_fast.maml import Learner, TaskResults
from maml_fast.maml._arguments import (
    STEPS,
    check_fast_weights,
    check_images,
    check_per_step,
    check_support,
    resolve_steps,
    scored_steps,
)
from maml_fast.program import BatchNormPolicy

__all__ = ["Reptile"]


class Reptile(Learner):
    """θ ← θ + ε · mean(φ - θ), with φ the weights after ``inner_steps`` of training on a task (Nichol et al. 2018).

    The meta-gradient is θ - mean φ, for plain SGD with learning rate ε: see :meth:`make_optimizer`. There is no query
    set in training: a task trains on all of its images, in minibatches, and ``loss`` and ``query_accuracy`` are those
    of the last minibatch before its step. The inner optimizer is Adam with β1 = 0, as in the authors' code. Adam's
    state is carried on: in the authors' code from task to task, here from meta-batch to meta-batch, as the mean over
    tasks.

    Args:
        model: any module from images [N, ...] to logits [N, n_way].
        inner_lr: learning rate of the inner Adam.
        inner_steps: number of minibatches, and so of inner steps, per task.
        inner_batch: images per minibatch; all images of the task if it has fewer.
        batch_norm, fused: as for :class:`maml_fast.MAML`.

    Raises:
        TypeError, ValueError: for an argument out of its range.
    """

    never_captured = "Reptile draws its minibatches and counts its steps on the CPU"

    @takes(inner_lr=number(above=0), inner_steps=STEPS, inner_batch=int_from(1))
    def __init__(
        self,
        model: nn.Module,
        *,
        inner_lr: float = 1e-3,
        inner_steps: int = 5,
        inner_batch: int = 10,
        batch_norm: BatchNormPolicy = "batch",
        fused: bool = True,
    ) -> None:
        super().__init__(model, batch_norm, fused)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.inner_batch = inner_batch
        self.adam = AdamMemory(self._trained())

    def results_and_loss(
        self, episodes: Episodes, *, per_step: bool | Collection[int] = False, inner_steps: int | None = None
    ) -> tuple[TaskResults, Tensor]:
        """Return the results on the last minibatch and their mean loss, whose gradient is θ - mean φ."""
        x_spt, y_spt, x_qry, y_qry = self._checked_classes(episodes)
        check_per_step(per_step)
        x, y = torch.cat([x_spt, x_qry], dim=1), torch.cat([y_spt, y_qry], dim=1)  # [T, N, ...]
        *_, training = self._train(x, y, resolve_steps(inner_steps, self.inner_steps), torch.randperm)
        if training.last is None:
            raise ValueError("Reptile needs at least 1 inner step, got inner_steps=0")
        self.adam.update_from(training.adam)
        theta = self._trained()
        gradients: dict[Tensor, Tensor] = {
            weight: (weight - training.fast[name].mean(dim=0)).detach() for name, weight in theta.items()
        }
        return training.last, loss_with_gradient(training.last.losses[-1].mean(), gradients)

    @torch.no_grad()
    def task_results(
        self, episodes: Episodes, *, per_step: bool | Collection[int] = False, inner_steps: int | None = None
    ) -> TaskResults:
        """Return the query results after training on the support set, without a graph; Adam's state is not changed."""
        x_spt, y_spt, x_qry, y_qry = self._checked_classes(episodes)
        steps = resolve_steps(inner_steps, self.inner_steps)
        scored = scored_steps(per_step, steps)
        trainings = enumerate(self._train(x_spt, y_spt, steps))
        scores = [self._score(training.fast, x_qry, y_qry, "y_qry") for step, training in trainings if step in scored]
        correct = [score.correct for score in scores if score.correct is not None]
        return TaskResults(torch.cat([score.losses for score in scores]), torch.cat(correct), scores[-1].predictions)

    def adapt(self, x_spt: Tensor, y_spt: Tensor, inner_steps: int | None = None) -> FastWeights:
        """Return every task's weights after training on its support set, without a graph."""
        check_support(x_spt, y_spt)
        check_images("x_spt", x_spt, self._current_parameters())
        *_, training = self._train(x_spt, y_spt, resolve_steps(inner_steps, self.inner_steps))
        return training.fast

    def predict(self, fast: Mapping[str, Tensor], x_qry: Tensor) -> Tensor:
        """Return logits [T, M, n_way] of images [T, M, ...] under each task's weights."""
        parameters = self._current_parameters()
        check_images("x_qry", x_qry, parameters)
        check_fast_weights(fast, x_qry, parameters)
        return self._logits(fast, x_qry)

    def moved_to_means(self) -> list[Tensor]:
        """Return the mean squared gradients of the inner Adam."""
        return self.adam.squares()

    @takes(meta_lr=number(least=0))
    def make_optimizer(self, meta_lr: float) -> torch.optim.Optimizer:
        """Return plain SGD, which turns Reptile's meta-gradient into Reptile's step."""
        return torch.optim.SGD(self.parameters(), lr=meta_lr, fused=True)

    def _resize_rows(self, classifier: Classifier, n_classes: int) -> None:
        self.adam.resize(classifier.names, n_classes)

    def extra_repr(self) -> str:
        """Return the settings; PyTorch adds the model."""
        return f"inner_lr={self.inner_lr}, inner_steps={self.inner_steps}, inner_batch={self.inner_batch}"

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in self._current_parameters().items() if weight.requires_grad}

    def _train(
        self, x: Tensor, y: Tensor, steps: int, order: Callable[[int], Tensor] = torch.arange
    ) -> Iterator[_Training]:
        """Yield the tasks before training on x [T, N, ...] and after every step, always as the same object.

        ``order(N)`` gives the order of a pass over the images. Evaluation keeps the default, the order that they are
        in, so that it draws no random numbers.
        """
        fast = {name: ops.over_tasks(weight.detach(), len(x)) for name, weight in self._trained().items()}
        training = _Training(fast, InnerAdam(self.adam))
        yield training
        for indices in _minibatches(x.shape[1], min(self.inner_batch, x.shape[1]), steps, order):
            self._step(training, x[:, indices], y[:, indices])
            yield training

    def _step(self, training: _Training, x: Tensor, y: Tensor) -> None:
        def losses(at: FastWeights) -> Tensor:
            score = self._score(at, x, y, "y_spt")
            training.last = score.detached()
            return score.losses[0]

        _, gradients = task_gradients(losses, training.fast, second_order=False)
        training.fast = training.adam.step(training.fast, gradients, self.inner_lr)

    def _score(self, fast: Mapping[str, Tensor], x: Tensor, y: Tensor, what: str) -> TaskResults:
        return score_classes(self._logits(fast, x), y, what)

    def _logits(self, fast: Mapping[str, Tensor], x: Tensor) -> Tensor:
        frozen = {name: weight for name, weight in self._current_parameters().items() if name not in fast}
        return self._forward_tasks(fast, frozen, x)


class _Training:
    """The state of training: the tasks' weights [T, ...], their Adam, and the results on the last minibatch."""

    def __init__(self, fast: FastWeights, adam: InnerAdam) -> None:
        self.fast, self.adam = fast, adam
        self.last: TaskResults | None = None


def _minibatches(n_images: int, size: int, steps: int, order: Callable[[int], Tensor]) -> Iterator[Tensor]:
    """Yield the indices of ``steps`` minibatches, drawing a new order of all images whenever one is used up."""
    left = order(n_images)
    for _ in range(steps):
        if len(left) < size:
            left = torch.cat([left, order(n_images)])
        yield left[:size]
        left = left[size:]
