"""Independent ways to compute what maml_fast computes: slow, plain, and without a line of it.

They are the benchmarks' peers; networks are functions of a list of parameters, in the order in which the module under
test lists them.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from peers.inner_loop import Problem
from peers.loop import loop_loss
from peers.nets import TUTORIAL, ConvNet, Parameters, elementary_batch_norm
from peers.tutorial import Tutorial
from peers.vmap import vmap_loss
from torch import Tensor
from torch.func import functional_call

__all__ = [
    "TUTORIAL",
    "ConvNet",
    "Problem",
    "Tutorial",
    "assert_follows_loop",
    "elementary_batch_norm",
    "loop_loss",
    "mlp",
    "module_loop_loss",
    "vmap_loss",
]


def mlp(parameters: Parameters, x: Tensor) -> Tensor:
    x = x.flatten(1)
    for i in range(0, len(parameters) - 2, 2):
        x = F.relu(F.linear(x, parameters[i], parameters[i + 1]))
    return F.linear(x, *parameters[-2:])


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
