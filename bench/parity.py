"""Compares results: nothing is timed before it has been shown to compute the same."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import blocks
import torch
from blocks import Block, ConvBlock, Pass
from peers import OURS, Learner
from peers.block import per_task_block
from torch import Tensor
from workloads import Workload

TOLERANCE = 1e-9  # relative, in float64: of the losses, and of the meta-gradient as one vector
# The gradients of biases before batch norm are rounding alone, which Reptile's Adam makes larger.
GRADIENT_TOLERANCE = {"reptile": 1e-8}
# Of the loss alone: rounding grows over the inner steps, and gradients may part by some per cent. TF32 alone moves the
# loss of W3 by 5 %.
FLOAT32_TOLERANCE = {"exact": 2e-2, "tf32": 2e-1}
TASKS = 2  # of the workload, in float64: the whole would take hours and twice the memory


class ParityError(AssertionError):
    """Two programs compute different results."""


class Parity(NamedTuple):
    """Relative errors against maml_fast."""

    loss: float
    gradient: float
    float32_loss: float | None  # where it was asked for


def relative_error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Of the tensors as one vector, in the Euclidean norm; not-a-number compares as infinitely wrong."""
    a, e = (torch.cat([tensor.detach().cpu().double().flatten() for tensor in each]) for each in (actual, expected))
    if e.norm() == 0:
        raise ParityError("there is nothing to compare: the expected values are all zero")
    error = float((a - e).norm() / e.norm())
    return error if error == error else float("inf")


def require(error: float, tolerance: float, what: str) -> float:
    """Return the error if it is within the tolerance; raise ``ParityError`` otherwise."""
    if not error <= tolerance:
        raise ParityError(f"{what}: relative error {error:.1e}, allowed are {tolerance:.0e}")
    return error


def check(
    workload: Workload, peer: type[Learner], ours: type[Learner] = OURS, *, precision: str | None = "exact"
) -> Parity:
    """Compare losses and meta-gradient of one iteration from equal weights and episodes.

    ``precision`` is what this process forms the products of float32 at; ``None`` where float32 is not to be compared.

    Raises:
        ParityError: they differ.
    """
    return _check(workload, peer, ours, None if precision is None else FLOAT32_TOLERANCE[precision])


@lru_cache
def _check(workload: Workload, peer: type[Learner], ours: type[Learner], float32_tolerance: float | None) -> Parity:
    who = f"{workload.name}: {peer.title} against {ours.title}"
    gradient_tolerance = GRADIENT_TOLERANCE.get(workload.algorithm, TOLERANCE)
    theirs_loss, theirs = losses_and_gradient(workload.of_tasks(TASKS), peer, torch.float64)
    ours_loss, expected = losses_and_gradient(workload.of_tasks(TASKS), ours, torch.float64)
    return Parity(
        require(relative_error([theirs_loss], [ours_loss]), TOLERANCE, f"{who}, losses in float64"),
        require(relative_error(theirs, expected), gradient_tolerance, f"{who}, meta-gradient in float64"),
        None if float32_tolerance is None else _float32_error(workload, peer, ours, float32_tolerance, who),
    )


def _float32_error(workload: Workload, peer: type[Learner], ours: type[Learner], tolerance: float, who: str) -> float:
    theirs, expected = (_float32_losses(workload, each)[-1:] for each in (peer, ours))
    return require(relative_error([theirs], [expected]), tolerance, f"{who}, loss in float32")


def losses_and_gradient(workload: Workload, peer: type[Learner], dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """Mean query losses at the scored steps and the meta-gradient, from the workload's start on its episodes.

    All draw the same random numbers, for example for Reptile's minibatches. A CUDA graph has been captured by
    then, on another meta-batch: what is compared is a replay.
    """
    torch.manual_seed(0)
    learner = peer(workload, workload.start(dtype))
    learner.settle()
    losses = learner.backward(workload.episodes(dtype))
    gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in learner.parameters]
    return losses, gradient


@lru_cache
def _float32_losses(workload: Workload, peer: type[Learner]) -> Tensor:
    return losses_and_gradient(workload, peer, torch.float32)[0]


@lru_cache
def check_block(block: Block, conv_block: ConvBlock, until: Pass) -> float:
    """Compare one pass of a conv block, in float64, with torch's own layers task by task; return the relative error.

    Raises:
        ParityError: they differ.
    """
    few = block.of_tasks(TASKS)
    actual = blocks.run(few, conv_block, few.tensors(torch.float64), until)
    expected = blocks.run(few, per_task_block, few.tensors(torch.float64), until)
    return require(relative_error(actual, expected), TOLERANCE, f"{block.name}, {until}")
