"""Products of matrices and vectors, and embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from maml_fast.program._operations.pointwise import with_dimensions
from maml_fast.program._operations.table import Call, Step, Value, aten, row


@row(aten.mm, aten.bmm)
def _product(call: Call, model_input: Value) -> Step:
    multiply = torch.bmm if len(call.result.shape) == 2 else torch.matmul
    return Step(multiply, call.operands)


@row(aten.addmm, aten.baddbmm)
def _product_and_sum(call: Call, model_input: Value) -> Step:
    beta, alpha = call.arguments["beta"], call.arguments["alpha"]
    missing = len(call.result.shape) - len(call.operands[0].shape)
    if len(call.result.shape) == 2:
        return Step(
            lambda x, a, b: torch.baddbmm(with_dimensions(x, missing), a, b, beta=beta, alpha=alpha), call.operands
        )
    return Step(lambda x, a, b: beta * with_dimensions(x, missing) + alpha * (a @ b), call.operands)


@row(aten.mv)
def _matrix_and_vector(call: Call, model_input: Value) -> Step:
    return Step(lambda a, x: torch.bmm(a, x[..., None]).squeeze(2), call.operands)


@row(aten.dot)
def _dot(call: Call, model_input: Value) -> Step:
    return Step(lambda a, b: (a * b).sum(1), call.operands)


@row(aten.embedding)
def _embedding(call: Call, model_input: Value) -> Step | None:
    if call.arguments["scale_grad_by_freq"] or call.arguments["sparse"]:
        return None
    padding = call.arguments["padding_idx"]

    def embed(weight: Tensor, indices: Tensor) -> Tensor:
        n_tasks, n_rows, _ = weight.shape
        first = torch.arange(n_tasks, device=indices.device).view(-1, *(1,) * (indices.dim() - 1)) * n_rows
        out = torch.nn.functional.embedding(indices + first, weight.reshape(n_tasks * n_rows, -1))
        return out if padding < 0 else torch.where((indices == padding)[..., None], out.detach(), out)

    return Step(embed, call.operands)
