"""How well an adapted model knows its classes: each picture judged by one that was adapted without it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maml_fast.data._dataset import Progress
from maml_fast.maml import MAML, Learner
from maml_fast.maml._evaluation import evaluation_mode

__all__ = ["Judgement", "balanced", "judge"]

PIXELS_AT_ONCE = 2**19  # of the support images that are adapted to together


@dataclass(frozen=True, eq=False)
class Judgement:
    """What was said of each picture by a model that had not seen it.

    Attributes:
        labels: int64 [N].
        probabilities: float32 [N, n_classes]; NaN for the only picture of a class, which can't be left out.
    """

    labels: Tensor
    probabilities: Tensor

    @property
    def is_judged(self) -> Tensor:
        """Whether a picture could be left out, bool [N]."""
        return ~self.probabilities[:, 0].isnan()

    @property
    def predicted(self) -> Tensor:
        """The class that was said, int64 [N]; -1 where nothing was."""
        return torch.where(self.is_judged, self.probabilities.nan_to_num().argmax(dim=1), -1)

    @property
    def counts(self) -> list[tuple[int, int]]:
        """Of each class: how many pictures were told right, and how many were judged."""
        right, judged = self.predicted == self.labels, self.is_judged
        of_class = [self.labels == label for label in range(self.probabilities.shape[1])]
        return [(int((right & each).sum()), int((judged & each).sum())) for each in of_class]

    @property
    def right(self) -> int:
        """How many pictures were told right."""
        return sum(right for right, _ in self.counts)

    @property
    def judged(self) -> int:
        """How many pictures could be left out."""
        return sum(judged for _, judged in self.counts)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy, Wilson's (1927), which takes the pictures as independent of each other."""
        n, z = self.judged, 1.96
        share = self.right / n
        center, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return max(0.0, (center - half) / (1 + z * z / n)), min(1.0, (center + half) / (1 + z * z / n))

    def __str__(self) -> str:
        alone = len(self.labels) - self.judged
        if not self.judged:
            return "accuracy unknown: every class has one picture alone, so that none can be left out"
        low, high = self.interval
        told = f"{self.right} of {self.judged} pictures told right by what was adapted without them"
        rest = f"; {alone} {'is' if alone == 1 else 'are'} alone in a class, and not judged" if alone else ""
        return f"accuracy {self.right / self.judged:.0%}, {low:.0%} to {high:.0%} (95 % interval): {told}{rest}"

    def described(self) -> dict[str, Any]:
        """As plain values."""
        summary = {"right": self.right, "judged": self.judged, "pictures": len(self.labels)}
        return {**summary, "interval": list(self.interval)} if self.judged else summary


def judge(
    learner: Learner,
    x: Tensor,
    y: Tensor,
    inner_steps: int | None = None,
    progress: Progress | None = None,
) -> Judgement:
    """Adapt anew without each of the pictures x [N, C, H, W], and ask what it is.

    Statistics of batch norm, too, are of the others alone. The learner must be for the classes of the labels y [N].
    """
    n_classes = int(y.max()) + 1
    probabilities = torch.full((len(x), n_classes), torch.nan)
    counts = y.bincount()
    todo = [i for i, label in enumerate(y.tolist()) if counts[label] > 1]
    done = 0
    for label in range(n_classes):  # pictures of one class leave the same labels behind
        of_class = [i for i in todo if y[i] == label]
        for part in _parts(of_class, x):
            probabilities[part] = _said_of(learner, x, y, part, inner_steps)
            done += len(part)
            if progress:
                progress(done, len(todo))
    return Judgement(y, probabilities)


def _parts(numbers: list[int], x: Tensor) -> Iterator[list[int]]:
    at_once = max(1, PIXELS_AT_ONCE // (len(x) * x.shape[-2] * x.shape[-1]))
    for begin in range(0, len(numbers), at_once):
        yield numbers[begin : begin + at_once]


def _said_of(learner: Learner, x: Tensor, y: Tensor, part: list[int], inner_steps: int | None) -> Tensor:
    """Probabilities [t, n_classes] of t pictures of one class, each a task that all others are the support set of."""
    others = torch.stack([torch.tensor([j for j in range(len(x)) if j != i]) for i in part])  # [t, N - 1]
    x_spt, y_spt = x[others], y[others]
    with torch.no_grad(), evaluation_mode(learner), balanced(learner, y_spt[0]):
        fast = learner.adapt(x_spt, y_spt, inner_steps=inner_steps)
        return learner.predict_by_support(fast, x_spt, x[part][:, None])[:, 0].softmax(dim=1)


@contextmanager
def balanced(learner: Learner, y: Tensor) -> Iterator[None]:
    """Inside this context a class weighs the same however many of the labels [N] are its own.

    Training episodes have as many images of every class, and so a mean over images is one over classes there.
    """
    counts = y.bincount()
    if not isinstance(learner, MAML) or learner.loss_fn is not F.cross_entropy or counts.min() == counts.max():
        yield
        return
    like = next(learner.model.parameters())
    learner.loss_fn = partial(F.cross_entropy, weight=(1 / counts).to(like.device, like.dtype))
    try:
        yield
    finally:
        learner.loss_fn = F.cross_entropy
