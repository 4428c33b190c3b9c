"""Arguments of a meta-learner: what is said about bad ones before any work is done, and parameters chosen by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AnySet
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from maml_fast._arguments import choice, many, nn_module, shown, tensor, whole
from maml_fast.data._checks import check_finite

__all__ = [
    "STEPS",
    "AdaptedChoice",
    "as_attribute",
    "check_fast_weights",
    "check_head",
    "check_images",
    "check_like_model",
    "check_model",
    "check_per_step",
    "check_support",
    "matching_names",
    "scored_steps",
    "select_parameters",
    "steps_asked",
]


def check_model(model: Any, batch_norm: Any, policies: Collection[str]) -> None:
    """Raise unless a meta-learner that can follow these policies can be made of this model under this one."""
    nn_module("model", model)
    choice(*policies, said=f"one of {', '.join(map(repr, policies))}")("batch_norm", batch_norm)
    if batch_norm == "running":
        _check_keeps_statistics(model)


MOST_STEPS = 1_000_000  # of one inner loop: more is a slip of the hand
STEPS = whole(0, MOST_STEPS)


def steps_asked(inner_steps: Any, default: int) -> int:
    """The steps of one call: ``inner_steps``, or the learner's own where that is ``None``."""
    return default if inner_steps is None else STEPS("inner_steps", inner_steps)


def check_per_step(per_step: Any, inner_steps: int = MOST_STEPS) -> bool | tuple[int, ...]:
    """Return ``per_step`` if it is True, False, or some of the steps from 0 to ``inner_steps``."""
    if isinstance(per_step, bool | np.bool_):
        return bool(per_step)
    try:
        return many(whole(0, inner_steps))("per_step", [*per_step] if isinstance(per_step, AnySet) else per_step)
    except (TypeError, ValueError):
        wanted = f"True, False or steps from 0 to {inner_steps:,}"
        raise ValueError(f"per_step must be {wanted}, got {shown(per_step)}") from None


def scored_steps(per_step: Any, inner_steps: int) -> tuple[int, ...]:
    """The steps after which queries are scored, in order: the last one, and besides it all, none, or those given."""
    asked = check_per_step(per_step, inner_steps)
    if isinstance(asked, bool):
        return tuple(range(inner_steps + 1)) if asked else (inner_steps,)
    return tuple(sorted({*asked, inner_steps}))


def check_support(x_spt: Any, y_spt: Any) -> None:
    """Raise unless these are images [T, N, ...] and as many targets [T, N, ...]."""
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
    """Raise unless ``x``, which is no part of checked episodes, is like the model and finite.

    On a GPU a look at the values would make the program wait.
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
            raise ValueError(f"fast holds {name!r}, which is no parameter of the model: {', '.join(parameters)}")
        wanted = [x_qry.shape[0], *parameters[name].shape]
        if not isinstance(weight, Tensor) or list(weight.shape) != wanted:
            got = list(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
            raise ValueError(f"fast[{name!r}] must be a tensor {wanted} for the {wanted[0]} tasks of x_qry, got {got}")


def _check_keeps_statistics(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.running_mean is None or module.running_var is None):
            raise ValueError(f"batch_norm='running', but {name or 'the model'} has no running statistics")


AdaptedChoice: TypeAlias = str | Sequence[str] | Callable[[str], bool] | None


def select_parameters(model: nn.Module, adapted: AdaptedChoice) -> tuple[str, ...]:
    """Names of the parameters that ``adapted`` chooses, in the model's order; frozen ones are included.

    ``None`` chooses all; ``"head"`` those of the last module that holds parameters (ANIL, Raghu et al. 2020) and
    ``"body"`` all others (BOIL, Oh et al. 2021); a list of names, prefixes (``"features.3"``) and globs (``"*.bias"``)
    those that any entry matches; a function ``name -> bool`` those for which it is true. An entry that matches nothing,
    and a choice without a trainable parameter, are errors. Whether the last module is the head, :func:`check_head`
    tells when the model has run.
    """
    parameters = dict(model.named_parameters())
    names = tuple(parameters)
    if adapted is None:
        chosen = names
    elif isinstance(adapted, str):
        head = _names_of_last_module(model)
        parts = {"head": head, "body": tuple(name for name in names if name not in head)}
        chosen = parts[adapted] if adapted in parts else _names_of_entries([adapted], names)
    elif callable(adapted) and not isinstance(adapted, type | nn.Module):
        chosen = tuple(name for name in names if adapted(name))
    else:
        chosen = _names_of_entries(adapted, names)
    if not any(parameters[name].requires_grad for name in chosen):
        reason = "all that it chooses are frozen (requires_grad=False)" if chosen else "it chooses no parameter"
        raise ValueError(f"adapted={shown(adapted)} leaves nothing to adapt: {reason}; the model has {_listing(names)}")
    return chosen


def check_head(model: nn.Module, part: str, computed_last: Collection[str]) -> None:
    """Raise if ``adapted="head"`` or ``"body"`` took another head than what the output is ``computed_last`` with."""
    chosen = _names_of_last_module(model)
    found = tuple(name for name, _ in model.named_parameters() if name in computed_last)
    if set(found) != set(chosen):
        choice_of_found = [*found] if part == "head" else f"lambda name: name not in {[*found]}"
        raise ValueError(
            f"adapted={part!r} took the last parameters that the model registers for its head, {_listing(chosen)}, but "
            f"its output is computed last with {_listing(found)}; say which you mean, as in "
            f"MAML(model, adapted={choice_of_found})"
        )


def matching_names(entry: str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that are ``entry``, lie below it (``entry + "."``), or match it as a glob."""
    return [name for name in names if name == entry or name.startswith(f"{entry}.") or fnmatchcase(name, entry)]


def as_attribute(name: str) -> str:
    """A parameter's name in a state dict of what belongs to it: PyTorch reserves the dot."""
    return name.replace(".", "/")


def _names_of_entries(entries: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    chosen: set[str] = set()
    for entry in entries if isinstance(entries, Iterable) and not isinstance(entries, Tensor) else [entries]:
        if not isinstance(entry, str):
            raise TypeError(f"adapted must be None, 'head', 'body', names or a function of a name, got {shown(entry)}")
        matches = matching_names(entry, names)
        if not matches:
            raise ValueError(f"adapted names {entry!r}, which matches no parameter; the model has {_listing(names)}")
        chosen.update(matches)
    return tuple(name for name in names if name in chosen)


def _names_of_last_module(model: nn.Module) -> tuple[str, ...]:
    """As the model lists them: a tied one by the name of its first place."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    last: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if ".parametrizations." not in f".{path}.":  # whose parameters are those of the module that they are part of
            own = [*module.parameters(recurse=False)]
            if parametrize.is_parametrized(module):
                own += cast("nn.Module", module.parametrizations).parameters()
            last = tuple(names[parameter] for parameter in own) or last
    return last


def _listing(names: Iterable[str]) -> str:
    return ", ".join(names) or "no parameters"
