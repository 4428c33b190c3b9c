"""Code written for learn2learn (Arnold et al. 2020): a clone of the module for every task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers.learner import ModuleLearner


class Learn2Learn(ModuleLearner):
    name = "learn2learn"
    title = "learn2learn"
    library = "learn2learn"
    remedy = "pip install learn2learn, on Python 3.10: its 0.2.0 does not build on later ones"

    @cached_property
    def maml(self) -> Any:
        return self.maml_class()(self.model, lr=self.workload.inner_lr, first_order=self.workload.order == 1)

    def task_backward(self, task: Sequence[Tensor], weight: float) -> list[Tensor]:
        x_spt, y_spt, x_qry, y_qry = task
        learner = self.maml.clone()
        losses = []
        for step in range(self.workload.inner_steps):
            if step in self.workload.scored:
                with torch.no_grad():
                    losses.append(F.cross_entropy(learner(x_qry), y_qry))
            learner.adapt(F.cross_entropy(learner(x_spt), y_spt))
        losses.append(F.cross_entropy(learner(x_qry), y_qry))
        (weight * losses[-1]).backward()
        return losses

    @staticmethod
    def maml_class() -> Any:
        from learn2learn.algorithms import MAML

        return MAML


class Compat(Learn2Learn):
    """The same code with its import changed, on one of our models."""

    name = "compat"
    title = "learn2learn's interface on maml_fast"
    library = None

    def make_model(self, start: Sequence[Tensor]) -> nn.Module:
        return self.workload.model_at(start)

    @staticmethod
    def maml_class() -> Any:
        from maml_fast.compat.learn2learn import MAML

        return MAML
