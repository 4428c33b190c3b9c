"""Learning rates of the inner loop: one number, one per parameter, fixed or meta-learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from maml_fast._arguments import number, shown
from maml_fast.maml._arguments import as_attribute, matching_names
from maml_fast.maml._heads import rows_in_turn
from maml_fast.maml._values import MaybePerStep, PerStep

__all__ = [
    "InnerRates",
    "LearnInnerLR",
    "Rate",
    "check_broadcasts",
    "check_learn_inner_lr",
    "check_rate",
    "make_inner_lr",
    "of_steps",
]

Rate: TypeAlias = float | Tensor
LearnInnerLR: TypeAlias = bool | Literal["per_step"]


def check_learn_inner_lr(learn: Any) -> LearnInnerLR:
    """Return ``learn`` if it is one of the ways to learn inner rates."""
    if isinstance(learn, bool | np.bool_):
        return bool(learn)
    if isinstance(learn, str) and learn == "per_step":
        return "per_step"
    raise ValueError(f"learn_inner_lr must be True, False or 'per_step', got {shown(learn)}")


def check_rate(rate: Rate, what: str = "inner_lr") -> Rate:
    """Return ``rate`` as a float or a floating-point tensor, or say what is wrong with it."""
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
    """Rates of single weights may be negative, as those that Meta-SGD learns are; one for all of them may not."""
    if rate.is_meta or torch._C._are_functorch_transforms_active():
        return
    if not rate.isfinite().all():
        raise ValueError(f"{what} must be finite, got a tensor with {rate[~rate.isfinite()][0].item()}")
    if rate.numel() == 1 and rate.item() < 0:
        raise ValueError(f"{what} must be finite and at least 0, got a tensor of {rate.item():g}")


def check_broadcasts(rate: Rate, parameters: Mapping[str, Tensor], what: str = "inner_lr") -> None:
    """Raise unless ``rate`` can multiply each of ``parameters`` without changing its shape."""
    shape = rate.shape if isinstance(rate, Tensor) else ()
    for name, parameter in parameters.items():
        trailing = parameter.shape[parameter.dim() - len(shape) :] if len(shape) <= parameter.dim() else None
        if trailing is None or any(r not in (1, p) for r, p in zip(shape, trailing, strict=True)):
            raise ValueError(
                f"{what} of shape {tuple(shape)} does not broadcast to {name} of shape {tuple(parameter.shape)}"
            )


def learnable_rate(rate: Rate, like: Tensor, steps: int | None) -> nn.Parameter:
    """A meta-learned rate that starts at ``rate``, in the dtype and on the device of ``like``; one for every step."""
    start = torch.as_tensor(rate, dtype=like.dtype, device=like.device).detach()
    return nn.Parameter(start.clone() if steps is None else start.expand(steps, *start.shape).clone())


def of_steps(rate: Rate, steps: int | None) -> MaybePerStep[Rate]:
    """A rate as the inner loop takes it, [steps, ...] if there are steps."""
    return PerStep(rate) if steps is not None and isinstance(rate, Tensor) else rate


class InnerRates(nn.Module):
    """Inner learning rates by parameter name, prefix or glob; a later key overrides an earlier one.

    A rate is a number or a tensor that broadcasts to its parameter (element-wise rates as in Meta-SGD). It is also that
    of parameters that are ``frozen`` now, should they adapt later. With ``learnable`` every key has one
    ``nn.Parameter``, shared by the parameters that the key stands for; with ``steps`` it is [steps, ...], each step's
    own. In the state dict a key's dots are written as slashes, because PyTorch reserves the dot.
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
                f"inner_lr has no rate for {', '.join(missing)}; add them, or '*' first for all the others"
            )

    def rate_of(self, name: str) -> MaybePerStep[Rate]:
        """The rate of the parameter called ``name``."""
        if name not in self._key_of:
            raise RuntimeError(
                f"{name} was frozen when the inner rates were given, and has none; set inner_lr again with one for it, "
                "or make a new learner"
            )
        return of_steps(self[self._key_of[name]], self._steps)

    def resize(self, dimensions: Mapping[str, int], n_rows: int) -> None:
        """Give rates of single weights so many rows: those that they have, in turn.

        ``dimensions``: of the parameters that have so many rows now, by name.
        """
        first = 0 if self._steps is None else 1
        for name, of_parameter in dimensions.items():
            key = self._key_of.get(name)
            rate = None if key is None else self[key]
            if isinstance(rate, Tensor) and rate.dim() - first == of_parameter and rate.shape[first] > 1:
                resized = rows_in_turn(rate.detach(), n_rows, first)
                kept = nn.Parameter(resized, rate.requires_grad) if isinstance(rate, nn.Parameter) else resized
                setattr(self, as_attribute(str(key)), kept)

    def __getitem__(self, key: str) -> Rate:
        return self._numbers[key] if key in self._numbers else getattr(self, as_attribute(key))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(self._key_of.values()))

    def extra_repr(self) -> str:
        """The fixed numbers; tensors are listed by PyTorch itself."""
        return ", ".join(f"{key}={rate}" for key, rate in self._numbers.items())


def make_inner_lr(
    inner_lr: Any,
    adapted: Mapping[str, nn.Parameter],
    frozen: Mapping[str, nn.Parameter],
    learnable: bool,
    steps: int | None,
) -> Rate | InnerRates:
    """What MAML keeps as its ``inner_lr``, for parameters that adapt, or would if they were not frozen; see there."""
    if callable(inner_lr) and not isinstance(inner_lr, Tensor | type | nn.Module):
        inner_lr = {name: inner_lr(parameter) for name, parameter in adapted.items()}
    if isinstance(inner_lr, Mapping):
        return InnerRates(inner_lr, adapted, frozen, learnable, steps)
    rate = check_rate(inner_lr)
    check_broadcasts(rate, adapted)
    return learnable_rate(rate, next(iter(adapted.values())), steps) if learnable else rate
