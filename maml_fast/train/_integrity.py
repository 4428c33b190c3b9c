"""Checks that a checkpoint is what its run wrote, before anything is computed with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from maml_fast.train._earlier import with_old_names

__all__ = ["FREE_ON_RESUME", "check_arguments", "check_optimizer_state", "digest_of_arguments", "digest_of_parameters"]

# Arguments that may change when a run is resumed: they change how long training and the final evaluation take, or no
# number at all (the native kernels give the same bits for any number of threads).
FREE_ON_RESUME = ("iterations", "root", "threads", "checkpoint_seconds", "test_episodes", "cuda_graph")


def digest_of_arguments(arguments: Mapping[str, Any]) -> str:
    """Return a digest that is equal for arguments that give the same results, up to the rounding of a device."""
    fixed = {name: value for name, value in arguments.items() if name not in (*FREE_ON_RESUME, "device")}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def digest_of_parameters(module: nn.Module) -> str:
    """Return a digest of all bits of the parameters."""
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def check_arguments(state: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raise ValueError if a checkpoint belongs to other arguments. Old checkpoints without a digest pass."""
    known = (None, digest_of_arguments(arguments), digest_of_arguments(with_old_names(arguments)))
    if state.get("arguments_sha256") not in known:
        raise ValueError("an argument in it was changed, added or removed since the run began")


def check_optimizer_state(optimizer: torch.optim.Optimizer, saved: Any, iteration: int) -> None:
    """Raise ValueError unless ``saved`` fits ``optimizer`` and its parameters after ``iteration`` iterations.

    PyTorch checks only the number of parameters, and its fused kernels trust the rest.
    """
    own = optimizer.state_dict()
    if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
        raise ValueError("the optimizer state is missing")
    groups = saved.get("param_groups")
    if not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
        raise ValueError("the optimizer has different parameter groups")
    for group, wanted in zip(groups, own["param_groups"], strict=True):
        if not isinstance(group, dict) or wanted.keys() - group.keys() or group["params"] != wanted["params"]:
            raise ValueError("the optimizer has different settings or parameters")
        for name, value in wanted.items():
            if type(value) is not type(group[name]) and not isinstance(group[name], float | Tensor | type(None)):
                raise ValueError(f"the optimizer's {name} is {group[name]!r}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if isinstance(optimizer, torch.optim.Adam) and iteration and parameters and not saved["state"]:
        raise ValueError(f"the optimizer state is empty after {iteration} iterations")
    for number, entry in saved["state"].items():
        if type(number) is not int or not 0 <= number < len(parameters) or not isinstance(entry, dict):
            raise ValueError(f"the optimizer state has an invalid entry for parameter {number!r}")
        _check_entry(number, parameters[number], entry)


def _check_entry(number: int, parameter: Tensor, entry: Mapping[str, Any]) -> None:
    for name, value in entry.items():
        if value is None:
            continue
        shape = torch.Size([]) if name == "step" else parameter.shape
        dtypes = (torch.float32, parameter.dtype)
        if not isinstance(value, Tensor) or value.shape != shape or value.dtype not in dtypes:
            got = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise ValueError(f"the optimizer's {name} of parameter {number} is {got}, not {list(shape)}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"the optimizer's {name} of parameter {number} is not finite")
    if "exp_avg" in entry and not {"step", "exp_avg_sq"} <= entry.keys():
        raise ValueError(f"the optimizer lacks a moment of parameter {number}")
