"""Argument checks of meta-learners."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AnySet
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maml_fast._arguments import choice, int_from, many, nn_module, shown, tensor
from maml_fast.data._checks import check_finite

__all__ = [
    "STEPS",
    "check_fast_weights",
    "check_images",
    "check_like_model",
    "check_model",
    "check_per_step",
    "check_support",
    "resolve_steps",
    "scored_steps",
]


def check_model(model: Any, batch_norm: Any, policies: Collection[str]) -> None:
    """Raise unless ``model`` is a module that supports the policy ``batch_norm``, which must be one of ``policies``."""
    nn_module("model", model)
    choice(*policies, said=f"one of {', '.join(map(repr, policies))}")("batch_norm", batch_norm)
    if batch_norm == "running":
        _check_keeps_statistics(model)


MOST_STEPS = 1_000_000  # of one inner loop; a larger number is most likely a typo
STEPS = int_from(0, MOST_STEPS)


def resolve_steps(inner_steps: Any, default: int) -> int:
    """Return the checked ``inner_steps`` of a call, or ``default`` if it is ``None``."""
    return default if inner_steps is None else STEPS("inner_steps", inner_steps)


def check_per_step(per_step: Any, inner_steps: int = MOST_STEPS) -> bool | tuple[int, ...]:
    """Return ``per_step`` as a bool or as a tuple of steps; raise unless these are in 0 to ``inner_steps``."""
    if isinstance(per_step, bool | np.bool_):
        return bool(per_step)
    try:
        return many(int_from(0, inner_steps))("per_step", [*per_step] if isinstance(per_step, AnySet) else per_step)
    except (TypeError, ValueError):
        wanted = f"True, False or steps from 0 to {inner_steps:,}"
        raise ValueError(f"per_step must be {wanted}, got {shown(per_step)}") from None


def scored_steps(per_step: Any, inner_steps: int) -> tuple[int, ...]:
    """Return the steps after which the query set is scored, sorted.

    The last step is always among them; ``per_step`` adds all steps, none, or those that it lists.
    """
    asked = check_per_step(per_step, inner_steps)
    if isinstance(asked, bool):
        return tuple(range(inner_steps + 1)) if asked else (inner_steps,)
    return tuple(sorted({*asked, inner_steps}))


def check_support(x_spt: Any, y_spt: Any) -> None:
    """Raise unless ``x_spt`` are images [T, N, ...] and ``y_spt`` targets [T, N, ...] on the same device."""
    tensor("x_spt", x_spt)
    tensor("y_spt", y_spt)
    if x_spt.dim() < 3 or y_spt.dim() < 2 or x_spt.shape[:2] != y_spt.shape[:2] or 0 in x_spt.shape:
        raise ValueError(
            f"the support set must be images [T, N, ...] and targets [T, N, ...] of T tasks, "
            f"got x_spt {list(x_spt.shape)} and y_spt {list(y_spt.shape)}"
        )
    if x_spt.device != y_spt.device:
        raise ValueError(f"x_spt is on {x_spt.device} but y_spt on {y_spt.device}; move them to one device")


def check_like_model(name: str, x: Any, parameters: Mapping[str, Tensor]) -> None:
    """Raise unless ``x`` is on the device of the model's parameters and, if floating-point, in their dtype."""
    tensor(name, x)
    devices = {parameter.device for parameter in parameters.values()}
    if len(devices) == 1 and x.device not in devices:
        raise ValueError(f"{name} is on {x.device}, the model on {devices.pop()}; move one of them with .to(device)")
    dtypes = {parameter.dtype for parameter in parameters.values()}
    if len(dtypes) == 1 and x.is_floating_point() and x.dtype not in dtypes and not torch.is_autocast_enabled():
        raise ValueError(f"{name} is {x.dtype}, the model {dtypes.pop()}; convert one of them with .to(dtype)")


def check_images(name: str, x: Any, parameters: Mapping[str, Tensor]) -> None:
    """Raise unless ``x`` has the model's device and dtype and is finite.

    For images that have not been checked as part of episodes. Values are checked on the CPU only: on a GPU the check
    would synchronize.
    """
    check_like_model(name, x, parameters)
    if x.device.type == "cpu" and x.is_floating_point() and not torch._C._are_functorch_transforms_active():
        check_finite(name, x)


def check_fast_weights(fast: Any, x_qry: Tensor, parameters: Mapping[str, Tensor]) -> None:
    """Raise unless ``fast`` maps names of the model's parameters to [T, ...] for the T tasks of ``x_qry``."""
    if not isinstance(fast, Mapping):
        raise TypeError(f"fast must map parameter names to tensors, as adapt() returns it, got {type(fast).__name__}")
    if x_qry.dim() < 3 or 0 in x_qry.shape:
        raise ValueError(f"x_qry must be images [T, N, ...] of T tasks, got {list(x_qry.shape)}")
    for name, weight in fast.items():
        if name not in parameters:
            raise ValueError(f"fast holds {name!r}, which is not a parameter of the model: {', '.join(parameters)}")
        wanted = [x_qry.shape[0], *parameters[name].shape]
        if not isinstance(weight, Tensor) or list(weight.shape) != wanted:
            got = list(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
            raise ValueError(f"fast[{name!r}] must be a tensor {wanted} for the {wanted[0]} tasks of x_qry, got {got}")


def _check_keeps_statistics(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.running_mean is None or module.running_var is None):
            raise ValueError(f"batch_norm='running', but {name or 'the model'} has no running statistics")
