"""The adapted weights of all tasks in one tensor [T, P], so that an inner step is one operation on all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maml_fast.inner_loop._optimizers import Rule
from maml_fast.inner_loop._rates import Rate
from maml_fast.inner_loop._values import FastWeights, MaybePerStep, PerStep

__all__ = ["FLAT", "FlatWeights"]

FLAT = "all weights"  # the name of the tensor [T, P] among fast weights

ALIGNMENT = 4  # numbers; kernels read vectors of 16 bytes


class _Place(NamedTuple):
    """A weight's shape, and its extents in memory: filters may be in the order in which the kernels read them."""

    shape: torch.Size
    is_kernel_order: bool

    def in_memory(self, weight: Tensor) -> Tensor:
        """Return a weight [..., *shape] as [..., p], in the order in which it lies in memory."""
        first = weight.dim() - len(self.shape)
        if self.is_kernel_order:
            weight = weight.permute(*range(first), first + 2, first + 3, first + 1, first)
        return weight.flatten(first) if self.shape else weight[..., None]

    def weight(self, piece: Tensor) -> Tensor:
        """Return a piece [T, p] as a weight [T, *shape]."""
        if not self.is_kernel_order:
            return piece.view(len(piece), *self.shape)
        rows, columns, height, width = self.shape
        return piece.view(len(piece), height, width, columns, rows).permute(0, 4, 3, 1, 2)


class FlatWeights:
    """The layout of the tasks' weights in one tensor [T, P].

    Weights whose size is a multiple of the kernels' vectors come first, and P is one too, so that they are aligned.

    Args:
        weights: the weights of one task, by name, all of one dtype; filters may be in kernel order.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        names = sorted(weights, key=lambda name: weights[name].numel() % ALIGNMENT != 0)
        self._places = {name: _Place(weights[name].shape, _is_kernel_order(weights[name])) for name in names}
        sizes = [math.prod(place.shape) for place in self._places.values()]
        self._padding = -sum(sizes) % ALIGNMENT
        self._sizes = sizes
        self._like = weights[names[0]].detach()
        self._zeros: dict[torch.Size, Tensor] = {}  # by the dimensions before them

    @property
    def names(self) -> list[str]:
        """The names of the weights."""
        return list(self._places)

    def pack_shared(self, weights: Mapping[str, Tensor], n_tasks: int) -> FastWeights:
        """Return the weights [...] of all tasks as one, with task stride 0."""
        flat = self._join([place.in_memory(weights[name]) for name, place in self._places.items()])
        return {FLAT: flat.expand(n_tasks, -1)}

    def pack(self, fast: FastWeights) -> FastWeights:
        """Return every task's own weights [T, ...] as one."""
        return {FLAT: self._join([place.in_memory(fast[name]) for name, place in self._places.items()])}

    def unpack(self, fast: FastWeights) -> FastWeights:
        """Return views of the weights, [T, ...] by name."""
        flat = fast[FLAT]
        if torch._C._are_functorch_transforms_active():  # for which _Pieces has no rules
            pieces = flat.split_with_sizes([*self._sizes, self._padding], dim=1)[:-1]
        else:
            pieces = _Pieces.apply(flat, self._sizes, self._padding_of(flat))
        return {name: place.weight(piece) for (name, place), piece in zip(self._places.items(), pieces, strict=True)}

    def rule(self, rule: Rule, steps: int) -> Rule:
        """Return the rule with one rate for all weights: a common one, or rates [P]."""
        rates = [rule[name] for name in self._places]
        return {FLAT: rates[0] if _is_common(rates) else self._elementwise(rates, steps)}

    def _elementwise(self, rates: list[MaybePerStep[Rate]], steps: int) -> MaybePerStep[Rate]:
        leading = (steps,) if any(isinstance(rate, PerStep) for rate in rates) else ()
        pieces = []
        for rate, place in zip(rates, self._places.values(), strict=True):
            if isinstance(rate, PerStep):
                value, own = rate.rows(steps), 1
            else:
                value, own = rate if isinstance(rate, Tensor) else self._like.new_full((), rate), 0
            missing = own + len(place.shape) - value.dim()  # dimensions of the weight that the rate does not have
            value = value.reshape((*value.shape[:own], *(1,) * missing, *value.shape[own:]))
            pieces.append(place.in_memory(value.expand(*leading, *place.shape)))
        joined = self._join(pieces)
        return PerStep(joined) if leading else joined

    def _join(self, pieces: list[Tensor]) -> Tensor:
        return torch.cat([*pieces, self._padding_of(pieces[0])], dim=-1)

    def _padding_of(self, piece: Tensor) -> Tensor:
        leading = piece.shape[:-1]
        if leading not in self._zeros:
            self._zeros[leading] = self._like.new_zeros(*leading, self._padding)
        return self._zeros[leading]


class _Pieces(torch.autograd.Function):
    """Views of [T, P] without the padding; the gradient joins theirs in one kernel, as ``split`` would not."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, sizes: list[int], padding: Tensor) -> tuple[Tensor, ...]:
        ctx.sizes, ctx.padding = sizes, padding
        return tuple(flat.split_with_sizes([*sizes, padding.shape[1]], dim=1)[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Joined.apply(ctx.sizes, ctx.padding, *gradients), None, None


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sizes: list[int], padding: Tensor, *pieces: Tensor) -> Tensor:
        ctx.sizes, ctx.padding = sizes, padding
        return torch.cat([*pieces, padding], dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *_Pieces.apply(gradient, ctx.sizes, ctx.padding)


def _is_kernel_order(weight: Tensor) -> bool:
    return weight.dim() == 4 and not weight.is_contiguous()


def _is_common(rates: list[MaybePerStep[Rate]]) -> bool:
    """Return whether all rates are the same number, or the same scalar tensor, perhaps per step."""
    first = rates[0]
    if isinstance(first, PerStep):
        return first.values.dim() == 1 and all(isinstance(r, PerStep) and r.values is first.values for r in rates)
    if isinstance(first, Tensor):
        return first.dim() == 0 and all(rate is first for rate in rates)
    return all(not isinstance(rate, Tensor | PerStep) and rate == first for rate in rates)
