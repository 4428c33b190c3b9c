"""A network made of a list of layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maml_fast._arguments import flag, int_from, many, optional, takes, tensor
from maml_fast.compat.dragen1860._layers import BATCH_NORM, RUN, SIZES, Config, check_config

__all__ = ["Learner"]


class Learner(nn.Module):
    """The network that a config describes, with the original's parameters, initial values and state dict.

    ``parameters()`` and ``vars`` are the weights and biases as a list, and ``net(x, vars=fast_weights)`` runs with
    others. ``vars_bn`` are the running statistics of batch norm.

    Args:
        config: the layers in order, each with its options, such as ``("conv2d", [64, 1, 3, 3, 2, 0])``: output and
            input channels, height and width of the kernel, stride, padding.
        imgc: channels of the images; not used, as in the original.
        imgsz: pixels per side; not used, as in the original.

    Raises:
        TypeError, ValueError: ``config`` is not a list of pairs, or names an unknown layer or too few options.
    """

    @takes(config=check_config, imgc=int_from(1), imgsz=int_from(1))
    def __init__(self, config: Config, imgc: int, imgsz: int) -> None:
        super().__init__()
        self.config = config
        self.vars = nn.ParameterList()
        self.vars_bn = nn.ParameterList()
        for kind, options in config:
            if kind not in SIZES:
                continue
            shape, length = SIZES[kind](options)
            weight = nn.Parameter(torch.ones(*shape))
            if kind == BATCH_NORM:
                statistics = torch.zeros(length), torch.ones(length)
                self.vars_bn.extend(nn.Parameter(each, requires_grad=False) for each in statistics)
            else:
                nn.init.kaiming_normal_(weight)
            self.vars.extend([weight, nn.Parameter(torch.zeros(length))])

    @takes(x=tensor, vars=optional(many(tensor)), bn_training=flag)
    def forward(self, x: Tensor, vars: Sequence[Tensor] | None = None, bn_training: bool = True) -> Tensor:
        """Return the logits of images [N, C, H, W].

        Args:
            x: the images.
            vars: the parameters to run with; ``self.vars`` if None.
            bn_training: whether batch norm uses the statistics of the batch, and updates the running ones, instead of
                using the running ones.

        Raises:
            TypeError: an argument has the wrong type, or the images are not floating point.
            ValueError: the number of ``vars`` is not that of the parameters.
        """
        if not x.is_floating_point():
            raise TypeError(f"x must be floating point, got {x.dtype}; use x.float()")
        parameters = list(self.vars if vars is None else vars)
        if len(parameters) != len(self.vars):
            raise ValueError(f"vars must hold {len(self.vars)} tensors, as parameters() does, got {len(parameters)}")
        of_layers, statistics = iter(parameters), iter(self.vars_bn)
        for kind, options in self.config:
            own = [next(of_layers), next(of_layers)] if kind in SIZES else []
            if kind == BATCH_NORM:
                x = F.batch_norm(x, next(statistics), next(statistics), own[0], own[1], training=bn_training)
            else:
                x = RUN[kind](x, own, options)
        return x

    def parameters(self, recurse: bool = True) -> nn.ParameterList:  # type: ignore[override]
        """The weights and biases in order, without running statistics."""
        return self.vars

    def zero_grad(self, vars: Iterable[Tensor] | None = None) -> None:  # type: ignore[override]
        """Set the gradients of ``vars``, or of all parameters, to zero."""
        for each in self.vars if vars is None else vars:
            if each.grad is not None:
                each.grad.zero_()

    def extra_repr(self) -> str:
        """Return the config, a layer a line."""
        return "\n".join(f"{kind}: {tuple(options)}" for kind, options in self.config)
