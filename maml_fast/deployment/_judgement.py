"""Leave-one-out estimate of accuracy: each picture is classified by a model that was adapted without it."""

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

PIXELS_AT_ONCE = 2**19  # most pixels of support images in one call of adapt()


@dataclass(frozen=True, eq=False)
class Judgement:
    """Predictions for each picture by a model that was adapted to all other pictures.

    Attributes:
        labels: class numbers, int64 [N].
        probabilities: float32 [N, n_classes]; NaN for the only picture of a class, which can't be left out.
    """

    labels: Tensor
    probabilities: Tensor

    @property
    def is_judged(self) -> Tensor:
        """Whether each picture could be left out, bool [N]."""
        return ~self.probabilities[:, 0].isnan()

    @property
    def predicted(self) -> Tensor:
        """The predicted classes, int64 [N]; -1 for pictures that were not judged."""
        return torch.where(self.is_judged, self.probabilities.nan_to_num().argmax(dim=1), -1)

    @property
    def counts(self) -> list[tuple[int, int]]:
        """For each class, the number of pictures classified correctly and the number judged."""
        right, judged = self.predicted == self.labels, self.is_judged
        of_class = [self.labels == label for label in range(self.probabilities.shape[1])]
        return [(int((right & each).sum()), int((judged & each).sum())) for each in of_class]

    @property
    def right(self) -> int:
        """The number of pictures classified correctly."""
        return sum(right for right, _ in self.counts)

    @property
    def judged(self) -> int:
        """The number of pictures that could be left out."""
        return sum(judged for _, judged in self.counts)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy (Wilson 1927), which assumes that the pictures are independent."""
        n, z = self.judged, 1.96
        share = self.right / n
        center, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return max(0.0, (center - half) / (1 + z * z / n)), min(1.0, (center + half) / (1 + z * z / n))

    def __str__(self) -> str:
        alone = len(self.labels) - self.judged
        if not self.judged:
            return "accuracy unknown: every class has only one picture, so none can be left out"
        low, high = self.interval
        correct = f"{self.right} of {self.judged} pictures classified correctly by models adapted without them"
        whose = "picture of its class" if alone == 1 else "pictures of their classes"
        rest = f"; {alone} not judged, the only {whose}" if alone else ""
        return f"accuracy {self.right / self.judged:.0%}, {low:.0%} to {high:.0%} (95 % interval): {correct}{rest}"

    def described(self) -> dict[str, Any]:
        """Return the counts and the interval as plain values."""
        summary = {"right": self.right, "judged": self.judged, "pictures": len(self.labels)}
        return {**summary, "interval": list(self.interval)} if self.judged else summary


def judge(
    learner: Learner,
    x: Tensor,
    y: Tensor,
    inner_steps: int | None = None,
    progress: Progress | None = None,
) -> Judgement:
    """Classify each of the pictures x [N, C, H, W] with the learner adapted to all the others.

    Batch norm's statistics, too, come from the other pictures alone. The labels y [N] determine the number of classes.
    The only picture of a class is not judged.
    """
    n_classes = int(y.max()) + 1
    learner = learner.for_classes(n_classes)
    probabilities = torch.full((len(x), n_classes), torch.nan)
    counts = y.bincount()
    todo = [i for i, label in enumerate(y.tolist()) if counts[label] > 1]
    done = 0
    for label in range(n_classes):  # whichever picture of a class is left out, the same labels remain
        of_class = [i for i in todo if y[i] == label]
        for part in _parts(of_class, x):
            probabilities[part] = _predict_left_out(learner, x, y, part, inner_steps)
            done += len(part)
            if progress:
                progress(done, len(todo))
    return Judgement(y, probabilities)


def _parts(numbers: list[int], x: Tensor) -> Iterator[list[int]]:
    at_once = max(1, PIXELS_AT_ONCE // (len(x) * x.shape[-2] * x.shape[-1]))
    for begin in range(0, len(numbers), at_once):
        yield numbers[begin : begin + at_once]


def _predict_left_out(learner: Learner, x: Tensor, y: Tensor, part: list[int], inner_steps: int | None) -> Tensor:
    """Return probabilities [t, n_classes] of t pictures of one class; all others are the support set of each."""
    others = torch.stack([torch.tensor([j for j in range(len(x)) if j != i]) for i in part])  # [t, N - 1]
    x_spt, y_spt = x[others], y[others]
    with torch.no_grad(), evaluation_mode(learner), balanced(learner, y_spt[0]):
        fast = learner.adapt(x_spt, y_spt, inner_steps=inner_steps)
        return learner.predict_by_support(fast, x_spt, x[part][:, None])[:, 0].softmax(dim=1)


@contextmanager
def balanced(learner: Learner, y: Tensor) -> Iterator[None]:
    """Inside this context, all classes weigh the same in the learner's loss, whatever their share of the labels [N].

    In training episodes every class has equally many images, so that the mean over images is the mean over classes.
    Nothing changes for a learner that is not a MAML, or has another loss than ``F.cross_entropy`` itself.
    """
    counts = y.bincount()
    if not isinstance(learner, MAML) or learner.loss_fn is not F.cross_entropy or counts.min() == counts.max():
        yield
        return
    parameter = next(iter(learner.model.parameters()))
    learner.loss_fn = partial(F.cross_entropy, weight=(1 / counts).to(parameter.device, parameter.dtype))
    try:
        yield
    finally:
        learner.loss_fn = F.cross_entropy
