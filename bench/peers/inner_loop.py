"""What the plain loops share: the description of the inner loop, and the scoring of a query set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from peers.nets import Network, Parameters


@dataclass(frozen=True)
class Problem:
    """An inner loop: which parameters adapt (by position), how often, and after which steps the query is scored."""

    network: Network
    steps: int
    order: int
    adapted: Sequence[int]
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    scored: Sequence[int] = ()  # besides the last


class Score(NamedTuple):
    """Of one task's query set: the loss, and how many of the predictions are right."""

    loss: Tensor
    correct: Tensor


def score(problem: Problem, weights: Parameters, x_qry: Tensor, y_qry: Tensor) -> Score:
    logits = problem.network(weights, x_qry)
    with torch.no_grad():
        if y_qry.is_floating_point():  # values, of which none is right or wrong
            correct = torch.zeros((), dtype=torch.int64)
        else:
            correct = (logits.argmax(dim=1) == y_qry).sum()
    return Score(problem.loss(logits, y_qry), correct)


def passing_score(problem: Problem, weights: Parameters, x_qry: Tensor, y_qry: Tensor) -> Score:
    """The score after a step that is not the last: recorded, not differentiated."""
    with torch.no_grad():
        return score(problem, weights, x_qry, y_qry)
