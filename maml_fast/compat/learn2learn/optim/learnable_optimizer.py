"""An optimizer that learns how it changes gradients, by the loss after its step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from maml_fast._arguments import function, nn_module, number, takes, tensor_or
from maml_fast.compat.learn2learn.utils import update_module

__all__ = ["LearnableOptimizer"]


class LearnableOptimizer(nn.Module):
    """Updates a model by transformed gradients, so that the next ``backward()`` also reaches the transforms.

    ``parameters()`` are those of the transforms; give them to an optimizer of PyTorch, and call its ``step()`` before
    this one's. The model's parameters become functions of the transforms, which are leaves no longer.

    Args:
        model: the module to train, changed in place.
        transform: called with each parameter of the model; returns a module that makes an update of its gradient.
        lr: the learning rate by which updates are multiplied.

    Source: Baydin et al. 2017, Online Learning Rate Adaptation with Hypergradient Descent.
    """

    @takes(model=nn_module, lr=tensor_or(number()))
    def __init__(self, model: nn.Module, transform: Callable[[Tensor], nn.Module], lr: float | Tensor = 1.0) -> None:
        super().__init__()
        if not callable(transform):
            function("a function or class")("transform", transform)
        self.info = {"model": model}  # in a dict, so that it is not a submodule
        self.transforms = nn.ModuleList(transform(parameter) for parameter in model.parameters())
        self.lr = lr

    def step(self, closure: Any = None) -> None:
        """Update the model by the gradients of its parameters; parameters without one stay as they are."""
        model = self.info["model"]
        for parameter, transform in zip(model.parameters(), self.transforms, strict=True):
            gradient = _gradient(parameter)
            if gradient is not None:
                update = -self.lr * transform(gradient.detach())
                parameter.detach_().requires_grad_(False)
                parameter.update = update  # type: ignore[attr-defined]
        update_module(model)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.retain_grad()

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Set the gradients of the model's parameters to zeros; those of the transforms stay."""
        for parameter in self.info["model"].parameters():
            if _gradient(parameter) is not None:
                parameter.grad = torch.zeros_like(parameter.data)  # a new tensor: a graph may hold the old one


def _gradient(parameter: Tensor) -> Tensor | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of reading it from a tensor that is no leaf
        return parameter.grad
