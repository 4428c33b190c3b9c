"""Prototypical networks: a query belongs to the class whose mean embedding is nearest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maml_fast._arguments import choice, optional, shown, takes
from maml_fast.data._episodes import Episodes
from maml_fast.inner_loop._heads import N_CLASSES, prototypes
from maml_fast.inner_loop._losses import score_classes
from maml_fast.maml import Learner, TaskResults
from maml_fast.maml._arguments import STEPS, check_images, check_per_step, check_support
from maml_fast.program import BatchNormPolicy

__all__ = ["DISTANCES", "ProtoNet"]


def squared_euclidean(queries: Tensor, prototypes: Tensor) -> Tensor:
    """Return squared distances [T, M, n_way] of queries [T, M, D] to prototypes [T, n_way, D]."""
    return (queries[:, :, None] - prototypes[:, None]).square().sum(dim=3)


def cosine(queries: Tensor, prototypes: Tensor) -> Tensor:
    """Return cosine distances (one minus the cosine) [T, M, n_way]; arguments as for :func:`squared_euclidean`."""
    return 1 - F.normalize(queries, dim=2) @ F.normalize(prototypes, dim=2).mT


DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "euclidean": squared_euclidean,
    "cosine": cosine,
}


class ProtoNet(Learner):
    """Prototypical networks (Snell, Swersky & Zemel 2017, eq. 1 and 2).

    The logits are the negative distances to the classes' prototypes, which are the means of their support embeddings.
    Nothing adapts, so there are no inner steps. Training episodes may have more classes than test episodes. Support and
    query images of a task go through the model in one batch, as in the authors' code, so that batch norm normalizes
    them alike (transductive if the policy is ``"batch"``).

    Args:
        model: any module from images [N, ...] to embeddings [N, ...], such as ``models.Conv4(n_way=None)``.
        distance: ``"euclidean"`` (squared) or ``"cosine"``.
        batch_norm, fused: as for :class:`maml_fast.MAML`.

    Raises:
        TypeError, ValueError: for a model that is not a module, an unknown distance or an unknown policy; calls raise
            them for targets that are not class labels, or a class without a support image.
    """

    never_captured = "ProtoNet counts the classes of its support sets on the CPU"

    @takes(distance=choice(*DISTANCES))
    def __init__(
        self,
        model: nn.Module,
        *,
        distance: str = "euclidean",
        batch_norm: BatchNormPolicy = "batch",
        fused: bool = True,
    ) -> None:
        super().__init__(model, batch_norm, fused)
        self.distance = distance

    def results_and_loss(
        self, episodes: Episodes, *, per_step: bool | Collection[int] = False, inner_steps: int | None = None
    ) -> tuple[TaskResults, Tensor]:
        """Return the query results of every task, without a graph, and their mean loss."""
        results = self.task_results(episodes, per_step=per_step, inner_steps=inner_steps)
        return results.detached(), results.losses[-1].mean()

    def task_results(
        self, episodes: Episodes, *, per_step: bool | Collection[int] = False, inner_steps: int | None = None
    ) -> TaskResults:
        """Return the query results of every task, at a single step whatever ``per_step`` and ``inner_steps`` say."""
        check_per_step(per_step)
        optional(STEPS)("inner_steps", inner_steps)
        x_spt, y_spt, x_qry, y_qry = self._checked_classes(episodes)
        return score_classes(self._logits(x_spt, y_spt, x_qry), y_qry, "y_qry")

    def adapt(self, x_spt: Tensor, y_spt: Tensor, inner_steps: int | None = None) -> dict[str, Tensor]:
        """Return the support set itself, as its embeddings depend on the queries in the same batch."""
        optional(STEPS)("inner_steps", inner_steps)
        self._check_support(x_spt, y_spt)
        return {"x_spt": x_spt, "y_spt": y_spt}

    def predict(self, fast: Mapping[str, Tensor], x_qry: Tensor) -> Tensor:
        """Return logits [T, M, n_way] of images [T, M, ...]; ``fast`` is what :meth:`adapt` returned."""
        x_spt, y_spt = self._support_of(fast)
        self._check_support(x_spt, y_spt)
        self._check_queries(x_spt, x_qry)
        return self._logits(x_spt, y_spt, x_qry)

    def _support_of(self, fast: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(fast, Mapping) or not {"x_spt", "y_spt"} <= fast.keys():
            raise TypeError(f"fast must be a mapping of x_spt and y_spt, as adapt() returns it, got {shown(fast)}")
        return fast["x_spt"], fast["y_spt"]

    def _check_queries(self, x_spt: Tensor, x_qry: Tensor) -> None:
        check_images("x_qry", x_qry, self._current_parameters())
        tasks, _, *image = x_spt.shape
        got = list(x_qry.shape)
        if len(got) < 3 or [got[0], *got[2:]] != [tasks, *image] or 0 in got or x_qry.dtype != x_spt.dtype:
            wanted = f"images [{tasks}, M, {', '.join(map(str, image))}] of {x_spt.dtype}, as x_spt"
            raise ValueError(f"x_qry must be {wanted}, got {got} of {x_qry.dtype}")

    def predict_by_support(self, fast: Mapping[str, Tensor], x_spt: Tensor, x_qry: Tensor) -> Tensor:
        """Like :meth:`predict`, but independently for each query: batch norm uses the statistics of ``x_spt``."""
        if not self.is_transductive:
            return self.predict(fast, x_qry)
        y_spt = self._support_of(fast)[1]
        self._check_support(x_spt, y_spt)
        self._check_queries(x_spt, x_qry)
        support, queries = self._forward_tasks.by_support({}, self._current_parameters(), x_spt, x_qry)
        return self._logits_from_embeddings(support.flatten(2), queries.flatten(2), y_spt)

    def for_classes(self, n_classes: int) -> ProtoNet:
        """Return the learner itself: it has no classifier to resize."""
        N_CLASSES("n_classes", n_classes)
        return self

    def extra_repr(self) -> str:
        """Return the settings; PyTorch adds the model."""
        return f"distance={self.distance}, batch_norm={self.batch_norm}"

    def _check_support(self, x_spt: Tensor, y_spt: Tensor) -> None:
        check_support(x_spt, y_spt)
        check_images("x_spt", x_spt, self._current_parameters())
        if y_spt.dtype != torch.int64 or y_spt.dim() != 2:
            got = f"{y_spt.dtype} {list(y_spt.shape)}"
            raise TypeError(f"y_spt must hold class numbers [T, N] as torch.int64, got {got}; use y_spt.long()")

    def _logits(self, x_spt: Tensor, y_spt: Tensor, x_qry: Tensor) -> Tensor:
        images = torch.cat([x_spt, x_qry], dim=1)
        embeddings = self._forward_tasks({}, self._current_parameters(), images).flatten(2)  # [T, N + M, D]
        support, queries = embeddings.split([x_spt.shape[1], x_qry.shape[1]], dim=1)
        return self._logits_from_embeddings(support, queries, y_spt)

    def _logits_from_embeddings(self, support: Tensor, queries: Tensor, y_spt: Tensor) -> Tensor:
        """Return logits [T, M, n_way] from embeddings [T, N, D] of the support set and [T, M, D] of the queries."""
        return -DISTANCES[self.distance](queries, prototypes(support, y_spt, _count_classes(y_spt)))


def _count_classes(y_spt: Tensor) -> int:
    """Return the number of classes of labels [T, N], capped at N + 1: N images cover at most N classes."""
    least, most = (int(label) for label in torch.aminmax(y_spt))
    if least < 0:
        raise ValueError(f"y_spt holds label {least}; labels are class numbers from 0")
    # The cap keeps a huge label from allocating memory; for N + 1 classes prototypes() raises anyway.
    return min(most, y_spt.shape[1]) + 1
