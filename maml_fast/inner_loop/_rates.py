"""Learning rates of the inner loop: one for all parameters or one per parameter, fixed or meta-learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from maml_fast._arguments import number, shown
from maml_fast.inner_loop._heads import cycle_rows
from maml_fast.inner_loop._selection import as_attribute, matching_names
from maml_fast.inner_loop._values import MaybePerStep, PerStep

__all__ = [
    "InnerRates",
    "LearnInnerLR",
    "Rate",
    "check_broadcasts",
    "check_learn_inner_lr",
    "check_rate",
    "make_inner_lr",
    "per_step_rate",
]

Rate: TypeAlias = float | Tensor
LearnInnerLR: TypeAlias = bool | Literal["per_step"]


def check_learn_inner_lr(learn: Any) -> LearnInnerLR:
    """Return ``learn`` if it is a bool or ``"per_step"``, else raise ValueError."""
    if isinstance(learn, bool | np.bool_):
        return bool(learn)
    if isinstance(learn, str) and learn == "per_step":
        return "per_step"
    raise ValueError(f"learn_inner_lr must be True, False or 'per_step', got {shown(learn)}")


def check_rate(rate: Rate, what: str = "inner_lr") -> Rate:
    """Return ``rate`` as a float or a floating-point tensor; raise if its type or its values are not allowed."""
    if isinstance(rate, Tensor):
        if not rate.is_floating_point():
            raise TypeError(f"{what} must be a floating-point tensor, got {rate.dtype}")
        _check_values(rate.detach(), what)
        return rate
    if isinstance(rate, bool) or not isinstance(rate, Real):
        wanted = "a number, a tensor or a mapping from parameter names to these"
        raise TypeError(f"{what} must be {wanted}, got {shown(rate)}")
    return number(least=0)(what, rate)


def _check_values(rate: Tensor, what: str) -> None:
    """Raise unless the rates are finite. Elementwise rates may be negative (Meta-SGD learns such); a scalar may not."""
    if rate.is_meta or torch._C._are_functorch_transforms_active():
        return
    if not rate.isfinite().all():
        raise ValueError(f"{what} must be finite, got a tensor with {rate[~rate.isfinite()][0].item()}")
    if rate.numel() == 1 and rate.item() < 0:
        raise ValueError(f"{what} must be finite and at least 0, got a tensor of {rate.item():g}")


def check_broadcasts(rate: Rate, parameters: Mapping[str, Tensor], what: str = "inner_lr") -> None:
    """Raise ValueError unless ``rate`` broadcasts to the shape of each of ``parameters``."""
    shape = rate.shape if isinstance(rate, Tensor) else ()
    for name, parameter in parameters.items():
        trailing = parameter.shape[parameter.dim() - len(shape) :] if len(shape) <= parameter.dim() else None
        if trailing is None or any(r not in (1, p) for r, p in zip(shape, trailing, strict=True)):
            raise ValueError(
                f"{what} of shape {tuple(shape)} does not broadcast to {name} of shape {tuple(parameter.shape)}"
            )


def learnable_rate(rate: Rate, like: Tensor, steps: int | None) -> nn.Parameter:
    """Return a meta-learned rate that starts at ``rate``, with the dtype and device of ``like``.

    With ``steps`` it is [steps, ...], one rate for every step.
    """
    start = torch.as_tensor(rate, dtype=like.dtype, device=like.device).detach()
    return nn.Parameter(start.clone() if steps is None else start.expand(steps, *start.shape).clone())


def per_step_rate(rate: Rate, steps: int | None) -> MaybePerStep[Rate]:
    """Return a rate in the form that the inner loop takes: a tensor [steps, ...] as :class:`PerStep`."""
    return PerStep(rate) if steps is not None and isinstance(rate, Tensor) else rate


class InnerRates(nn.Module):
    """Inner learning rates by parameter name, prefix or glob; a later key overrides an earlier one.

    In the state dict, slashes replace the dots of a key, because PyTorch reserves the dot.

    Args:
        rates: by key, a number or a tensor that broadcasts to the parameters (elementwise rates, as in Meta-SGD).
        adapted: the parameters that adapt, by name.
        frozen: parameters that are frozen now. A key also applies to them, in case they adapt later.
        learnable: make one ``nn.Parameter`` per key, shared by all parameters that the key matches.
        steps: with ``learnable``, the number of rates per key: [steps, ...], one for every inner step.
    """

    def __init__(
        self,
        rates: Mapping[str, Rate],
        adapted: Mapping[str, Tensor],
        frozen: Mapping[str, Tensor],
        learnable: bool = False,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        self._steps = steps
        self._numbers: dict[str, float] = {}
        self._key_of: dict[str, str] = {}
        parameters = {**adapted, **frozen}
        for key, value in rates.items():
            what = f"inner_lr[{key!r}]"
            if not isinstance(key, str):
                raise TypeError(f"{what}: the keys of inner_lr are parameter names, prefixes or globs")
            rate = check_rate(value, what)
            matches = matching_names(key, adapted)
            if not matches:
                raise ValueError(f"{what} matches no adapted parameter; these adapt: {', '.join(adapted)}")
            names = matching_names(key, parameters)
            check_broadcasts(rate, {name: parameters[name] for name in names}, what)
            self._key_of.update(dict.fromkeys(names, key))
            if learnable:
                self.register_parameter(as_attribute(key), learnable_rate(rate, adapted[matches[0]], steps))
            elif isinstance(rate, Tensor):
                self.register_buffer(as_attribute(key), rate)
            else:
                self._numbers[key] = rate
        missing = [name for name in adapted if name not in self._key_of]
        if missing:
            raise ValueError(
                f"inner_lr has no rate for {', '.join(missing)}; add keys for them, or '*' as the first key"
            )

    def rate_of(self, name: str) -> MaybePerStep[Rate]:
        """Return the rate of the parameter ``name``."""
        if name not in self._key_of:
            raise RuntimeError(
                f"{name} was frozen when inner_lr was set, and has no rate; set inner_lr again with a rate for it, or "
                "make a new learner"
            )
        return per_step_rate(self[self._key_of[name]], self._steps)

    def resize(self, dimensions: Mapping[str, int], n_rows: int) -> None:
        """Resize the elementwise rates of the classifier to ``n_rows`` rows; see :func:`cycle_rows`.

        Args:
            dimensions: number of dimensions of each classifier parameter, by name.
            n_rows: the new number of rows.
        """
        first = 0 if self._steps is None else 1
        for name, of_parameter in dimensions.items():
            key = self._key_of.get(name)
            rate = None if key is None else self[key]
            if isinstance(rate, Tensor) and rate.dim() - first == of_parameter and rate.shape[first] > 1:
                resized = cycle_rows(rate.detach(), n_rows, first)
                kept = nn.Parameter(resized, rate.requires_grad) if isinstance(rate, nn.Parameter) else resized
                setattr(self, as_attribute(str(key)), kept)

    def __getitem__(self, key: str) -> Rate:
        return self._numbers[key] if key in self._numbers else getattr(self, as_attribute(key))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(self._key_of.values()))

    def extra_repr(self) -> str:
        """Return the rates that are plain numbers; PyTorch lists the tensors itself."""
        return ", ".join(f"{key}={rate}" for key, rate in self._numbers.items())


def make_inner_lr(
    inner_lr: Any,
    adapted: Mapping[str, nn.Parameter],
    frozen: Mapping[str, nn.Parameter],
    learnable: bool,
    steps: int | None,
) -> Rate | InnerRates:
    """Return the value of MAML's attribute ``inner_lr``: one rate, or :class:`InnerRates` for a mapping or function.

    Args:
        inner_lr: as for MAML.
        adapted: the parameters that adapt, by name.
        frozen: parameters that were selected to adapt but are frozen now, by name.
        learnable: whether rates are meta-learned.
        steps: number of rates per parameter or key, for rates per step; ``None`` for one.
    """
    if callable(inner_lr) and not isinstance(inner_lr, Tensor | type | nn.Module):
        inner_lr = {name: inner_lr(parameter) for name, parameter in adapted.items()}
    if isinstance(inner_lr, Mapping):
        return InnerRates(inner_lr, adapted, frozen, learnable, steps)
    rate = check_rate(inner_lr)
    check_broadcasts(rate, adapted)
    return learnable_rate(rate, next(iter(adapted.values())), steps) if learnable else rate
