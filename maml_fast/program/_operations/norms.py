"""Normalization layers, with each task's own scale and shift."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maml_fast.nn import batch_stat_norm, moved
from maml_fast.program._operations.table import Call, Step, Value, aten, row


@row(F.batch_norm)
def _batch_norm(call: Call, model_input: Value) -> Step | None:
    names = ("input", "weight", "bias")
    if not call.arguments["training"]:
        return _with_running_statistics(call, *names, "running_mean", "running_var")
    step = _with_batch_statistics(call, *names)
    return step if len(call.results) == 1 else _updating_statistics(call, step)


@row(batch_stat_norm)
def _batch_stat_norm(call: Call, model_input: Value) -> Step:
    return _with_batch_statistics(call, "x", "weight", "bias")


@row(aten.native_batch_norm)
def _native_batch_norm(call: Call, model_input: Value) -> Step | None:
    if call.arguments["running_mean"] is not None or (call.results[1:] and not call.arguments["training"]):
        return None
    step = _with_batch_statistics(call, "input", "weight", "bias")
    return Step(lambda *tensors: (step.run(*tensors), None, None), step.operands)


@row(aten.native_layer_norm)
def _layer_norm(call: Call, model_input: Value) -> Step:
    dims = list(range(-len(call.arguments["normalized_shape"]), 0))
    shape = [*(1,) * (len(call.arguments["input"].shape) - len(dims)), *call.arguments["normalized_shape"]]
    return _first_of_three(_normalized(call, ("input", "weight", "bias"), dims, shape))


@row(aten.native_group_norm)
def _group_norm(call: Call, model_input: Value) -> Step:
    x, groups, eps = call.arguments["input"], call.arguments["group"], call.arguments["eps"]
    scaled = [1, x.shape[1], *(1,) * (len(x.shape) - 2)]  # [N, C, ...]
    present = [call.arguments[name] is not None for name in ("weight", "bias")]

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        flat = x.flatten(0, 1)  # [T * N, C, ...]
        z = F.group_norm(flat, groups, eps=eps).view_as(x)
        return _scaled(z, parameters, present, scaled)

    return _first_of_three(Step(run, call.operands))


@row(F.instance_norm)
def _instance_norm(call: Call, model_input: Value) -> Step:
    x = call.arguments["input"]
    dims = list(range(3, len(x.shape) + 1))  # of [T, N, C, ...]
    return _normalized(call, ("input", "weight", "bias"), dims, [1, x.shape[1], *(1,) * (len(x.shape) - 2)])


@row(aten._weight_norm_interface)
def _weight_norm(call: Call, model_input: Value) -> str:
    """Weight norm has no form: a correct one would differ from the module, whose second derivative is wrong."""
    others = tuple(dim for dim in range(len(call.arguments["v"].shape)) if dim != call.arguments["dim"])
    return (
        "the second derivative of PyTorch's weight norm is wrong, and so is the meta-gradient at order 2; "
        f"v * (g / v.norm(dim={others}, keepdim=True)) in forward would be right"
    )


def _with_batch_statistics(call: Call, *names: str) -> Step:
    x = call.arguments[names[0]]
    dims = [1, *range(3, len(x.shape) + 1)]  # of [T, N, C, ...]
    shape = [1, x.shape[1], *(1,) * (len(x.shape) - 2)]
    return _normalized(call, names, dims, shape)


def _normalized(call: Call, names: Sequence[str], dims: list[int], shape: list[int]) -> Step:
    """Normalize over ``dims``, then scale and shift by parameters viewed as [T, *shape].

    This uses elementary operations, because PyTorch's own double backward is not differentiable and has no dimension
    of tasks.
    """
    operands = [call.arguments[name] for name in names]
    present, eps = [value is not None for value in operands[1:]], call.arguments["eps"]

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        centered = x - x.mean(dims, keepdim=True)
        z = centered * torch.rsqrt((centered * centered).mean(dims, keepdim=True) + eps)
        return _scaled(z, parameters, present, shape)

    return Step(run, [value for value in operands if value is not None])


def _updating_statistics(call: Call, step: Step) -> Step | None:
    """A batch norm that also returns its updated running statistics."""
    running = [call.arguments[name] for name in ("running_mean", "running_var")]
    if len(call.results) != 3:
        return None
    dims = [1, *range(3, len(call.arguments["input"].shape) + 1)]
    momentum = call.arguments["momentum"]

    def run(mean: Tensor, variance: Tensor, x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch_statistics = torch.var_mean(x.detach(), dims)
        return step.run(x, *parameters), *moved((mean, variance), batch_statistics[::-1], momentum)

    return Step(run, [*running, *step.operands])


def _with_running_statistics(call: Call, *names: str) -> Step:
    x, weight, bias, mean, variance = (call.arguments[name] for name in names)
    shape = [1, x.shape[1], *(1,) * (len(x.shape) - 2)]
    present, eps = [weight is not None, bias is not None], call.arguments["eps"]

    def run(x: Tensor, mean: Tensor, variance: Tensor, *parameters: Tensor) -> Tensor:
        n_tasks = len(x)
        rate = torch.rsqrt(variance + eps).view(n_tasks, *shape)
        return _scaled((x - mean.view(n_tasks, *shape)) * rate, parameters, present, shape)

    return Step(run, [x, mean, variance, *(value for value in (weight, bias) if value is not None)])


def _first_of_three(step: Step) -> Step:
    """PyTorch's operation also returns the statistics; only its own backward reads them, so they are ``None`` here."""
    return Step(lambda *tensors: (step.run(*tensors), None, None), step.operands)


def _scaled(z: Tensor, parameters: Sequence[Tensor], present: Sequence[bool], shape: list[int]) -> Tensor:
    """Scale and shift z by the weight and bias that are present, viewed as [T, *shape]."""
    remaining = iter(parameters)
    weight, bias = (next(remaining).view(len(z), *shape) if each else None for each in present)
    if weight is not None:
        z = z * weight
    return z if bias is None else z + bias
