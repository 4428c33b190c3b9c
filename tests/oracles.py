"""Independent ways to compute what maml_fast computes: slow, plain, and without a line of it.

Networks are functions of a list of parameters, in the order in which the module under test lists them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

Parameters = Sequence[Tensor]
Network = Callable[[Parameters, Tensor], Tensor]


def library_batch_norm(y, gamma, beta, eps):
    if gamma is None:
        gamma = torch.ones_like(beta)  # PyTorch's double backward fails on a shift without a scale
    return F.batch_norm(y, None, None, gamma, beta, training=True, eps=eps)


def elementary_batch_norm(y, gamma, beta, eps):
    mean = y.mean(dim=(0, 2, 3), keepdim=True)
    variance = y.var(dim=(0, 2, 3), unbiased=False, keepdim=True)
    z = (y - mean) / (variance + eps).sqrt()
    if gamma is not None:
        z = z * gamma.reshape(1, -1, 1, 1)
    return z + beta.reshape(1, -1, 1, 1)


@dataclass(frozen=True)
class ConvNet:
    """Blocks of layers, each named in order, then a linear classifier on the flattened or averaged features."""

    blocks: tuple[tuple[str, ...], ...]
    stride: int = 1
    padding: int = 1
    gamma: bool = True
    eps: float = 1e-5
    average: bool = False
    batch_norm: Callable = library_batch_norm

    def __call__(self, parameters: Parameters, x: Tensor) -> Tensor:
        left = list(parameters)
        for layer in (layer for block in self.blocks for layer in block):
            if layer == "conv":
                x = F.conv2d(x, left.pop(0), left.pop(0), stride=self.stride, padding=self.padding)
            elif layer == "norm":
                gamma = left.pop(0) if self.gamma else None
                x = self.batch_norm(x, gamma, left.pop(0), self.eps)
            elif layer == "relu":
                x = F.relu(x)
            elif layer == "pool":
                x = F.max_pool2d(x, 2)
        weight, bias = left
        return F.linear(x.mean(dim=(2, 3)) if self.average else x.flatten(1), weight, bias)


def mlp(parameters: Parameters, x: Tensor) -> Tensor:
    x = x.flatten(1)
    for i in range(0, len(parameters) - 2, 2):
        x = F.relu(F.linear(x, parameters[i], parameters[i + 1]))
    return F.linear(x, *parameters[-2:])


TUTORIAL = ConvNet((("conv", "norm", "pool", "relu"),) * 3 + (("conv", "relu", "norm", "pool"),), stride=2, padding=2)


@dataclass(frozen=True)
class Problem:
    """The inner loop that the oracles run: which parameters adapt (by position), how fast, how often."""

    network: Network
    steps: int
    order: int
    adapted: Sequence[int]
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy


def loop_loss(problem: Problem, parameters: Parameters, rates: Sequence, episodes) -> Tensor:
    """Mean query loss after adaptation: one task after another, plain autograd."""
    total = 0.0
    for x_spt, y_spt, x_qry, y_qry in zip(*episodes, strict=True):
        weights = list(parameters)
        for _ in range(problem.steps):
            loss = problem.loss(problem.network(weights, x_spt), y_spt)
            own = [weights[i] for i in problem.adapted]
            gradients = torch.autograd.grad(loss, own, create_graph=problem.order == 2, retain_graph=True)
            for i, rate, gradient in zip(problem.adapted, rates, gradients, strict=True):
                weights[i] = weights[i] - rate * gradient
        total = total + problem.loss(problem.network(weights, x_qry), y_qry)
    return total / len(episodes[0])


def vmap_loss(problem: Problem, parameters: Parameters, rates: Sequence, episodes) -> Tensor:
    """The same by functional transforms: ``torch.func.grad`` inside ``torch.func.vmap``."""

    def task(x_spt, y_spt, x_qry, y_qry):
        weights = list(parameters)

        def support_loss(own):
            placed = list(weights)
            for i, weight in zip(problem.adapted, own, strict=True):
                placed[i] = weight
            return problem.loss(problem.network(placed, x_spt), y_spt)

        for _ in range(problem.steps):
            gradients = grad(support_loss)([weights[i] for i in problem.adapted])
            for i, rate, gradient in zip(problem.adapted, rates, gradients, strict=True):
                weights[i] = weights[i] - rate * (gradient if problem.order == 2 else gradient.detach())
        return problem.loss(problem.network(weights, x_qry), y_qry)

    return vmap(task)(*episodes).mean()


def module_loop_loss(model, episodes, inner_lr, steps, loss=F.cross_entropy, order=2) -> tuple[Tensor, list[Tensor]]:
    """The meta-loss of any module and its gradient by parameter, one task after another, by batch statistics."""
    model = torch.func.replace_all_batch_norm_modules_(copy.deepcopy(model)).train()
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    total = 0.0
    for x_spt, y_spt, x_qry, y_qry in zip(*episodes, strict=True):
        weights = dict(parameters)
        for _ in range(steps):
            value = loss(functional_call(model, weights, (x_spt,)), y_spt)
            gradients = torch.autograd.grad(
                value, list(weights.values()), create_graph=order == 2, allow_unused=True, materialize_grads=True
            )
            weights = {name: w - inner_lr * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
        total = total + loss(functional_call(model, weights, (x_qry,)), y_qry)
    mean = total / len(episodes[0])
    return mean.detach(), torch.autograd.grad(
        mean, list(parameters.values()), allow_unused=True, materialize_grads=True
    )


def assert_follows_loop(model, maml, episodes, loss=F.cross_entropy):
    """Raise unless ``maml`` over ``model`` has the loss and the meta-gradient of the loop over tasks."""
    expected, theirs = module_loop_loss(model, episodes, maml.inner_lr, maml.inner_steps, loss, maml.order)
    value = maml(episodes).loss
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ours = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(value.detach(), expected, rtol=1e-11, atol=1e-13)
    ours, theirs = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (ours, theirs))
    assert theirs.norm() > 0
    assert (ours - theirs).norm() <= 1e-9 * theirs.norm()


class Tutorial:
    """The tutorial's training system: first-order MAML, one task at a time, an Adam step on the last query loss."""

    def __init__(self, parameters: Parameters, base_lr=0.04, meta_lr=2e-4, update_step=5, update_step_test=5):
        self.parameters = [parameter.detach().clone().requires_grad_() for parameter in parameters]
        self.optimiser = torch.optim.Adam(self.parameters, lr=meta_lr)
        self.base_lr, self.update_step, self.update_step_test = base_lr, update_step, update_step_test

    def train(self, x_spt, y_spt, x_qry, y_qry):
        """One iteration; mean query accuracies and losses after 0, 1, ..., update_step inner steps."""
        n_tasks, n_queries = y_qry.shape
        correct, losses = np.zeros(self.update_step + 1), [0.0] * (self.update_step + 1)
        for task in zip(x_spt, y_spt, x_qry, y_qry, strict=True):
            for step, (right, loss) in enumerate(self._curve(*task, self.update_step)):
                correct[step] += right
                losses[step] = losses[step] + loss
        self.optimiser.zero_grad()
        (losses[-1] / n_tasks).backward()
        self.optimiser.step()
        return correct / (n_tasks * n_queries), np.array([float(loss.detach()) for loss in losses]) / n_tasks

    def test(self, x_spt, y_spt, x_qry, y_qry):
        """Query accuracies of one task after 0, 1, ..., update_step_test inner steps."""
        curve = self._curve(x_spt, y_spt, x_qry, y_qry, self.update_step_test)
        return np.array([right for right, _ in curve]) / len(y_qry)

    def _curve(self, x_spt, y_spt, x_qry, y_qry, steps):
        weights = self.parameters
        for step in range(steps + 1):
            logits = TUTORIAL(weights, x_qry)
            yield int((logits.argmax(dim=1) == y_qry).sum()), F.cross_entropy(logits, y_qry)
            if step < steps:
                gradients = torch.autograd.grad(F.cross_entropy(TUTORIAL(weights, x_spt), y_spt), weights)
                weights = [w - self.base_lr * g for w, g in zip(weights, gradients, strict=True)]
