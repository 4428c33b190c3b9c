"""higher (Grefenstette et al. 2019), its module patched for every task."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from peers.learner import ModuleLearner


class Higher(ModuleLearner):
    name = "higher"
    title = "higher"
    library = "higher"

    def task_backward(self, task: Sequence[Tensor], weight: float) -> list[Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at its escapes, where Python compiles it for the first time
            import higher

        x_spt, y_spt, x_qry, y_qry = task
        second_order = self.workload.order == 2
        inner = torch.optim.SGD(self.parameters, lr=self.workload.inner_lr)
        options = {"copy_initial_weights": False, "track_higher_grads": second_order}
        losses = []
        with higher.innerloop_ctx(self.model, inner, **options) as (model, optimizer):
            for step in range(self.workload.inner_steps):
                if step in self.workload.scored:
                    with torch.no_grad():
                        losses.append(F.cross_entropy(model(x_qry), y_qry))
                optimizer.step(F.cross_entropy(model(x_spt), y_spt))
            losses.append(F.cross_entropy(model(x_qry), y_qry))
            if second_order:
                (weight * losses[-1]).backward()
            else:  # the adapted parameters are leaves then: their gradient is the first-order meta-gradient
                gradients = torch.autograd.grad(weight * losses[-1], list(model.fast_params))
                for parameter, gradient in zip(self.parameters, gradients, strict=True):
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return losses
