"""Losses that people write, of one task's outputs [N, ...] and targets [N, ...]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def label_smoothing(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with a tenth of the probability spread over all classes."""
    return F.cross_entropy(logits, labels, label_smoothing=0.1)


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Lin et al. 2017: examples that are already classified well have little weight."""
    loss = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - torch.exp(-loss)) ** gamma * loss).mean()


def log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy by hand, as tutorials write it."""
    return -F.log_softmax(logits, dim=1)[torch.arange(len(labels)), labels].mean()


def one_hot_mse(logits: Tensor, labels: Tensor) -> Tensor:
    """The squared error of probabilities."""
    return F.mse_loss(logits.softmax(dim=-1), F.one_hot(labels, logits.shape[-1]).to(logits.dtype))


def one_logit(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of a single output [N, 1]."""
    return F.binary_cross_entropy_with_logits(logits.squeeze(1), targets)
