"""Matching networks (Vinyals et al. 2016) on batches of tasks."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from maml_fast._arguments import int_from, number, takes, tensor

__all__ = ["matching_log_probas", "matching_loss", "matching_probas", "pairwise_cosine_similarity"]

EPS = number(above=0)


@takes(embeddings1=tensor, embeddings2=tensor, eps=EPS)
def pairwise_cosine_similarity(embeddings1: Tensor, embeddings2: Tensor, eps: float = 1e-8) -> Tensor:
    """Return the cosine of every pair, [T, N, M], of embeddings [T, N, E] and [T, M, E].

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the shapes disagree.
    """
    for name, each in (("embeddings1", embeddings1), ("embeddings2", embeddings2)):
        if each.dim() != 3 or each.shape[::2] != embeddings1.shape[::2]:
            raise ValueError(f"{name} must be [T, ..., E] like the other embeddings, got {list(each.shape)}")
    squares = embeddings1.square().sum(2)[:, :, None] * embeddings2.square().sum(2)[:, None]  # [T, N, M]
    return embeddings1 @ embeddings2.transpose(1, 2) * squares.clamp(min=eps**2).rsqrt()


@takes(embeddings=tensor, targets=tensor, test_embeddings=tensor, num_classes=int_from(1), eps=EPS)
def matching_log_probas(
    embeddings: Tensor, targets: Tensor, test_embeddings: Tensor, num_classes: int, eps: float = 1e-8
) -> Tensor:
    """Return the log-probabilities of the queries' classes.

    Args:
        embeddings: those of the support set, [T, N, E].
        targets: its class numbers, [T, N].
        test_embeddings: those of the queries, [T, M, E].
        num_classes: the number of classes.
        eps: the least product of two norms.

    Returns:
        Log-probabilities, [T, num_classes, M]; those of a class without support samples are minus infinity.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the shapes disagree.
    """
    if targets.shape != embeddings.shape[:2]:
        raise ValueError(
            f"targets must be {list(embeddings.shape[:2])}, one for each sample, got {list(targets.shape)}"
        )
    similarities = pairwise_cosine_similarity(embeddings, test_embeddings, eps)  # [T, N, M]
    highest = similarities.amax(1, keepdim=True).detach()
    members = F.one_hot(targets, num_classes).to(similarities.dtype)  # [T, N, num_classes]
    of_class = members.transpose(1, 2) @ (similarities - highest).exp()
    return of_class.log() + highest - similarities.logsumexp(1, keepdim=True)


@takes(embeddings=tensor, targets=tensor, test_embeddings=tensor, num_classes=int_from(1), eps=EPS)
def matching_probas(
    embeddings: Tensor, targets: Tensor, test_embeddings: Tensor, num_classes: int, eps: float = 1e-8
) -> Tensor:
    """Return the probabilities of the queries' classes; arguments are those of :func:`matching_log_probas`."""
    return matching_log_probas(embeddings, targets, test_embeddings, num_classes, eps).exp()


@takes(train_embeddings=tensor, train_targets=tensor, test_embeddings=tensor, test_targets=tensor)
@takes(num_classes=int_from(1), eps=EPS)
def matching_loss(
    train_embeddings: Tensor,
    train_targets: Tensor,
    test_embeddings: Tensor,
    test_targets: Tensor,
    num_classes: int,
    eps: float = 1e-8,
    **kwargs: Any,
) -> Tensor:
    """Return the negative log-likelihood of the queries' classes.

    Arguments are those of :func:`matching_log_probas`, the queries' class numbers ``test_targets`` [T, M], and options
    of ``F.nll_loss``.
    """
    log_probas = matching_log_probas(train_embeddings, train_targets, test_embeddings, num_classes, eps)
    if test_targets.shape != test_embeddings.shape[:2]:
        wanted = list(test_embeddings.shape[:2])
        raise ValueError(f"test_targets must be {wanted}, one for each query, got {list(test_targets.shape)}")
    return F.nll_loss(log_probas, test_targets, **kwargs)
