"""Replacing the conv-BN-ReLU-pool runs of a torch.fx graph by the fused operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, Node

from maml_fast.fusion.patterns import (
    Conv,
    Norm,
    arguments,
    input_of,
    is_identity,
    is_relu,
    is_relu_in_place,
    read_conv,
    read_norm,
    read_pool,
)
from maml_fast.nn import ConvBlock, batch_stat_norm, conv_block, tracking_conv_block
from maml_fast.program.report import FusionPolicy

__all__ = ["block_weights", "describe_block", "fuse_runs", "set_functional_norms"]

_MOVING = {"training": False, "momentum": 0.1, "eps": 1e-5}
_FUNCTIONAL_NORMS: dict[Any, dict[str, Any]] = {
    F.batch_norm: dict.fromkeys(("input", "running_mean", "running_var", "weight", "bias")) | _MOVING,
    torch.batch_norm: dict.fromkeys(("input", "weight", "bias", "running_mean", "running_var"))
    | _MOVING
    | {"cudnn_enabled": True},
}


@dataclass(frozen=True)
class _Run:
    """Nodes that one fused operation replaces: ``nodes[0]`` is the convolution, ``result`` the node it stands for."""

    conv: Conv
    norm: Norm
    nodes: tuple[Node, ...]
    relu_first: bool
    pool: int | None

    def __str__(self) -> str:
        conv = self.conv
        return f"{conv.where}: {_describe(conv.shape, conv.stride, conv.padding, self.relu_first, self.pool)}"


def fuse_runs(graph: Graph, root: nn.Module) -> tuple[list[str], list[str]]:
    """Replace every run in the graph; return a line for each, and one for each convolution that is in no run."""
    _drop_identities(graph, root)
    _let_users_follow_relu_in_place(graph, root)
    _put_relu_before_pool(graph, root)
    fused, left = [], []
    for node in list(graph.nodes):
        conv = read_conv(node, root)
        if isinstance(conv, Conv):
            run = _find_run(node, conv, root)
            if isinstance(run, _Run):
                _replace(graph, run)
                fused.append(str(run))
            else:
                left.append(f"{conv.where}: {run}")
        elif conv is not None:
            left.append(conv)
        elif node.op == "call_module" and isinstance(block := root.get_submodule(str(node.target)), ConvBlock):
            fused.append(f"{node.target}: {describe_block(block)}")
    _keep_layout(graph, root)
    return fused, left


def block_weights(graph: Graph, root: nn.Module) -> list[str]:
    """Return where the filters of the fused operations are, as far as they are attributes."""
    weights = []
    for node in graph.nodes:
        if node.op == "call_module" and _is_fused(node, root):
            weights.append(f"{node.target}.conv.weight")
        elif _is_fused(node, root):
            weight = arguments(node, {"x": None, "weight": None})["weight"]
            weights += [str(weight.target)] if weight.op == "get_attr" else []
    return weights


def _drop_identities(graph: Graph, root: nn.Module) -> None:
    for node in list(graph.nodes):
        before = input_of(node)
        if isinstance(before, Node) and is_identity(node, root):
            node.replace_all_uses_with(before)
            graph.erase_node(node)


def _let_users_follow_relu_in_place(graph: Graph, root: nn.Module) -> None:
    """After ``y.relu_()`` make later users of y users of its result, which is the same tensor."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        before = input_of(node)
        if isinstance(before, Node) and is_relu_in_place(node, root):
            for user in list(before.users):
                if order[user] > order[node]:
                    user.replace_input_with(before, node)


def _put_relu_before_pool(graph: Graph, root: nn.Module) -> None:
    """Turn conv-BN-pool-ReLU into conv-BN-ReLU-pool, which is equal: ReLU and the maximum commute."""
    for relu in list(graph.nodes):
        pool = input_of(relu)
        if not (is_relu(relu, root) and isinstance(pool, Node) and read_pool(pool, root) and len(pool.users) == 1):
            continue
        norm = input_of(pool)
        if not (isinstance(norm, Node) and read_norm(norm, root) and len(norm.users) == 1):
            continue
        conv = input_of(norm)
        if isinstance(conv, Node) and isinstance(read_conv(conv, root), Conv) and len(conv.users) == 1:
            with graph.inserting_before(pool):
                earlier = graph.node_copy(relu, {pool: norm}.__getitem__)
            pool.replace_input_with(norm, earlier)
            relu.replace_all_uses_with(pool)
            graph.erase_node(relu)


