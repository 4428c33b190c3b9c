"""The native inner loops of a whole meta-batch, in one call of the operator in ``csrc/bindings/inner_loop.cpp``."""

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
    "program_memory",
]


class NetDescription(NamedTuple):
    """A net of conv blocks and a classifier, encoded in numbers.

    Attributes:
        blocks: for each block in turn: out_channels, kernel, stride, padding, pool, relu_first, has_bias, has_gamma,
            has_beta.
        eps: the eps of each block's batch norm.
        head: mean_over_pixels, classes, has_bias of the classifier.
    """

    blocks: list[int]
    eps: list[float]
    head: list[int]

    @property
    def n_classes(self) -> int:
        """The number of outputs of the classifier."""
        return self.head[1]


class LoweredModel(NamedTuple):
    """A recorded model and its loss, encoded in numbers by :mod:`maml_fast.lowering`.

    Attributes:
        layouts: the layout of each parameter.
        support: the program for the support set, as integers and as factors.
        query: the program for the query set, as integers and as factors.
        classes: labels must be below this number, or -100; 0 allows any label.
    """

    layouts: list[int]
    support: tuple[list[int], list[float]]
    query: tuple[list[int], list[float]]
    classes: int

    def in_numbers(self) -> tuple[Any, ...]:
        """Return the numbers as the operator's arguments."""
        return self.layouts, *self.support, *self.query, self.classes


class InnerLoopsResult(NamedTuple):
    """The result of T tasks whose query sets are scored after S steps.

    Attributes:
        objective: the weighted sum of query losses, averaged over tasks, [].
        losses: mean query losses, [S, T].
        correct: numbers of correct query predictions, [S, T] int64.
        predictions: numbers of query predictions, without ignored labels, [T] int64.
        gradient: the gradient of the objective with respect to each parameter; empty if not requested.
        rate_gradient: the gradient of the objective with respect to the rates that need one, in order.
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
    seed: int = 0,
) -> InnerLoopsResult:
    """Adapt ``net`` from ``theta`` to every task, score the query sets, and differentiate through the adaptation.

    Args:
        net: the net, whose blocks the native kernels must support; or a recorded model with its loss.
        theta: all parameters. For a net: the weight [Cout, Cin, k, k], bias, gamma and beta of each block, then the
            classifier's weight [classes, features] and bias. For a recorded model: in the order of its layouts. A
            parameter may have an additional first dimension of size max(steps, 1), with one value per step that no step
            changes, as for the batch norm parameters in Antoniou et al. 2019. Each step uses its own value; query sets
            are scored with the value of the last step, or of the first step before any step. The rate of such a
            parameter must be 0.
        episodes: x_spt [T, N, C, H, W], y_spt [T, N], x_qry [T, M, C, H, W], y_qry [T, M]; labels are int64, -100 for
            images that do not count. A recorded model takes inputs [T, N, ...] of the parameters' dtype, and labels or
            targets of that dtype.
        rates: the inner learning rates of each parameter, in a tensor whose first dimension has size R: one rate per
            step, or R = 1 for the same rate in all steps. Shape [R] is one rate for the whole parameter, shape
            [R, *parameter.shape] one rate for each of its elements.
        rate_needs_gradient: for each parameter, whether to compute the gradient of its rates.
        steps: number of inner steps.
        order: 2 differentiates through the inner gradients, 1 treats them as constants.
        scored: the steps, in ascending order, after which query sets are scored; the last one must be the final step.
        step_weights: [S], weights of the scored steps in the objective, which is the sum over these steps of weight
            times query loss, averaged over tasks (the multi-step loss of Antoniou et al. 2019). A weight of 0 costs
            nothing.
        tasks_at_once: number of tasks in memory at once.
        steps_kept: number of steps whose intermediate results are in memory at once for the backward pass of order 2;
            other steps are recomputed in the backward pass. ``None`` keeps all steps.
        needs_gradient: whether to compute the gradients of the parameters and of the rates that need one.
        seed: of the random numbers that a recorded model draws. They depend on it, the task and the step alone.

    Raises:
        RuntimeError: an argument is not as described, a label is not one of the classes, or images contain NaN or
            infinity.
    """
    operators = torch.ops.maml_fast
    if isinstance(net, LoweredModel):
        run, numbers, last = operators.program_loops, net.in_numbers(), [seed]
    else:
        run, numbers, last = operators.inner_loops, net, []
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
        *last,
    )
    return InnerLoopsResult(*result)


def program_memory(model: LoweredModel, like: Tensor, adapts: Sequence[bool], order: int) -> tuple[int, int]:
    """Return the memory that one task of a recorded model needs, in scalars of the dtype of ``like``.

    The first number is that of a support pass, which second order keeps for every inner step. The second is what else
    is needed at most at one time. ``adapts`` says for each parameter whether inner steps change it.
    """
    of_support, extra = torch.ops.maml_fast.program_memory(
        like, *model.support, *model.query, list(adapts), order == 2
    ).tolist()
    return of_support, extra


@native.when_loaded
def _register_shapes() -> None:
    """Register the operators' output shapes with torch, once the library that defines them is loaded."""

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

    # All arguments by position; theta and x_spt come first in both operators.
    @torch.library.register_fake("maml_fast::inner_loops")
    def _(*a: Any) -> Any:
        return shapes(a[0], a[1], a[8], a[9], a[10], a[16])

    @torch.library.register_fake("maml_fast::program_loops")
    def _(*a: Any) -> Any:
        return shapes(a[0], a[1], a[11], a[12], a[13], a[19])
