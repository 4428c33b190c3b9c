"""Batch norm by the support set's statistics: what a query is predicted to be then depends on no other query."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maml_fast.nn import batch_stat_norm, conv_block
from maml_fast.program import BatchNormMode

__all__ = ["SUPPORT_POLICY", "SupportNorms"]

SUPPORT_POLICY = "the support set's statistics (not transductive)"  # in words, to be printed beside an accuracy


class _Statistics(NamedTuple):
    mean: Tensor  # [C]
    variance: Tensor  # [C], biased: by which a batch is normalized


class SupportNorms(BatchNormMode):
    """Inside this context a model's batch norms normalize by statistics of the support set.

    The first pass, of the support images, takes them down, batch norm by batch norm. A pass inside of :meth:`given`
    takes them in the same order.
    """

    def __init__(self) -> None:
        super().__init__("batch")
        self._taken: list[_Statistics] = []
        self._left: Iterator[_Statistics] | None = None

    @contextmanager
    def given(self) -> Iterator[None]:
        """Inside this context images are normalized by what was taken down.

        Raises:
            RuntimeError: the model has called more, or fewer, batch norms than with the support images.
        """
        self._left = iter(self._taken)
        with self:
            yield
        if next(self._left, None) is not None:
            raise _another_number()
        self._left = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is batch_stat_norm:
            return self._batch_stat_norm(*args, **(kwargs or {}))
        if func is conv_block:
            return self._conv_block(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def normalized(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        *,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        """Of the support images, or by their statistics."""
        mean, variance = self._statistics(input)
        shape = [-1 if dim == 1 else 1 for dim in range(input.dim())]
        # In elementary operations, for PyTorch's own does not differentiate through the statistics.
        z = (input - mean.view(shape)) * torch.rsqrt(variance + eps).view(shape)
        if weight is not None:
            z = z * weight.view(shape)
        return z if bias is None else z + bias.view(shape)

    def _statistics(self, x: Tensor) -> _Statistics:
        if self._left is not None:
            found = next(self._left, None)
            if found is None or found.mean.shape != x.shape[1:2]:
                raise _another_number()
            return found
        dims = [dim for dim in range(x.dim()) if dim != 1]
        variance, mean = torch.var_mean(x, dims, correction=0)
        self._taken.append(_Statistics(mean, variance))
        return self._taken[-1]

    def _batch_stat_norm(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, axes: tuple[int, ...] | None = None
    ) -> Tensor:
        return self.normalized(x, None, None, weight, bias, training=True, momentum=0.0, eps=eps)

    def _conv_block(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gamma: Tensor | None,
        beta: Tensor | None,
        *,
        stride: int,
        padding: int,
        pool: int | None,
        eps: float,
        relu_first: bool,
    ) -> Tensor:
        y = F.conv2d(x, weight, bias, stride, padding)
        y = self.normalized(
            y.relu() if relu_first else y, None, None, gamma, beta, training=True, momentum=0.0, eps=eps
        )
        y = y if relu_first else y.relu()
        return y if pool is None else F.max_pool2d(y, pool)


def _another_number() -> RuntimeError:
    return RuntimeError(
        "the model calls other batch norms for the queries than for the support images, whose statistics they should "
        "take; its forward must not depend on the number or the values of the images"
    )
