"""The native inner loops of a whole meta-batch: one call of the operator in ``csrc/bindings/inner_loop.cpp``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maml_fast import native

__all__ = [
    "InnerLoopsResult",
    "LoweredModel",
    "NetDescription",
    "inner_loops",
]


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


class LoweredModel(NamedTuple):
    """A recorded model and its loss in numbers, as :mod:`maml_fast.lowering` writes them.

    layouts: of every parameter.
    support, query: programs, each in whole numbers and in factors.
    classes: labels must be below this, or -100; 0: they may be any.
    """

    layouts: list[int]
    support: tuple[list[int], list[float]]
    query: tuple[list[int], list[float]]
    classes: int

    def in_numbers(self) -> tuple[Any, ...]:
        """As the operator takes them."""
        return self.layouts, *self.support, *self.query, self.classes


class InnerLoopsResult(NamedTuple):
    """Of T tasks, scored after S steps.

    objective: the weighted losses' mean over tasks, [].
    losses: mean query losses, [S, T].
    correct: right query predictions, [S, T] int64.
    predictions: query predictions, [T] int64; ignored labels do not count.
    gradient: of the objective with respect to every parameter; empty if not asked for.
    rate_gradient: the same with respect to the rates that need one, in order.
    """

    objective: Tensor
    losses: Tensor
    correct: Tensor
    predictions: Tensor
    gradient: list[Tensor]
    rate_gradient: list[Tensor]


def inner_loops(
    net: NetDescription | LoweredModel,
    theta: Sequence[Tensor],
    episodes: Sequence[Tensor],
    rates: Sequence[Tensor],
    rate_needs_gradient: Sequence[bool],
    *,
    steps: int,
    order: int,
    scored: Sequence[int],
    step_weights: Sequence[float],
    tasks_at_once: int,
    steps_kept: int | None = None,
    needs_gradient: bool,
) -> InnerLoopsResult:
    """Adapt ``net`` from ``theta`` to every task, score its queries, and differentiate through that.

    Args:
        net: the net; its blocks must be such as the native kernels take. Or a recorded model with its loss.
        theta: all parameters: of every block the weight [Cout, Cin, k, k], bias, gamma and beta, then the classifier's
            weight [classes, features] and bias; of a recorded model in the order of its layouts. Any may have a first
            dimension more, of max(steps, 1): a value for every step, which no step changes, as batch norm's parameters
            in Antoniou et al. 2019. A step takes its own, the queries are scored with the last step's, and before any
            step with the first's. Its rate must be 0.
        episodes: x_spt [T, N, C, H, W], y_spt [T, N], x_qry [T, M, C, H, W], y_qry [T, M]; labels in int64, -100 for
            images that do not count. A recorded model takes inputs [T, N, ...] of the parameters' type, and labels, or
            values of that type.
        rates: the inner learning rates of every parameter, R of them: one for every step, or 1, the same at all of
            them. Of shape [R] they are numbers for the whole parameter, of shape [R, *parameter.shape] there is one for
            every weight.
        rate_needs_gradient: whether to compute the gradient of the rates, for every parameter.
        steps: inner steps.
        order: 2 differentiates through the inner gradients, 1 takes them as constants.
        scored: the steps, in order, after which the queries are scored; the last one must be the last of all.
        step_weights: [S], of the scored steps in the loss that is differentiated: the sum over them of the weight and
            the query losses' mean over tasks (the multi-step loss of Antoniou et al. 2019); 0 costs nothing.
        tasks_at_once: in memory.
        steps_kept: what the way back at order 2 needs of so many steps is in memory at once; other steps are computed
            again on the way. ``None``: of all.
        needs_gradient: whether to compute gradients: the parameters', and those of the rates that want one.

    Raises:
        RuntimeError: anything is not as described, a label is none of the classes, or images hold NaN or infinity.
    """
    operators = torch.ops.maml_fast
    run, numbers = (
        (operators.program_loops, net.in_numbers()) if isinstance(net, LoweredModel) else (operators.inner_loops, net)
    )
    result = run(
        [parameter.contiguous() for parameter in theta],
        *(part.contiguous() for part in episodes),
        *numbers,
        [rate.contiguous() for rate in rates],
        list(rate_needs_gradient),
        list(scored),
        list(step_weights),
        steps,
        order == 2,
        tasks_at_once,
        max(steps, 1) if steps_kept is None else steps_kept,
        needs_gradient,
    )
    return InnerLoopsResult(*result)


@native.when_loaded
def _register_shapes() -> None:
    """Tell torch the operator's output shapes, once the library that defines it is loaded."""

    def shapes(
        theta: list[Tensor],
        x: Tensor,
        rates: list[Tensor],
        rate_needs_gradient: list[bool],
        scored: list[int],
        needs_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
        scores = len(scored), x.shape[0]
        losses, correct = x.new_empty(scores), x.new_empty(scores, dtype=torch.int64)
        gradient = [torch.empty_like(parameter) for parameter in theta] if needs_gradient else []
        rate_gradient = [
            torch.empty_like(rate) for rate, needed in zip(rates, rate_needs_gradient, strict=True) if needed
        ]
        predictions = correct.new_empty(x.shape[0])
        return x.new_empty(()), losses, correct, predictions, gradient, rate_gradient

    # Arguments by their places: theta and x_spt come first in both.
    @torch.library.register_fake("maml_fast::inner_loops")
    def _(*a: Any) -> Any:
        return shapes(a[0], a[1], a[8], a[9], a[10], a[16])

    @torch.library.register_fake("maml_fast::program_loops")
    def _(*a: Any) -> Any:
        return shapes(a[0], a[1], a[11], a[12], a[13], a[19])
