"""Batch norm by the support set's statistics, so that a prediction does not depend on the other queries."""

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

SUPPORT_POLICY = "the support set's statistics (not transductive)"  # printed next to accuracies


class _Statistics(NamedTuple):
    mean: Tensor  # [C]
    variance: Tensor  # [C], biased


class SupportNorms(BatchNormMode):
    """Context in which a model's batch norms normalize by statistics of the support set.

    The first pass, on the support images, records the statistics of every batch norm. A pass on queries, inside
    :meth:`for_queries`, uses them in the same order.
    """

    def __init__(self) -> None:
        super().__init__("batch")
        self._recorded: list[_Statistics] = []
        self._remaining: Iterator[_Statistics] | None = None

    @contextmanager
    def for_queries(self) -> Iterator[None]:
        """Context in which images are normalized by the recorded statistics.

        Raises:
            RuntimeError: the model calls more or fewer batch norms than for the support images.
        """
        self._remaining = iter(self._recorded)
        with self:
            yield
        if next(self._remaining, None) is not None:
            raise _mismatch_error()
        self._remaining = None

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
        """Normalize the support images, and record their statistics; or normalize queries by these."""
        mean, variance = self._statistics(input)
        shape = [-1 if dim == 1 else 1 for dim in range(input.dim())]
        # Elementary operations: PyTorch's own batch norm does not differentiate through statistics passed to it.
        z = (input - mean.view(shape)) * torch.rsqrt(variance + eps).view(shape)
        if weight is not None:
            z = z * weight.view(shape)
        return z if bias is None else z + bias.view(shape)

    def _statistics(self, x: Tensor) -> _Statistics:
        if self._remaining is not None:
            found = next(self._remaining, None)
            if found is None or found.mean.shape != x.shape[1:2]:
                raise _mismatch_error()
            return found
        dims = [dim for dim in range(x.dim()) if dim != 1]
        variance, mean = torch.var_mean(x, dims, correction=0)
        self._recorded.append(_Statistics(mean, variance))
        return self._recorded[-1]

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


def _mismatch_error() -> RuntimeError:
    return RuntimeError(
        "the model calls other batch norms for the queries than for the support images, whose statistics they should "
        "take; its forward must not depend on the number or the values of the images"
    )
