"""Validation of the four tensors of episodes; each function raises one error that names the fault."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maml_fast import _arguments as arguments

if TYPE_CHECKING:
    from maml_fast.data._episodes import Episodes


def check_tensors(parts: Sequence[Tensor], names: Sequence[str]) -> None:
    """Raise TypeError unless ``parts`` is a tuple or list of tensors, one for each name."""
    if not isinstance(parts, tuple | list) or len(parts) != len(names):
        got = f"{len(parts)} of them" if isinstance(parts, tuple | list) else type(parts).__name__
        raise TypeError(f"episodes must be four tensors, ({', '.join(names)}), got {got}")
    for name, part in zip(names, parts, strict=True):
        arguments.tensor(name, part)


def check_shapes(episodes: Episodes, classification: bool) -> None:
    """Raise ValueError if the shapes disagree."""
    wrong = _wrong_shapes(episodes, classification)
    if wrong is not None:
        shapes = ", ".join(f"{n} {list(x.shape)}" for n, x in zip(episodes._fields, episodes, strict=True))
        raise ValueError(f"{wrong}, got {shapes}")


def _wrong_shapes(episodes: Episodes, classification: bool) -> str | None:
    if any(x.dim() < 3 for x in (episodes.x_spt, episodes.x_qry)):
        return "images must be [episodes, images, ...], at least three dimensions"
    if any(y.dim() != 2 if classification else y.dim() < 2 for y in (episodes.y_spt, episodes.y_qry)):
        return "labels must be [episodes, images], one for each image"
    if any(0 in x.shape for x in episodes):
        return "episodes must not be empty"
    if len({x.shape[0] for x in episodes}) != 1:
        return "all four must have the same number of episodes (dimension 0)"
    for half, x, y in (("support", episodes.x_spt, episodes.y_spt), ("query", episodes.x_qry, episodes.y_qry)):
        if x.shape[1] != y.shape[1]:
            return f"{half}: {x.shape[1]} images but {y.shape[1]} labels in each episode"
    if classification and episodes.x_spt.shape[2:] != episodes.x_qry.shape[2:]:
        return "support and query images must have the same shape"
    return None


_INDICES = (torch.int64, torch.int32)  # inputs of models that look them up, such as embeddings


def check_types(episodes: Episodes, classification: bool) -> None:
    """Raise TypeError if a dtype is wrong, ValueError if dtypes or devices disagree."""
    for name, tensor in zip(episodes._fields, episodes, strict=True):
        if name.startswith("x") and not tensor.is_floating_point() and tensor.dtype not in _INDICES:
            raise TypeError(f"{name} must be floating point, got {tensor.dtype}; {_as_floats(name, tensor)}")
        if name.startswith("y") and classification and tensor.dtype != torch.int64:
            remedy = _as_classes(name, tensor)
            raise TypeError(f"{name} must hold class numbers as torch.int64, got {tensor.dtype}; {remedy}")
    if episodes.x_spt.dtype != episodes.x_qry.dtype:
        raise ValueError(f"x_spt is {episodes.x_spt.dtype} but x_qry is {episodes.x_qry.dtype}; convert one of them")
    devices = [x.device for x in episodes]
    if len(set(devices)) != 1:
        raise ValueError(f"all four must be on one device, got {', '.join(map(str, devices))}; use Episodes.to(device)")


def _as_floats(name: str, tensor: Tensor) -> str:
    """Return the advice how to convert ``tensor`` to a valid input."""
    if tensor.dtype == torch.uint8:
        return f"scale images, as in {name}.float() / 255; tokens and other indices are {name}.long()"
    if tensor.dtype == torch.bool:
        return f"use {name}.float()"
    if tensor.is_complex():
        return f"use torch.view_as_real({name})"
    return f"use {name}.float() for measurements, {name}.long() for tokens and other indices"


def _as_classes(name: str, tensor: Tensor) -> str:
    if tensor.is_complex() or (tensor.is_floating_point() and bool((tensor != tensor.round()).any())):
        return "targets that are no classes need another loss_fn, as in MAML(model, loss_fn=F.mse_loss)"
    return f"use {name}.long()"


def check_values(episodes: Episodes, n_way: int | None, classification: bool, ignored: int | None = None) -> None:
    """Raise ValueError if a value is NaN or infinite, or a label other than ``ignored`` is out of range."""
    for name, tensor in zip(episodes._fields, episodes, strict=True):
        if tensor.is_floating_point():
            check_finite(name, tensor)
        elif classification:
            _check_labels(name, tensor, n_way, ignored)


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError if a value of ``tensor`` [T, N, ...] is NaN or infinite."""
    tensor = tensor.detach()
    if math.isfinite(tensor.sum().item()):  # much faster than isfinite on every value, but the sum may overflow
        return
    finite = torch.isfinite(tensor)
    if not finite.all():
        t, i = (int(place) for place in (~finite).nonzero()[0][:2])
        raise ValueError(f"{name} holds NaN or infinity, first in image {i} of episode {t}; clean the data")


def _check_labels(name: str, labels: Tensor, n_way: int | None, ignored: int | None) -> None:
    if ignored is not None and (labels == ignored).any():
        labels = labels[labels != ignored]
        if not labels.numel():
            return
    smallest, largest = (int(x) for x in torch.aminmax(labels))
    if smallest < 0:
        raise ValueError(f"{name} holds label {smallest}; labels are class numbers from 0")
    if n_way is not None and largest >= n_way:
        raise ValueError(f"{name} holds label {largest}, but with {n_way} classes labels are 0 to {n_way - 1}")
