"""The inner loops of a meta-batch as one native call, which takes each task through all its steps in one core's cache.

It stands in for :class:`maml_fast.maml.inner_loop.InnerLoop`, which composes the same of single operations of PyTorch,
where the net is a chain of conv blocks under cross-entropy and nobody asks for the graph. The results are the same, up
to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maml_fast import ops
from maml_fast.data.episodes import Episodes
from maml_fast.fusion.conv_net import ConvNet
from maml_fast.maml.chunked_gradient import hand_out
from maml_fast.maml.classification import check_range
from maml_fast.maml.inner_loop import InnerLoop, Theta
from maml_fast.maml.inner_rates import Rate
from maml_fast.maml.results import TaskResults

__all__ = ["NativeLoop", "native_loop"]


@dataclass(frozen=True)
class NativeLoop:
    """``inner_steps`` steps of a ConvNet from theta; make it with :func:`native_loop`. Episodes must be checked."""

    net: ConvNet
    theta: dict[str, Tensor]
    rates: list[Rate]
    steps: int
    order: int
    tasks_at_once: int

    def results(self, episodes: Episodes, scored: tuple[int, ...]) -> TaskResults:
        """Every task's query results, without a graph."""
        return self._run(episodes, scored, needs_gradient=False)[0]

    def loss(self, episodes: Episodes, scored: tuple[int, ...]) -> tuple[TaskResults, Tensor]:
        """The results, and the mean loss after the last step, which carries the gradient."""
        learned = any(_is_learned(source) for source in (*self._parameters(), *self.rates))
        needs_gradient = torch.is_grad_enabled() and learned
        results, gradients = self._run(episodes, scored, needs_gradient=needs_gradient)
        loss = results.losses[-1].mean()
        return results, hand_out(loss, gradients) if needs_gradient else loss

    @torch.no_grad()
    def _run(
        self, episodes: Episodes, scored: tuple[int, ...], *, needs_gradient: bool
    ) -> tuple[TaskResults, dict[Tensor, Tensor]]:
        x_spt, y_spt, x_qry, y_qry = episodes
        description = self.net.description(self.theta)
        check_range(y_spt, description.n_classes, "y_spt")
        check_range(y_qry, description.n_classes, "y_qry")
        parameters = self._parameters()
        result = ops.inner_loops(
            description,
            parameters,
            (self.net.images(x_spt), y_spt, self.net.images(x_qry), y_qry),
            [_of_kernels(rate, parameter) for rate, parameter in zip(self.rates, parameters, strict=True)],
            [needs_gradient and _is_learned(rate) for rate in self.rates],
            steps=self.steps,
            order=self.order,
            scored=scored,
            step_weights=[0.0] * (len(scored) - 1) + [1.0],
            tasks_at_once=self.tasks_at_once,
            needs_gradient=needs_gradient,
        )
        results = TaskResults(result.losses, result.correct, y_qry[0].numel())
        return results, self._by_source(result.gradient, result.rate_gradient) if needs_gradient else {}

    def _parameters(self) -> list[Tensor]:
        return [self.theta[name] for name in self.net.names()]

    def _by_source(self, gradient: list[Tensor], rate_gradient: list[Tensor]) -> dict[Tensor, Tensor]:
        """The gradients by the tensor that they are of; one rate may stand for several parameters."""
        gradients = {
            source: each for source, each in zip(self._parameters(), gradient, strict=True) if _is_learned(source)
        }
        learned = [rate for rate in self.rates if isinstance(rate, Tensor) and rate.requires_grad]
        for rate, each in zip(learned, rate_gradient, strict=True):
            each = each.reshape(rate.shape) if rate.numel() == 1 else each[0].sum_to_size(rate.shape)
            gradients[rate] = gradients[rate] + each if rate in gradients else each
        return gradients


def _is_learned(source: Rate) -> bool:
    return isinstance(source, Tensor) and source.requires_grad


def _of_kernels(rate: Rate, parameter: Tensor) -> Tensor:
    """A rate as the kernels take it: [1] for the whole parameter, or [1, *parameter.shape]."""
    if not isinstance(rate, Tensor):
        return parameter.new_full((1,), rate)
    return rate.reshape(1) if rate.numel() == 1 else rate.expand(1, *parameter.shape)


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
    rates = _rates(loop.theta, net)
    if isinstance(rates, str):
        return rates
    found = None if episodes is None else _obstacle_in_call(net, loop.theta, episodes)
    return found or NativeLoop(net, loop.theta.parameters(), rates, loop.steps, loop.order, tasks_at_once)


def _obstacle_in_call(net: ConvNet, theta: Theta, episodes: Episodes) -> str | None:
    found = _obstacle_in_modes() or _obstacle_in_episodes(episodes)
    return found or net.obstacle(theta.parameters(), episodes.x_spt)  # x_qry is like it


def _rates(theta: Theta, net: ConvNet) -> list[Rate] | str:
    """Every parameter's rate, in the net's order, 0 for those that do not adapt, or what is in the way.

    Where filters stay as they are, most of what the native loop does would be for nothing.
    """
    still = [block.weight for block in net.blocks if block.weight not in theta.adapted]
    if still:
        return f"{still[0]} does not adapt"
    for name, rate in theta.rates.items():
        parameter = theta.adapted[name]
        if isinstance(rate, Tensor) and (rate.dtype, rate.device) != (parameter.dtype, parameter.device):
            return f"the inner learning rate of {name} is {rate.dtype} on {rate.device}"
    return [theta.rates.get(name, 0.0) for name in net.names()]


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
