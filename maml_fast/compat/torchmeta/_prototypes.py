"""Prototypical networks (Snell et al. 2017) on batches of tasks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maml_fast._arguments import instance, int_from, optional, takes, tensor

__all__ = ["get_num_samples", "get_prototypes", "prototypical_loss"]


@takes(targets=tensor, num_classes=int_from(1), dtype=optional(instance(torch.dtype)))
def get_num_samples(targets: Tensor, num_classes: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return the number of samples of each class, [T, num_classes], of targets [T, N]."""
    return F.one_hot(targets, num_classes).sum(1).to(dtype or targets.dtype)


@takes(embeddings=tensor, targets=tensor, num_classes=int_from(1))
def get_prototypes(embeddings: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Return the mean embedding of each class; zeros for a class without samples.

    Args:
        embeddings: those of the support set, [T, N, E].
        targets: class numbers, [T, N].
        num_classes: the number of classes.

    Returns:
        Prototypes, [T, num_classes, E].

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the shapes disagree.
    """
    if embeddings.dim() != 3 or embeddings.shape[:2] != targets.shape:
        raise ValueError(
            f"embeddings must be [T, N, E] and targets [T, N], got {list(embeddings.shape)} and {list(targets.shape)}"
        )
    members = F.one_hot(targets, num_classes).to(embeddings.dtype)  # [T, N, num_classes]
    return members.transpose(1, 2) @ embeddings / members.sum(1).clamp(min=1)[..., None]


@takes(prototypes=tensor, embeddings=tensor, targets=tensor)
def prototypical_loss(prototypes: Tensor, embeddings: Tensor, targets: Tensor, **kwargs: Any) -> Tensor:
    """Return the cross-entropy of the classes' squared distances.

    Args:
        prototypes: [T, num_classes, E].
        embeddings: those of the queries, [T, N, E].
        targets: class numbers, [T, N].
        **kwargs: options of ``F.cross_entropy``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the shapes disagree.
    """
    if prototypes.dim() != 3 or embeddings.dim() != 3 or prototypes.shape[-1] != embeddings.shape[-1]:
        raise ValueError(
            f"prototypes and embeddings must be [T, ..., E] of the same E, got {list(prototypes.shape)} and "
            f"{list(embeddings.shape)}"
        )
    if targets.shape != embeddings.shape[:2]:
        raise ValueError(f"targets must be {list(embeddings.shape[:2])}, one for each query, got {list(targets.shape)}")
    distances = (prototypes[:, :, None] - embeddings[:, None]).square().sum(-1)  # [T, num_classes, N]
    return F.cross_entropy(-distances, targets, **kwargs)
