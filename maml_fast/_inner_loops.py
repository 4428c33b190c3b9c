"""The native inner loops of a whole meta-batch: one call of the operator in ``csrc/bindings/inner_loop.cpp``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maml_fast import native

__all__ = ["NetDescription", "inner_loops"]


class NetDescription(NamedTuple):
    """A net in numbers.

    blocks: out_channels, kernel, stride, padding, pool, relu_first, has_bias, has_gamma, has_beta of every block.
    eps: of every block.
    head: mean_over_pixels, classes, has_bias.
    """

    blocks: list[int]
    eps: list[float]
    head: list[int]

    @property
    def n_classes(self) -> int:
        """Outputs of the classifier."""
        return self.head[1]


def inner_loops(
    net: NetDescription,
    theta: Sequence[Tensor],
    episodes: Sequence[Tensor],
    rates: list[float],
    *,
    steps: int,
    order: int,
    scored: Sequence[int],
    tasks_at_once: int,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Adapt ``net`` from ``theta`` to every task, score its queries, and differentiate through that.

    Args:
        net: the net; its blocks must be such as the native kernels take.
        theta: all parameters: of every block the weight [Cout, Cin, k, k], bias, gamma and beta, then the classifier's
            weight [classes, features] and bias.
        episodes: x_spt [T, N, C, H, W], y_spt [T, N], x_qry [T, M, C, H, W], y_qry [T, M]; labels in int64.
        rates: the inner learning rate of every parameter.
        steps: inner steps.
        order: 2 differentiates through the inner gradients, 1 takes them as constants.
        scored: the steps, in order, after which the queries are scored; the last one must be the last of all.
        tasks_at_once: in memory.
        needs_gradient: whether to compute the gradient.

    Returns:
        query losses [S, T], right query predictions [S, T] int64, and the gradient of the last losses' mean over tasks
        with respect to every parameter, or nothing; S is the number of scored steps.
    """
    losses, correct, gradient = torch.ops.maml_fast.inner_loops(
        [parameter.contiguous() for parameter in theta],
        *(part.contiguous() for part in episodes),
        *net,
        rates,
        list(scored),
        steps,
        order == 2,
        tasks_at_once,
        needs_gradient,
    )
    return losses, correct, gradient


@native.when_loaded
def _register_shapes() -> None:
    """Tell torch the operator's output shapes, once the library that defines it is loaded."""

    @torch.library.register_fake("maml_fast::inner_loops")
    def _(theta: list[Tensor], x_spt: Tensor, *rest: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
        *_, scored, _steps, _second_order, _tasks_at_once, needs_gradient = rest
        scores = len(scored), x_spt.shape[0]
        losses, correct = x_spt.new_empty(scores), x_spt.new_empty(scores, dtype=torch.int64)
        return losses, correct, [torch.empty_like(parameter) for parameter in theta] if needs_gradient else []