def _find_run(node: Node, conv: Conv, root: nn.Module) -> _Run | str:
    """Return the run that starts with a convolution, or why there is none."""
    chain = _chain(node)
    relu_first = bool(chain) and is_relu(chain[0], root)
    body = chain[1:] if relu_first else chain
    norm = read_norm(body[0], root) if body else None
    if norm is None:
        return _why_no_norm(node, chain, root)
    if not relu_first and not (len(body) > 1 and is_relu(body[1], root)):
        return "no ReLU follows its batch norm"
    pooled = len(chain) > 2 and read_pool(chain[2], root) == "2x2"
    return _Run(conv, norm, (node, *chain[: 3 if pooled else 2]), relu_first, 2 if pooled else None)


def _chain(node: Node) -> list[Node]:
    """Return up to three nodes that follow, each the only user of the one before."""
    chain: list[Node] = []
    while len(chain) < 3 and len(node.users) == 1:
        (user,) = node.users
        if input_of(user) is not node:  # but, say, the scale of a batch norm of something else
            break
        chain.append(user)
        node = user
    return chain


def _why_no_norm(node: Node, chain: list[Node], root: nn.Module) -> str:
    if len(node.users) > 1:
        return "its output is used more than once"
    if any(read_pool(n, root) for n in chain[:2]):
        return "max-pool comes before batch norm"
    return "no batch norm on the batch's own statistics follows"


def _replace(graph: Graph, run: _Run) -> None:
    """Put the fused operation where the convolution is: there its input still has the value that is convolved."""
    conv, norm, running = run.conv, run.norm, run.norm.running
    first, last = run.nodes[0], run.nodes[-1]
    options: dict[str, Any] = {
        "stride": conv.stride,
        "padding": conv.padding,
        "pool": run.pool,
        "eps": norm.eps,
        "relu_first": run.relu_first,
    }
    names = [conv.weight, conv.bias, norm.gamma, norm.beta]
    if running is not None:
        names += [running.mean, running.variance, running.count]
        options["momentum"] = running.momentum
    with graph.inserting_before(first):
        tensors = [None if name is None else graph.create_node("get_attr", name) for name in names]
        operation = conv_block if running is None else tracking_conv_block
        fused = graph.call_function(operation, (input_of(first), *tensors), options)
    last.replace_all_uses_with(fused)
    for node in reversed(run.nodes):
        graph.erase_node(node)
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)


def _keep_layout(graph: Graph, root: nn.Module) -> None:
    """Give what leaves the fused operations the layout that users count on, for ``x.view(x.size(0), -1)`` and the like.

    The native kernels' output is channels-last, and a view that autograd lets nobody overwrite. One fused operation
    takes it from another as it is.
    """
    for node in list(graph.nodes):
        others = [user for user in node.users if not _is_fused(user, root)]
        if others and _is_fused(node, root):
            with graph.inserting_after(node):
                copied = graph.call_function(torch.clone, (node,), {"memory_format": torch.contiguous_format})
            for user in others:
                user.replace_input_with(node, copied)


def _is_fused(node: Node, root: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(root.get_submodule(str(node.target)), ConvBlock)
    return node.target in (conv_block, tracking_conv_block)


def set_functional_norms(graph: Graph, policy: FusionPolicy) -> bool:
    """Make ``F.batch_norm`` in the graph follow the policy, whatever ``training`` it is given; return if any was there.

    Under ``"running"`` a call without running statistics stays as it is: it has no others to take. Under
    ``"as_written"`` all do.
    """
    if policy == "as_written":
        return False
    nodes = [n for n in graph.nodes if n.op == "call_function" and n.target in _FUNCTIONAL_NORMS]
    for node in nodes:
        values = arguments(node, _FUNCTIONAL_NORMS[node.target])
        if policy == "batch":
            node.args = (values["input"], values["weight"], values["bias"], values["eps"])
            node.kwargs = {}
            node.target = batch_stat_norm
        elif values["running_mean"] is not None:
            node.args = ()
            node.kwargs = {**values, "training": False}
    return bool(nodes)


def _describe(shape: tuple[int, int, int], stride: int, padding: int, relu_first: bool, pool: int | None) -> str:
    cin, cout, side = shape
    order = ["ReLU", "BN"] if relu_first else ["BN", "ReLU"]
    return " + ".join([f"conv {cin}->{cout} k{side} s{stride} p{padding}", *order, *(["pool2"] if pool else [])])


def describe_block(block: ConvBlock) -> str:
    """Return what a ``ConvBlock`` does in the words of the report."""
    conv = block.conv
    shape = (conv.in_channels, conv.out_channels, conv.kernel_size[0])
    return _describe(shape, conv.stride[0], int(conv.padding[0]), block.relu_first, block.pool) + " (a ConvBlock)"
