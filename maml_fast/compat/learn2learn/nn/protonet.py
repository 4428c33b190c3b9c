"""The classifier of prototypical networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from maml_fast._arguments import flag, optional, takes, tensor

__all__ = ["PrototypicalClassifier"]

EPSILON = 1e-8  # added to norms


class PrototypicalClassifier(nn.Module):
    """Classifies embeddings by their distances to the mean embedding of every class.

    Args:
        support: embeddings [N, D] from which to compute prototypes; see :meth:`fit_`.
        labels: their labels [N].
        distance: "euclidean" (squared), "cosine", or a function of prototypes [C, D] and queries [Q, D] that returns
            distances [Q, C].
        normalize: whether to scale embeddings and prototypes to unit length, which "cosine" always does.

    Attributes:
        prototypes: one row per class [C, D], sorted by label; ``None`` before :meth:`fit_`.

    Source: Snell et al. 2017, Prototypical Networks, equations 1 and 2.
    """

    prototypes: Tensor | None

    @takes(support=optional(tensor), labels=optional(tensor), normalize=flag)
    def __init__(
        self,
        support: Tensor | None = None,
        labels: Tensor | None = None,
        distance: str | Callable[[Tensor, Tensor], Tensor] = "euclidean",
        normalize: bool = False,
    ) -> None:
        super().__init__()
        named = {"euclidean": self.euclidean_distance, "cosine": self.cosine_distance}
        if not callable(distance) and distance not in named:
            raise ValueError(f"distance must be 'euclidean', 'cosine' or a function, got {distance!r}")
        self.distance = distance if callable(distance) else named[distance]
        self.normalizes = normalize or distance == "cosine"
        self.prototypes = None
        if support is not None and labels is not None:
            self.fit_(support, labels)

    @takes(support=tensor, labels=tensor)
    def fit_(self, support: Tensor, labels: Tensor) -> Tensor:
        """Compute the prototypes of embeddings [N, D] with labels [N], differentiably; return them, [C, D]."""
        means = torch.stack([support[labels == label].mean(dim=0) for label in torch.unique(labels)])
        self.prototypes = self.normalize(means) if self.normalizes else means
        return self.prototypes

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [Q, C] of embeddings x [Q, D]: negative distances.

        Raises:
            RuntimeError: before :meth:`fit_`.
        """
        if self.prototypes is None:
            raise RuntimeError("there are no prototypes yet; call fit_(support, labels) first")
        return -self.distance(self.prototypes, self.normalize(x) if self.normalizes else x)

    @staticmethod
    def cosine_distance(prototypes: Tensor, queries: Tensor) -> Tensor:
        """Return negative dot products [Q, C] of rows that have unit length."""
        return -torch.mm(queries, prototypes.t())

    @staticmethod
    def euclidean_distance(prototypes: Tensor, queries: Tensor) -> Tensor:
        """Return squared distances [Q, C]."""
        return (prototypes[None] - queries[:, None]).pow(2).sum(dim=2)

    @staticmethod
    def normalize(x: Tensor, epsilon: float = EPSILON) -> Tensor:
        """Scale rows to unit length."""
        return x / (x.norm(p=2, dim=1, keepdim=True) + epsilon)
