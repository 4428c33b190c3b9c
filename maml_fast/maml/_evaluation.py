"""Accuracy of a meta-learned model on many episodes, with its interval, after every inner step."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from maml_fast._arguments import choice, optional, takes, whole
from maml_fast.data import _checks as checks
from maml_fast.data._episodes import Episodes, check_episodes
from maml_fast.maml._arguments import STEPS
from maml_fast.maml._learner import Learner
from maml_fast.maml._losses import score_classes
from maml_fast.maml._metric import IGNORED
from maml_fast.maml._support_norms import SUPPORT_POLICY
from maml_fast.maml._values import TaskResults

__all__ = ["EvaluationResult", "Scores", "Statistics", "evaluate", "evaluation_mode", "result_of", "scores_of"]

Statistics: TypeAlias = Literal["own", "support"]


@dataclass(frozen=True)
class EvaluationResult:
    """Means over episodes, as shares of 1, and the half-width of their 95 % interval.

    An interval is 1.96 * s / sqrt(n) for n episodes of sample standard deviation s (``ddof=1``), as in Finn et al.
    2017; it is NaN for a single episode. Accuracies and their intervals are ``None`` where the targets are not classes.
    By the support set's statistics there are those after the last step alone.
    """

    accuracy: float | None  # after the last inner step
    interval: float | None
    accuracies: tuple[float, ...] | None  # after every step from step 0 on, [inner_steps+1]
    intervals: tuple[float, ...] | None
    losses: tuple[float, ...]  # mean query loss after every step
    loss_intervals: tuple[float, ...]
    n_episodes: int
    inner_steps: int
    batch_norm: str  # the policy in words

    def __str__(self) -> str:
        return f"{self._score()}, {self.inner_steps} inner steps, batch norm: {self.batch_norm}"

    def _score(self) -> str:
        if self.accuracy is None or self.interval is None:
            score, half_width, unit = f"loss {self.losses[-1]:.4f}", f"{self.loss_intervals[-1]:.4f}", ""
        else:
            score, half_width, unit = f"accuracy {100 * self.accuracy:.2f}", f"{100 * self.interval:.2f}", " %"
        if self.n_episodes == 1:
            return f"{score}{unit} (no interval from 1 episode)"
        return f"{score} ± {half_width}{unit} (95 % interval, 1.96 s/√n), {self.n_episodes} episodes"


@takes(n_episodes=whole(1), inner_steps=optional(STEPS), batch_norm=choice("own", "support"))
def evaluate(
    maml: Learner,
    sampler: Iterable[Episodes],
    n_episodes: int = 600,
    inner_steps: int | None = None,
    *,
    batch_norm: Statistics = "own",
) -> EvaluationResult:
    """Adapt to exactly ``n_episodes`` episodes of ``sampler`` and score their query sets after every inner step.

    Neither the model's state nor its gradients nor its mode change; dropout is off meanwhile. Batches are moved to the
    model's device and floating-point type. ``inner_steps`` may differ from the training's (Finn tests with more).

    Queries are normalized as the learner's own policy says, or with ``batch_norm="support"`` by the statistics of the
    support set alone: every query is predicted as if it were the only one, which is how a deployed model sees it. That
    is for classes, and for learners whose own policy is transductive.

    Raises:
        TypeError, ValueError: for what is no meta-learner or no sampler, fewer than one episode, or a sampler that ends
            early; for ``batch_norm="support"``, where batch norm has running statistics already.
    """
    if not isinstance(maml, Learner):
        kind = type(maml).__name__
        raise TypeError(f"maml must be a MAML or another meta-learner, got {kind}; wrap the model: MAML(model, ...)")
    if not isinstance(sampler, Iterable) or isinstance(sampler, Tensor):
        raise TypeError(f"sampler must be an iterable of episodes, got {type(sampler).__name__}")
    if batch_norm == "support" and not maml.is_transductive:
        raise ValueError(
            f"batch_norm='support' is for a learner whose batch norm has no running statistics; this one takes "
            f"{maml.batch_norm}: leave it out"
        )
    return result_of([scores_of(maml, sampler, n_episodes, inner_steps, batch_norm)])


class Scores(NamedTuple):
    """Of some episodes, after every step from 0 on, or after the last alone: float64 [steps, episodes] on the CPU."""

    losses: Tensor
    accuracies: Tensor | None
    inner_steps: int
    batch_norm: str  # the policy in words


def scores_of(
    maml: Learner,
    sampler: Iterable[Episodes],
    n_episodes: int,
    inner_steps: int | None,
    batch_norm: Statistics = "own",
) -> Scores:
    """Those of exactly so many episodes of a sampler, as :func:`evaluate` says."""
    by_support = batch_norm == "support"
    losses, accuracies = [], []
    with torch.no_grad(), evaluation_mode(maml):
        for batch in _exactly(n_episodes, sampler):
            batch = _like_the_model(batch, maml)
            if by_support:
                results = _by_support(maml, batch, inner_steps)
            else:
                results = maml.task_results(batch, per_step=True, inner_steps=inner_steps)
            losses.append(results.losses.double())  # [steps, T]
            if results.accuracies is not None:
                accuracies.append(results.accuracies)
    return Scores(
        losses=torch.cat(losses, dim=1).cpu(),
        accuracies=torch.cat(accuracies, dim=1).cpu() if accuracies else None,
        inner_steps=_steps_of(maml, inner_steps) if by_support else len(losses[0]) - 1,
        batch_norm=SUPPORT_POLICY if by_support else maml.batch_norm,
    )


def result_of(parts: Sequence[Scores]) -> EvaluationResult:
    """The means over all episodes of these parts, in their order; the parts differ in nothing but their episodes."""
    accuracies = [part.accuracies for part in parts if part.accuracies is not None]
    mean_accuracies, intervals = _means(accuracies) if accuracies else (None, None)
    mean_losses, loss_intervals = _means([part.losses for part in parts])
    return EvaluationResult(
        accuracy=mean_accuracies[-1] if mean_accuracies else None,
        interval=intervals[-1] if intervals else None,
        accuracies=mean_accuracies,
        intervals=intervals,
        losses=mean_losses,
        loss_intervals=loss_intervals,
        n_episodes=sum(part.losses.shape[1] for part in parts),
        inner_steps=parts[0].inner_steps,
        batch_norm=parts[0].batch_norm,
    )


def _by_support(maml: Learner, batch: Episodes, inner_steps: int | None) -> TaskResults:
    """The query results after the last step, each query by itself."""
    x_spt, y_spt, x_qry, y_qry = check_episodes(batch, ignored=IGNORED)
    fast = maml.adapt(x_spt, y_spt, inner_steps=inner_steps)
    return score_classes(maml.predict_by_support(fast, x_spt, x_qry), y_qry, "y_qry")


def _steps_of(maml: Learner, inner_steps: int | None) -> int:
    """0 for what has none."""
    own = getattr(maml, "inner_steps", None)
    return 0 if own is None else own if inner_steps is None else inner_steps


def _means(parts: Sequence[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and half-width of the 95 % interval over the episodes, for every step."""
    values = torch.cat(list(parts), dim=1)  # [steps, episodes]
    n = values.shape[1]
    if n == 1:
        return tuple(values[:, 0].tolist()), (math.nan,) * len(values)
    return tuple(values.mean(dim=1).tolist()), tuple((1.96 * values.std(dim=1) / math.sqrt(n)).tolist())


def _exactly(episodes: int, sampler: Iterable[Episodes]) -> Iterator[Episodes]:
    left, batches = episodes, iter(sampler)
    with ExitStack() as stack:
        if isinstance(batches, Generator):  # left to the collector, its end would swallow a Ctrl-C
            stack.callback(batches.close)
        for batch in batches:
            if not isinstance(batch, (tuple, list)) or len(batch) != 4:
                raise TypeError(f"sampler must give episodes of four tensors each, got {type(batch).__name__}")
            checks.check_tensors(batch, Episodes._fields)
            taken = Episodes(*(tensor[:left] for tensor in batch))
            left -= taken.x_spt.shape[0]
            yield taken
            if left == 0:
                return
    raise ValueError(f"the sampler ended after {episodes - left} of {episodes} episodes")


def _like_the_model(batch: Episodes, maml: Learner) -> Episodes:
    like = next(parameter for _, parameter in maml.model.named_parameters() if parameter.is_floating_point())
    return batch.to(like.device, like.dtype)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Inside this context a module is in ``eval()`` mode, and afterwards each part in its own again."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training
