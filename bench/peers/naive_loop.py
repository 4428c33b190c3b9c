"""What every naive loop is: an algorithm as a tutorial writes it, one task after another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from maml_fast.algorithms import Settings


class NaiveLoop(nn.Module):
    """An algorithm; its parameters are what is meta-learned, those of the model first.

    Args:
        model: from images [N, ...] to logits [N, n_way], its last two parameters those of a linear classifier, or to
            embeddings [N, D] where the algorithm takes such. Batch norm in it goes by the batch's own statistics.
        settings: the algorithm's numbers.
    """

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        super().__init__()
        self.model, self.settings = model, settings

    @abstractmethod
    def task_loss(self, x_spt: Tensor, y_spt: Tensor, x_qry: Tensor, y_qry: Tensor) -> Tensor:
        """The loss of one task [N, ...], [N], [M, ...], [M], with its graph."""

    def backward(self, episodes: Sequence[Tensor]) -> Tensor:
        """Add the meta-gradient to the parameters' ``.grad``; return the tasks' mean loss."""
        losses = []
        for task in zip(*episodes, strict=True):
            loss = self.task_loss(*task)
            (loss / len(episodes[0])).backward()
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def make_optimizer(self, meta_lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=meta_lr, fused=True)
