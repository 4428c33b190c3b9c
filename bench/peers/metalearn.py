"""parallel-metalearn: ``torch.func.grad`` inside ``vmap``, behind wrappers for model, loss and inner optimizer.

Its translator of modules fails on batch norm (version 0.5.6 passes a keyword that its own layer does not take), so that
norms are written in elementary operations here, as for our own ``vmap``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from peers.learner import Learner

if TYPE_CHECKING:
    from workloads import Workload

    from maml_fast.data import Episodes


class MetaLearn(Learner):
    """Its MAML with a fixed inner rate, all tasks in one chunk."""

    name = "metalearn"
    title = "parallel-metalearn"
    library = "metalearn"
    distribution = "parallel-metalearn"
    remedy = "pip install --no-deps parallel-metalearn tqdm"
    devices = ("cpu",)
    all_tasks_at_once = True
    copies = 12.0

    def __init__(self, workload: Workload, start: Sequence[Tensor]) -> None:
        from metalearn.algorithms import MAML
        from metalearn.inner_optimizers import InnerSGD

        self.workload = workload
        model = _Wrapped(workload.functional_model(start))
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=workload.meta_lr, fused=True)
        first_order = workload.order == 1
        inner = InnerSGD(model.get_fast_weights(), first_order, workload.inner_lr, learn_lr=False)
        for rate in inner.parameters():  # made in float32
            rate.data = torch.full_like(rate, workload.inner_lr, dtype=start[0].dtype)
        self._maml = MAML(
            model=model,
            optimizer=_NoStep(),
            inner_optimizer=inner,
            support_loss_fn=_Loss(workload.entry.loss_fn),
            inner_steps=workload.inner_steps,
            chunk_size=workload.meta_batch_size,
            device=start[0].device,
        )

    @classmethod
    def obstacle(cls, workload: Workload) -> str | None:
        if not hasattr(workload, "functional_model"):
            return "timed on the zoo alone"
        return super().obstacle(workload)

    def backward(self, episodes: Episodes) -> Tensor:
        loss, _ = self._maml.step(iter([episodes]))
        return torch.tensor([loss], dtype=torch.float64)


class _Wrapped(nn.Module):
    """What its MAML takes for a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, **_: Any) -> dict[str, Any]:
        return {"logits": self.model(x), "buffers": dict(self.named_buffers())}

    def get_fast_weights(self) -> OrderedDict[str, nn.Parameter]:
        return OrderedDict(self.named_parameters())


class _Loss(nn.Module):
    """What its MAML takes for a loss; no metric is asked for."""

    def __init__(self, loss_fn: Any) -> None:
        super().__init__()
        self.loss_fn = loss_fn

    def forward(self, *, out_dict: dict[str, Tensor], targets: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        loss = self.loss_fn(out_dict["logits"], targets)
        return loss, torch.zeros_like(loss)


class _NoStep:
    """In the place of its outer optimizer: ``Learner.iteration`` steps, as for everybody."""

    def zero_grad(self) -> None:
        pass

    def step(self) -> None:
        pass
