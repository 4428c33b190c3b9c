"""The parts of losses: negative log-likelihoods, errors, and indexing by labels. Means are taken per task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maml_fast.program._operations.pointwise import with_dimensions
from maml_fast.program._operations.table import Call, Step, Value, aten, row, shifted, with_constants

_NONE, _MEAN, _SUM = range(3)  # PyTorch's reductions


@row(aten.nll_loss_forward, aten.nll_loss2d_forward)
def _nll_loss(call: Call, model_input: Value) -> Step | None:
    ignored, reduction = call.arguments["ignore_index"], call.arguments["reduction"]
    if len(call.arguments["self"].shape) < 2:
        return None

    def run(x: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        counted = target != ignored
        index = torch.where(counted, target, 0)
        weights = counted.to(x.dtype)  # [T, N, ...]
        if weight is not None:
            weights = weights * weight.gather(1, index.flatten(1)).view_as(index)
        losses = -weights * x.gather(2, index.unsqueeze(2)).squeeze(2)
        sums = weights.flatten(1).sum(1)
        if reduction == _NONE:
            return losses, sums
        loss = losses.flatten(1).sum(1)
        return loss / sums if reduction == _MEAN else loss, sums

    return Step(run, call.operands)


@row(aten.mse_loss, aten.l1_loss, aten.huber_loss, aten.smooth_l1_loss)
def _elementwise_loss(call: Call, model_input: Value) -> Step | None:
    x, target = call.operands
    if x.shape != target.shape:
        return None
    return _reduced(call, call.operands)


@row(aten.binary_cross_entropy_with_logits)
def _binary_cross_entropy(call: Call, model_input: Value) -> Step | None:
    if call.arguments["self"].shape != call.arguments["target"].shape:
        return None
    return _reduced(call, call.operands)


def _reduced(call: Call, operands: list[Value]) -> Step:
    run, reduction = with_constants(call, reduction=_NONE), call.arguments["reduction"]
    rank = max(len(value.shape) for value in operands)
    missing = [rank - len(value.shape) for value in operands]

    def losses(*tensors: Tensor) -> Any:
        each = run(*map(with_dimensions, tensors, missing))
        if reduction == _NONE:
            return each
        return each.flatten(1).mean(1) if reduction == _MEAN else each.flatten(1).sum(1)

    return Step(losses, operands)


@row(aten.gather)
def _gather(call: Call, model_input: Value) -> Step:
    return Step(with_constants(call, dim=shifted(call.arguments["dim"])), call.operands)


@row(aten.index)
def _index(call: Call, model_input: Value) -> Step | None:
    indices = call.operands[1:]
    if len(indices) != len(call.arguments["indices"]):
        return None
    rank = max(len(value.shape) for value in indices)

    def run(x: Tensor, *indices: Tensor) -> Tensor:
        task = torch.arange(len(x), device=x.device).view(-1, *(1,) * rank)
        places = (task, *(with_dimensions(index, rank + 1 - index.dim()) for index in indices))
        return x[places]

    return Step(run, call.operands)
