"""First-order MAML as the tutorial and dragen1860's MAML-Pytorch have it: one class for training and testing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maml_fast._arguments import takes, tensor
from maml_fast.data._episodes import Episodes
from maml_fast.maml import MAML, TaskResults

__all__ = ["Array", "FirstOrderLearner", "accuracies_of"]

Array = np.ndarray[Any, np.dtype[np.float64]]


class FirstOrderLearner(nn.Module):
    """A network with its outer optimizer, Adam.

    ``net``, ``meta_optim``, ``update_step`` and ``update_step_test`` may be changed at any time.
    """

    def __init__(self, net: nn.Module, meta_lr: float, update_step: int, update_step_test: int) -> None:
        super().__init__()
        self.net = net
        self.meta_lr = meta_lr
        self.update_step = update_step
        self.update_step_test = update_step_test
        self.meta_optim: torch.optim.Optimizer = torch.optim.Adam(net.parameters(), lr=meta_lr)
        self._maml: list[MAML] = []  # in a list: a submodule would appear in the state dict

    @takes(x_spt=tensor, y_spt=tensor, x_qry=tensor, y_qry=tensor)
    def finetunning(self, x_spt: Tensor, y_spt: Tensor, x_qry: Tensor, y_qry: Tensor) -> Array:
        """Adapt to one task of images [N, C, H, W] and labels [N], without changing the network.

        Returns:
            The query accuracies [update_step_test + 1], from step 0 on.

        Raises:
            ValueError: if ``x_spt`` does not hold the images of one task.
        """
        if x_spt.dim() != 4:
            raise ValueError(f"finetunning takes the images of one task, [N, C, H, W], got x_spt {list(x_spt.shape)}")
        with torch.no_grad():
            one = Episodes(x_spt[None], y_spt[None], x_qry[None], y_qry[None])
            return accuracies_of(
                self._current_maml().task_results(one, per_step=True, inner_steps=self.update_step_test)
            )

    def _train_on(self, episodes: Episodes) -> TaskResults:
        """Take one step of ``meta_optim``; return the query results after every inner step."""
        results, loss = self._current_maml().results_and_loss(episodes, per_step=True, inner_steps=self.update_step)
        self.meta_optim.zero_grad()
        loss.backward()
        self.meta_optim.step()
        return results

    def _current_maml(self) -> MAML:
        if not self._maml or self._maml[0].model is not self.net:
            self._maml = [MAML(self.net, order=1)]
        self._maml[0].inner_lr = self._inner_lr()
        return self._maml[0]

    def _inner_lr(self) -> float:
        raise NotImplementedError


def accuracies_of(results: TaskResults) -> Array:
    """Return the accuracies of all queries after every step, [steps + 1]."""
    assert results.correct is not None  # the loss is cross-entropy
    assert results.predictions is not None
    return results.correct.sum(dim=1).cpu().numpy() / int(results.predictions.sum())
