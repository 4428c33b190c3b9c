"""Native forms of inner problems: conv blocks with a linear classifier, or any recorded model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maml_fast import native
from maml_fast.data._episodes import Episodes
from maml_fast.inner_loop._chunks import TaskChunk
from maml_fast.inner_loop._metric import IGNORED, Accuracy, are_classes
from maml_fast.inner_loop._native import BlockNet, NativeLoop, NativeNet, ProgramNet, tensor_of
from maml_fast.inner_loop._optimizers import SGD
from maml_fast.inner_loop._problem import InnerProblem, Theta
from maml_fast.inner_loop._values import PerStep
from maml_fast.lowering import OF_LOSS, Scored, lower
from maml_fast.ops import program_memory
from maml_fast.program import ConvNet, Program, read_conv_net

__all__ = ["native_loop"]

# Each thread takes its own task up to these sizes in bytes; all threads share a larger one. With this budget for all
# threads together, the conv nets of the benchmark's zoo need less memory than a plain loop does.

ALL_THREADS_BUDGET = 116 * 2**20
CORE_BUDGET = 16 * 2**20  # of one task, for any number of threads


def native_loop(problem: InnerProblem, episodes: Episodes, chunk: TaskChunk) -> NativeLoop | str:
    """Return the native form of a problem on checked episodes, or the reason why it has none."""
    if problem.theta.device.type != "cpu":
        return f"on {problem.theta.device.type}, where each operation runs for all tasks at once"
    if native.library() is None:
        return "there are no native kernels"
    if isinstance(problem.recorded, str):
        return problem.recorded
    if problem.metric is not None and not isinstance(problem.metric, Accuracy):
        return "metric is a function of your own"
    if problem.metric is not None and problem.metric.ignored != IGNORED:
        return f"the label {problem.metric.ignored} does not count"
    if problem.optimizer is not SGD:
        return "inner steps are not plain gradient descent"
    if problem.blocks is not None:
        return "batch norm keeps statistics of every step"
    found = _obstacle_in_rates(problem.theta) or _obstacle_in_modes() or _obstacle_in_episodes(episodes)
    net = found or _native_net(problem, episodes)
    if isinstance(net, str):
        return net
    parameters = {**problem.theta.shared, **problem.theta.adapted}
    if any(name not in parameters for name in net.names):
        parameters = {**_other_tensors(problem), **parameters}
    theta = [parameters[name] for name in net.names]
    rates = [problem.theta.rule.get(name, 0.0) for name in net.names]
    weights = problem.objective_weights()
    held = _tasks_at_once(chunk, episodes.meta_batch_size, _bytes_of_task(net, problem, theta))
    counts_correct = problem.metric is not None and net.n_classes is not None
    return NativeLoop(
        net, theta, rates, problem.steps, problem.order, weights, held, problem.steps_kept, counts_correct
    )


def _other_tensors(problem: InnerProblem) -> dict[str, Tensor]:
    """Return the buffers of the model and of the loss function, by name."""
    assert not isinstance(problem.recorded, str)
    assert problem.watched_loss is not None
    of_loss = problem.watched_loss.tensors(problem.loss_fn)
    buffers = problem.forward.with_buffers({}, problem.recorded)
    return {**buffers, **{OF_LOSS + name: tensor for name, tensor in of_loss.items()}}


def _tasks_at_once(chunk: TaskChunk, n_tasks: int, bytes_of_task: int) -> int:
    """Return the number of tasks in memory; "auto" is one per thread, or one that all threads share if it is large."""
    if isinstance(chunk, int):
        return chunk
    if chunk is None:
        return n_tasks
    threads = torch.get_num_threads()
    return threads if bytes_of_task <= max(CORE_BUDGET, ALL_THREADS_BUDGET // threads) else 1


def _bytes_of_task(net: NativeNet, problem: InnerProblem, theta: Sequence[Any]) -> int:
    """Return the memory of one task of a recorded model; 0 for a net of blocks, whose threads share phases."""
    if isinstance(net, BlockNet):
        return 0
    kept = min(problem.steps, problem.steps_kept or problem.steps) if problem.order == 2 else 1
    tensors = [tensor_of(each) for each in theta]
    adapts = [name in problem.theta.adapted for name in net.names]
    of_support, extra = program_memory(net.lowered.model, tensors[0], adapts, problem.order)
    weights = sum(tensor.numel() for tensor in tensors)
    # A step that is kept also holds its weights.
    return (kept * (of_support + weights) + extra + 2 * weights) * tensors[0].element_size()


def _obstacle_in_rates(theta: Theta) -> str | None:
    for name, rate in theta.rule.items():
        if isinstance(rate, float):
            continue
        tensor, parameter = tensor_of(rate), theta.adapted[name]
        if (tensor.dtype, tensor.device) != (parameter.dtype, parameter.device):
            return f"the inner learning rate of {name} is {tensor.dtype} on {tensor.device}"
    return None


def _obstacle_in_episodes(episodes: Episodes) -> str | None:
    if any(part.requires_grad for part in episodes):
        return "the images take a gradient"
    return None


def _obstacle_in_modes() -> str | None:
    if torch._C._are_functorch_transforms_active():
        return "a transform of torch.func is active"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    return "torch.compile is tracing" if torch.compiler.is_compiling() else None


def _native_net(problem: InnerProblem, episodes: Episodes) -> NativeNet | str:
    """Return the native net of a problem whose model is recorded, or the reason why there is none."""
    blocks = _block_net(problem, episodes)
    return _program_net(problem, episodes) if isinstance(blocks, str) else blocks


def _block_net(problem: InnerProblem, episodes: Episodes) -> BlockNet | str:
    nets = [read_conv_net(program) for program in problem.recorded if not isinstance(program, str)]
    if problem.loss_fn is not F.cross_entropy:
        return "the loss is not F.cross_entropy"
    for net in nets:
        if isinstance(net, str):
            return net
    spt, qry = nets
    assert isinstance(spt, ConvNet)
    assert isinstance(qry, ConvNet)
    if not spt.is_like(qry):
        return "the net differs between support and query images"
    if found := _frozen_filters(problem, spt):
        return found
    for y in (episodes.y_spt, episodes.y_qry):
        if y.dtype != torch.int64 or y.dim() != 2:
            return f"targets of {y.dtype} {list(y.shape)} are not classes"
    return BlockNet(spt, qry)


def _frozen_filters(problem: InnerProblem, net: ConvNet) -> str | None:
    """Return why the loop for blocks is not worthwhile: frozen filters in changing blocks waste most of its work."""
    theta = problem.theta
    changing = [
        name for name in net.names_of_blocks() if name in theta.adapted or isinstance(theta.shared[name], PerStep)
    ]
    frozen = [block.weight for block in net.blocks if block.weight not in theta.adapted]
    return f"{frozen[0]} does not adapt, but {changing[0]} changes" if changing and frozen else None


def _program_net(problem: InnerProblem, episodes: Episodes) -> ProgramNet | str:
    if problem.watched_loss is None or not problem.is_closed:
        return "the loss may have parameters of its own"
    scored: list[Scored] = []
    for model, y in zip(problem.recorded, (episodes.y_spt, episodes.y_qry), strict=True):
        assert isinstance(model, Program)
        logits = model.result
        if y.dtype not in (torch.int64, logits.dtype):
            return f"targets are of {y.dtype}"
        loss = problem.watched_loss.program(problem.loss_fn, logits.shape, logits.dtype, y)
        if isinstance(loss, str):
            return loss
        scored.append(Scored(model, loss))
    counts_correct = problem.metric is not None and are_classes(_meta_logits(scored[1].model), episodes.y_qry[:1])
    if isinstance(problem.metric, Accuracy) and not counts_correct and problem.metric.required:
        return "its targets are not classes"
    lowered = lower(*scored, counts_correct)
    if isinstance(lowered, str):
        return lowered
    if unused := [name for name in problem.theta.adapted if name not in lowered.names]:
        return f"{unused[0]} is not part of it"
    return ProgramNet(lowered, scored[1].model.result.shape[1] if counts_correct else None)


def _meta_logits(program: Program) -> Tensor:
    """Return the program's logits [1, N, ...] on the meta device."""
    return torch.empty((1, *program.result.shape), device="meta")
