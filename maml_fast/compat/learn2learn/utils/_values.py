"""Small functions that learn2learn offers beside its modules."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from maml_fast._arguments import instance, takes, tensor
from maml_fast.compat.learn2learn.utils._modules import clone_module, detach_module

__all__ = ["accuracy", "clone_distribution", "detach_distribution", "flatten_config", "magic_box", "warn_once"]

T = TypeVar("T")
D = TypeVar("D", bound=Distribution)


def magic_box(x: T) -> T:
    """Return exp(x - detached x): ones, whose gradient is that of x. Anything but a tensor is returned as it is.

    Source: Foerster et al. 2018, DiCE, equation 8.
    """
    return torch.exp(x - x.detach()) if isinstance(x, Tensor) else x  # type: ignore[return-value]


@takes(preds=tensor, targets=tensor)
def accuracy(preds: Tensor, targets: Tensor) -> Tensor:
    """Return the fraction of rows of ``preds`` [N, C] whose largest entry is the one of ``targets`` [N].

    Raises:
        ValueError: there is not one target for each row.
    """
    if preds.dim() < 2 or preds.shape[:1] + preds.shape[2:] != targets.shape:
        raise ValueError(f"preds must be [N, C] and targets [N], got {list(preds.shape)} and {list(targets.shape)}")
    return (preds.argmax(dim=1).long() == targets.long()).sum().float() / preds.size(0)


@takes(dist=instance(Distribution))
def clone_distribution(dist: D) -> D:
    """Return a copy of a distribution whose tensors and modules are differentiable functions of those of ``dist``."""
    clone = copy.copy(dist)
    for name, value in vars(dist).items():
        if isinstance(value, Tensor):
            vars(clone)[name] = value.clone()
        elif isinstance(value, nn.Module):
            vars(clone)[name] = clone_module(value)
        elif isinstance(value, Distribution):
            vars(clone)[name] = clone_distribution(value)
    return clone


@takes(dist=instance(Distribution))
def detach_distribution(dist: D) -> D:
    """Detach the tensors and modules of a distribution from the autograd graph; return the distribution."""
    for name, value in vars(dist).items():
        if isinstance(value, Tensor):
            vars(dist)[name] = value.detach()
        elif isinstance(value, nn.Module):
            detach_module(value)
        elif isinstance(value, Distribution):
            detach_distribution(value)
    return dist


def flatten_config(args: Any, prefix: str | None = None) -> dict[str | None, Any]:
    """Return the entries of nested dicts, dataclasses and namespaces as one dict, with names such as ``optim.lr``."""
    if isinstance(args, argparse.Namespace):
        args = vars(args)
    if isinstance(args, Mapping):
        entries: Iterator[tuple[str, Any]] = iter(args.items())
    elif dataclasses.is_dataclass(args):
        entries = ((field.name, getattr(args, field.name)) for field in dataclasses.fields(args))
    else:
        return {prefix: args}
    flat: dict[str | None, Any] = {}
    for name, value in entries:
        flat.update(flatten_config(value, name if prefix is None else f"{prefix}.{name}"))
    return flat


class _WarnOnce:
    """Warns of each message once in a process."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, message: str, severity: str | type[Warning] | None = None) -> None:
        """Warn. ``severity`` is a class of warnings, "default", "deprecation", or "error" to raise RuntimeError."""
        if severity == "error":
            raise RuntimeError(message)
        if message not in self._seen:
            self._seen.add(message)
            named: Mapping[Any, Any] = {None: UserWarning, "default": UserWarning}
            category = DeprecationWarning if severity == "deprecation" else named.get(severity, severity)
            warnings.warn(message, category, stacklevel=2)


warn_once = _WarnOnce()
