"""Evaluation on many episodes: accuracies and losses after every inner step, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from maml_fast._arguments import choice, int_from, optional, takes
from maml_fast.data import _checks as checks
from maml_fast.data._episodes import Episodes, check_episodes
from maml_fast.inner_loop._losses import score_classes
from maml_fast.inner_loop._metric import IGNORED
from maml_fast.inner_loop._support_norms import SUPPORT_POLICY
from maml_fast.inner_loop._values import TaskResults
from maml_fast.maml._arguments import STEPS
from maml_fast.maml._learner import Learner

__all__ = ["EvaluationResult", "Scores", "Statistics", "evaluate", "evaluation_mode", "result_of", "scores_of"]

Statistics: TypeAlias = Literal["own", "support"]


@dataclass(frozen=True)
class EvaluationResult:
    """Means over episodes, with the half-widths of their 95 % confidence intervals. Accuracies are fractions of 1.

    An interval is 1.96 * s / sqrt(n) for n episodes with sample standard deviation s (``ddof=1``), as in Finn et al.
    2017. It is NaN for a single episode. Accuracies and their intervals are ``None`` if the targets are not classes.
    With ``evaluate(..., batch_norm="support")`` the sequences hold only the values after the last inner step.

    Attributes:
        accuracy: accuracy after the last inner step.
        interval: its interval.
        accuracies: accuracy after every inner step, from step 0 (before adaptation) on, [inner_steps + 1].
        intervals: their intervals, [inner_steps + 1].
        losses: mean query loss after every inner step, [inner_steps + 1].
        loss_intervals: their intervals, [inner_steps + 1].
        n_episodes: number of episodes.
        inner_steps: number of inner steps.
        batch_norm: the batch-norm policy in words.
    """

    accuracy: float | None
    interval: float | None
    accuracies: tuple[float, ...] | None
    intervals: tuple[float, ...] | None
    losses: tuple[float, ...]
    loss_intervals: tuple[float, ...]
    n_episodes: int
    inner_steps: int
    batch_norm: str

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


@takes(n_episodes=int_from(1), inner_steps=optional(STEPS), batch_norm=choice("own", "support"))
def evaluate(
    maml: Learner,
    sampler: Iterable[Episodes],
    n_episodes: int = 600,
    inner_steps: int | None = None,
    *,
    batch_norm: Statistics = "own",
) -> EvaluationResult:
    """Adapt to exactly ``n_episodes`` episodes of ``sampler`` and score their query sets after every inner step.

    The learner is in ``eval()`` mode during the evaluation, so dropout is off. Its state, gradients and mode are
    unchanged afterwards.

    Args:
        maml: a MAML or another meta-learner.
        sampler: an iterable of episodes. Batches are moved to the model's device and floating-point dtype.
        n_episodes: number of episodes; surplus episodes of the last batch are not used.
        inner_steps: number of inner steps; the learner's own by default. It may differ from the number in training
            (Finn et al. 2017 test with more).
        batch_norm: ``"own"`` normalizes queries by the learner's own policy. ``"support"`` normalizes them by the
            statistics of the support set alone, so that every query is predicted as if it were the only one, which is
            how a deployed model predicts. It needs targets that are classes, and a learner whose own policy is
            transductive.

    Returns:
        Means over the episodes, with confidence intervals.

    Raises:
        TypeError, ValueError: ``maml`` is not a meta-learner, ``sampler`` is not an iterable of episodes or ends early,
            ``n_episodes`` is below 1, or ``batch_norm="support"`` for a learner whose batch norm has running
            statistics.
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
    """Scores of single episodes after every inner step from 0 on, or after the last one only.

    Tensors are float64 [steps, episodes], on the CPU. ``batch_norm`` is the policy in words.
    """

    losses: Tensor
    accuracies: Tensor | None
    inner_steps: int
    batch_norm: str


def scores_of(
    maml: Learner,
    sampler: Iterable[Episodes],
    n_episodes: int,
    inner_steps: int | None,
    batch_norm: Statistics = "own",
) -> Scores:
    """Return the scores of exactly ``n_episodes`` episodes of a sampler; arguments are those of :func:`evaluate`."""
    by_support = batch_norm == "support"
    losses, accuracies = [], []
    with torch.no_grad(), evaluation_mode(maml):
        for batch in _take_episodes(n_episodes, sampler):
            batch = _to_model(batch, maml)
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
    """Return the means over the episodes of all ``parts``, which must differ only in their episodes."""
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
    """Return the query results after the last step, with queries normalized by the support set's statistics."""
    x_spt, y_spt, x_qry, y_qry = check_episodes(batch, ignored=IGNORED)
    fast = maml.adapt(x_spt, y_spt, inner_steps=inner_steps)
    return score_classes(maml.predict_by_support(fast, x_spt, x_qry), y_qry, "y_qry")


def _steps_of(maml: Learner, inner_steps: int | None) -> int:
    """Return the number of inner steps; 0 for a learner without inner steps."""
    own = getattr(maml, "inner_steps", None)
    return 0 if own is None else own if inner_steps is None else inner_steps


def _means(parts: Sequence[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean over episodes and the half-width of its 95 % interval, for every step."""
    values = torch.cat(list(parts), dim=1)  # [steps, episodes]
    n = values.shape[1]
    if n == 1:
        return tuple(values[:, 0].tolist()), (math.nan,) * len(values)
    return tuple(values.mean(dim=1).tolist()), tuple((1.96 * values.std(dim=1) / math.sqrt(n)).tolist())


def _take_episodes(n_episodes: int, sampler: Iterable[Episodes]) -> Iterator[Episodes]:
    left, batches = n_episodes, iter(sampler)
    with ExitStack() as stack:
        if isinstance(batches, Generator):  # if the garbage collector closed it, a Ctrl-C might be swallowed
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
    raise ValueError(f"the sampler ended after {n_episodes - left} of {n_episodes} episodes")


def _to_model(batch: Episodes, maml: Learner) -> Episodes:
    like = next(parameter for _, parameter in maml.model.named_parameters() if parameter.is_floating_point())
    return batch.to(like.device, like.dtype)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Context in which a module is in ``eval()`` mode; afterwards the mode of every submodule is restored."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training
