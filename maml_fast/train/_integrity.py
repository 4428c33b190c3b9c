"""Whether a checkpoint is what its run wrote: looked at before anything is computed with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from maml_fast.train._earlier import arguments_as_then

__all__ = ["FREE_ON_RESUME", "check_arguments", "check_optimizer_state", "digest_of_arguments", "digest_of_parameters"]

# Arguments that a resumed run may change: they change no number in it (the native kernels give the same bits on any
# number of threads), or only how far it goes.
FREE_ON_RESUME = ("iterations", "root", "threads", "checkpoint_seconds", "test_episodes", "cuda_graph")


def digest_of_arguments(arguments: Mapping[str, Any]) -> str:
    """Equal for arguments that give the same numbers, up to a device's rounding."""
    fixed = {name: value for name, value in arguments.items() if name not in (*FREE_ON_RESUME, "device")}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def digest_of_parameters(module: nn.Module) -> str:
    """Equal where all bits of the parameters are."""
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def check_arguments(state: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raise ValueError where a checkpoint is of other arguments; those of older runs do not tell."""
    known = (None, digest_of_arguments(arguments), digest_of_arguments(arguments_as_then(arguments)))
    if state.get("arguments_sha256") not in known:
        raise ValueError("an argument in it was changed, added or removed since the run began")


def check_optimizer_state(optimizer: torch.optim.Optimizer, saved: Any, iteration: int) -> None:
    """Raise ValueError unless this is a state of that optimizer, for parameters such as it has, after some iterations.

    PyTorch looks at the number of parameters alone, and its fused kernels trust the rest.
    """
    own = optimizer.state_dict()
    if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
        raise ValueError("the optimizer has no state")
    groups = saved.get("param_groups")
    if not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
        raise ValueError("the optimizer has other groups of parameters")
    for group, wanted in zip(groups, own["param_groups"], strict=True):
        if not isinstance(group, dict) or wanted.keys() - group.keys() or group["params"] != wanted["params"]:
            raise ValueError("the optimizer has other settings or parameters")
        for name, value in wanted.items():
            if type(value) is not type(group[name]) and not isinstance(group[name], float | Tensor | type(None)):
                raise ValueError(f"the optimizer's {name} is {group[name]!r}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if isinstance(optimizer, torch.optim.Adam) and iteration and parameters and not saved["state"]:
        raise ValueError(f"the optimizer remembers nothing after {iteration} iterations")
    for number, remembered in saved["state"].items():
        if type(number) is not int or not 0 <= number < len(parameters) or not isinstance(remembered, dict):
            raise ValueError(f"the optimizer remembers something of parameter {number!r}")
        _check_memory(number, parameters[number], remembered)


def _check_memory(number: int, parameter: Tensor, remembered: Mapping[str, Any]) -> None:
    for name, value in remembered.items():
        if value is None:
            continue
        shape = torch.Size([]) if name == "step" else parameter.shape
        dtypes = (torch.float32, parameter.dtype)
        if not isinstance(value, Tensor) or value.shape != shape or value.dtype not in dtypes:
            got = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise ValueError(f"the optimizer's {name} of parameter {number} is {got}, not {list(shape)}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"the optimizer's {name} of parameter {number} is not finite")
    if "exp_avg" in remembered and not {"step", "exp_avg_sq"} <= remembered.keys():
        raise ValueError(f"the optimizer lacks a moment of parameter {number}")
