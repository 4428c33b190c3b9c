"""The inner loops of a meta-batch as one native call, which takes each task through all its steps in one core's cache.

It stands in for :class:`maml_fast.maml.inner_loop.InnerLoop`, which composes the same of single operations of PyTorch,
where the net is a chain of conv blocks under cross-entropy and nobody asks for the graph. The results are the same, up
to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maml_fast import ops
from maml_fast.data.episodes import Episodes
from maml_fast.fusion.conv_net import ConvNet
from maml_fast.maml.chunked_gradient import hand_out
from maml_fast.maml.classification import check_range
from maml_fast.maml.inner_loop import InnerLoop
from maml_fast.maml.inner_optimisers import SGD
from maml_fast.maml.results import TaskResults
from maml_fast.maml.theta import Theta

__all__ = ["NativeLoop", "native_loop"]


@dataclass(frozen=True)
class NativeLoop:
    """``inner_steps`` steps of a ConvNet from theta; make it with :func:`native_loop`. Episodes must be checked."""

    net: ConvNet
    theta: dict[str, Tensor]
    rates: list[float]
    steps: int
    order: int
    tasks_at_once: int

    def results(self, episodes: Episodes, scored: tuple[int, ...]) -> TaskResults:
        """Every task's query results, without a graph."""
        return self._run(episodes, scored, needs_gradient=False)[0]

    def loss(self, episodes: Episodes, scored: tuple[int, ...]) -> tuple[TaskResults, Tensor]:
        """The results, and the mean loss after the last step, which carries the gradient."""
        learned = {name for name in self.net.names() if self.theta[name].requires_grad}
        needs_gradient = torch.is_grad_enabled() and bool(learned)
        results, gradient = self._run(episodes, scored, needs_gradient=needs_gradient)
        loss = results.losses[-1].mean()
        if not needs_gradient:
            return results, loss
        gradients = zip(self.net.names(), gradient, strict=True)
        return results, hand_out(loss, {self.theta[name]: each for name, each in gradients if name in learned})

    @torch.no_grad()
    def _run(
        self, episodes: Episodes, scored: tuple[int, ...], *, needs_gradient: bool
    ) -> tuple[TaskResults, list[Tensor]]:
        x_spt, y_spt, x_qry, y_qry = episodes
        description = self.net.description(self.theta)
        check_range(y_spt, description.n_classes, "y_spt")
        check_range(y_qry, description.n_classes, "y_qry")
        losses, correct, gradient = ops.inner_loops(
            description,
            [self.theta[name] for name in self.net.names()],
            (self.net.images(x_spt), y_spt, self.net.images(x_qry), y_qry),
            self.rates,
            steps=self.steps,
            order=self.order,
            scored=scored,
            tasks_at_once=self.tasks_at_once,
            needs_gradient=needs_gradient,
        )
        return TaskResults(losses, correct, y_qry[0].numel()), gradient


def native_loop(
    loop: InnerLoop, loss_fn: Callable[..., Tensor], episodes: Episodes | None, tasks_at_once: int | None
) -> NativeLoop | str:
    """Return the native form of a loop, or what keeps it from having one.

    Args:
        loop: the loop.
        loss_fn: its loss.
        episodes: checked ones that it is to run on; ``None`` leaves open whether there are any that it can run on.
        tasks_at_once: in memory; ``None`` wants a graph of all tasks.
    """
    net = loop.forward.conv_net()
    if isinstance(net, str):
        return net
    if loop.theta.device.type != "cpu":
        return f"on {loop.theta.device.type}, where all tasks of an operation run at once"
    if loss_fn is not F.cross_entropy:
        return "the loss is not F.cross_entropy"
    if not ops.has_native_kernels():
        return "there are no native kernels"
    if tasks_at_once is None:
        return "the graph of all tasks is kept"
    if loop.optimiser is not SGD:
        return "inner steps are not plain gradient descent"
    if loop.step_weights is not None:
        return "the loss is of several steps"
    if loop.blocks is not None:
        return "batch norm keeps statistics of every step"
    parameters = {**loop.theta.shared, **loop.theta.adapted}
    theta = {name: parameter for name, parameter in parameters.items() if isinstance(parameter, Tensor)}
    if len(theta) < len(parameters):
        return "batch norm has parameters for every step"
    rates = _rates(loop.theta, net)
    if isinstance(rates, str):
        return rates
    found = None if episodes is None else _obstacle_in_call(net, theta, episodes)
    return found or NativeLoop(net, theta, rates, loop.steps, loop.order, tasks_at_once)


def _obstacle_in_call(net: ConvNet, theta: Mapping[str, Tensor], episodes: Episodes) -> str | None:
    found = _obstacle_in_modes() or _obstacle_in_episodes(episodes)
    return found or net.obstacle(theta, episodes.x_spt)  # x_qry is like it


def _rates(theta: Theta, net: ConvNet) -> list[float] | str:
    """Every parameter's rate, in the net's order, 0 for those that do not adapt, or what is in the way.

    Where filters stay as they are, most of what the native loop does would be for nothing.
    """
    still = [block.weight for block in net.blocks if block.weight not in theta.adapted]
    if still:
        return f"{still[0]} does not adapt"
    rates: list[float] = []
    for name in net.names():
        rate = theta.rule.get(name, 0.0)
        if not isinstance(rate, float):
            return f"the inner learning rate of {name} is a tensor"
        rates.append(rate)
    return rates


def _obstacle_in_episodes(episodes: Episodes) -> str | None:
    if any(x.requires_grad for x in (episodes.x_spt, episodes.x_qry)):
        return "the images take a gradient"
    for y in (episodes.y_spt, episodes.y_qry):
        if y.dtype != torch.int64 or y.dim() != 2:
            return f"targets of {y.dtype} {list(y.shape)} are not classes"
    return None


def _obstacle_in_modes() -> str | None:
    if torch._C._are_functorch_transforms_active():
        return "a transform of torch.func is active"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    return "torch.compile is at work" if torch.compiler.is_compiling() else None
